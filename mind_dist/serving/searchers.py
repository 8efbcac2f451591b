"""Requests → the interests they are searched with: users' rows read together, bare histories encoded together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mind_dist.encoder import InterestEncoder, UserInterests
from mind_dist.errors import InvalidRequest, PoisonEvent, UnknownUser
from mind_dist.index.vector_store import UserRow, VectorStore
from mind_dist.keys import Value, context_key, id_key, value_text
from mind_dist.records import BehaviorSequence, Keys, no_keys
from mind_dist.serving.requests import Id, RetrieveRequest

A = TypeVar("A")
B = TypeVar("B")

Refused = InvalidRequest | UnknownUser
"""Why one request of several has no answer."""


@dataclass(frozen=True)
class Searcher:
    """Who searches.

    Attributes:
        user: Their interests.
        seen: Items of their history.
        num_unknown: Behaviors of the request whose item the version does not know.
    """

    user: UserInterests
    seen: Keys
    num_unknown: int


@dataclass(frozen=True)
class _Asked:
    """A request, and the key of the user it names, if it names one."""

    request: RetrieveRequest
    user_key: int | None


@dataclass(frozen=True)
class _History:
    """A history that has to be encoded first."""

    sequence: BehaviorSequence
    seen: Keys
    num_unknown: int


class Several:
    """Requests that are answered together, by their places; one that is refused leaves the others alone.

    Attributes:
        refused: Place → why there is no answer.
    """

    def __init__(self) -> None:
        self.refused: dict[int, Refused] = {}

    def each(self, values: Mapping[int, A], make: Callable[[A], B]) -> dict[int, B]:
        """Return what is made of each value, but for those of which nothing can be made."""
        made: dict[int, B] = {}
        for place, value in values.items():
            try:
                made[place] = make(value)
            except (InvalidRequest, UnknownUser) as error:
                self.refused[place] = error
        return made


def searchers(
    store: VectorStore, encoder: InterestEncoder, requests: Mapping[int, RetrieveRequest], several: Several
) -> dict[int, Searcher]:
    """Return who searches for each request: one read of rows, one call of the encoder.

    Args:
        store: Where rows are.
        encoder: The version that answers.
        requests: Checked requests, by their places.
        several: Takes those that have no answer.
    """
    asked = several.each(requests, lambda request: _Asked(request, _user_key(encoder, request)))
    keys = sorted({each.user_key for each in asked.values() if each.user_key is not None})
    rows = _rows(store, encoder.model_version, keys, whole=any(each.request.context for each in asked.values()))
    found = several.each(asked, lambda each: _who(encoder, each, rows))
    histories = {place: who for place, who in found.items() if isinstance(who, _History)}
    users = encoder.encode([who.sequence for who in histories.values()]) if histories else []
    known = {place: who for place, who in found.items() if isinstance(who, Searcher)}
    for (place, who), user in zip(histories.items(), users, strict=True):
        known[place] = Searcher(user, who.seen, who.num_unknown)
    return known


def _rows(store: VectorStore, model_version: str, keys: Sequence[int], *, whole: bool) -> Mapping[int, UserRow]:
    """Return users' rows: whole ones where somebody is to be encoded anew, what a search needs otherwise."""
    if not keys:
        return {}
    return store.get_users(model_version, keys, strong=False) if whole else store.get_interests(model_version, keys)


def _who(encoder: InterestEncoder, asked: _Asked, rows: Mapping[int, UserRow]) -> Searcher | _History:
    request, key = asked.request, asked.user_key
    context_keys = _context_keys(encoder, request.context or {})
    if key is None:
        return _bare_history(encoder, request.behaviors or (), context_keys)
    return _known_user(encoder, row_of(encoder, request.user_id, rows.get(key)), request.user_id, context_keys)


def row_of(encoder: InterestEncoder, user_id: Id | None, row: UserRow | None) -> UserRow:
    """Return a user's row where there is one."""
    if row is None:
        raise UnknownUser(f"nothing is known about user {user_id}: send behaviors instead")
    assert row.model_version == encoder.model_version, "a row's interests fit the items of its own version alone"
    return row


def user_key(encoder: InterestEncoder, user_id: Id) -> int:
    """Return the key of an outside id.

    Raises:
        InvalidRequest: It is not of the deployment's type, or out of range.
    """
    try:
        return id_key(user_id, encoder.manifest.id_type)
    except PoisonEvent as error:
        raise InvalidRequest(f"user_id: {error}") from error


def _user_key(encoder: InterestEncoder, request: RetrieveRequest) -> int | None:
    return None if request.user_id is None else user_key(encoder, request.user_id)


def _known_user(encoder: InterestEncoder, row: UserRow, user_id: Id | None, context_keys: Keys) -> Searcher | _History:
    """Return a user with the interests of the row, or with a history to be encoded anew in a context."""
    if not len(row.interests):
        version = encoder.model_version
        raise UnknownUser(f"user {user_id} is there, but version {version} knows none of their items")
    if not len(context_keys):
        return Searcher(UserInterests(row.interests, row.weights), row.behaviors, 0)
    history = BehaviorSequence(
        row.user_key, row.behaviors, row.timestamps_ms, row.profile, row.behavior_keys, context_keys=context_keys
    )
    return _History(history, row.behaviors, 0)


def _bare_history(encoder: InterestEncoder, behaviors: Sequence[Id], context_keys: Keys) -> _History:
    """Return a bare history's known items, and the number of unknown ones."""
    try:
        keys = np.array([id_key(item_id, encoder.manifest.id_type) for item_id in behaviors], dtype=np.int64)
    except PoisonEvent as error:
        raise InvalidRequest(f"behaviors: an item id {error}") from error
    known = keys[encoder.knows(keys)]
    if not len(known):
        raise UnknownUser(f"version {encoder.model_version} knows none of the {len(keys)} behaviors")
    missing_profile = np.zeros(encoder.config.num_profile_features, dtype=np.int64)
    history = BehaviorSequence(0, known, np.arange(len(known)), missing_profile, context_keys=context_keys)
    return _History(history.last(encoder.max_behaviors), known, len(keys) - len(known))


def _context_keys(encoder: InterestEncoder, context: Mapping[str, Value]) -> Keys:
    """Return the keys of a context; none where nothing is told.

    Raises:
        InvalidRequest: The version knows no context of that name.
    """
    names = encoder.config.context_features
    if unknown := [name for name in context if name not in names]:
        known = f"it knows {', '.join(names)}" if names else "it was trained without any"
        raise InvalidRequest(f"context.{unknown[0]}: version {encoder.model_version} knows no such context; {known}")
    if not context:
        return no_keys()
    return np.array([context_key(name, value_text(context.get(name))) for name in names], dtype=np.int64)
