"""The slow, obvious twin of preparing: ComiRec's filter and split over a list of rows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

Row = tuple[int, int, int]
"""User, item, time."""

Users = dict[int, list[tuple[int, int]]]
"""User → (time, item) in order."""


def newest(rows: Sequence[Row], max_user_events: int) -> list[Row]:
    """Return the rows without those of users that are older than their newest ones; of equal times the later is newer."""
    kept = []
    for user in {user for user, _, _ in rows}:
        places = [place for place, row in enumerate(rows) if row[0] == user]
        places.sort(key=lambda place: (rows[place][2], place))
        kept += places[-max_user_events:] if max_user_events else places
    return [rows[place] for place in sorted(kept)]


def filtered(rows: Sequence[Row], min_item_events: int, min_user_events: int, max_user_events: int = 0) -> Users:
    """Return the histories of kept users, in the order in which the log first names them."""
    users = dict.fromkeys(user for user, _, _ in rows)
    rows = list(dict.fromkeys(rows))  # of duplicates the first stays
    rows = newest(rows, max_user_events)
    item_counts = Counter(item for _, item, _ in rows)
    histories: Users = {user: [] for user in users}
    for user, item, time in rows:
        history = histories[user]
        if item_counts[item] >= min_item_events:
            history.append((time, item))
    for history in histories.values():
        history.sort(key=lambda behavior: behavior[0])
    return {user: history for user, history in histories.items() if len(history) >= min_user_events}


def split_by_user(users: Users, seed: int = 1230) -> dict[str, Users]:
    order = list(users)
    random.seed(seed)
    random.shuffle(order)
    first, second = int(len(order) * 0.8), int(len(order) * 0.9)
    parts = {"train": order[:first], "valid": order[first:second], "test": order[second:]}
    return {split: {user: users[user] for user in names} for split, names in parts.items()}


def leave_one_out(users: Users) -> dict[str, Users]:
    parts: dict[str, Users] = {"train": {}, "valid": {}, "test": {}}
    for user, history in users.items():
        if len(history) < 3:
            parts["train"][user] = history
        else:
            parts["train"][user], parts["valid"][user], parts["test"][user] = history[:-2], history[:-1], history
    return parts


def split_by_time(users: Users, train_before: int, valid_before: int) -> dict[str, Users]:
    parts: dict[str, Users] = {"train": {}, "valid": {}, "test": {}}
    for user, history in users.items():
        train = [behavior for behavior in history if behavior[0] < train_before]
        valid = [behavior for behavior in history if behavior[0] < valid_before]
        if train:
            parts["train"][user] = train
        if train and len(valid) > len(train):
            parts["valid"][user] = valid
        if valid and len(history) > len(valid):
            parts["test"][user] = history
    return parts
