"""Events of a dataset or a raw log → what is known of each user, as a history record tells it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.dataset.replay import Part, dataset_histories, rows
from mind_dist.keys import id_key


class KnownUser(NamedTuple):
    """What is known of a user.

    Attributes:
        user_id: The outside id.
        behaviors: Item id, time, event type and, where there is any, context of each behavior, in order.
        profile: Raw values by name; None where nothing is told.
    """

    user_id: int | str
    behaviors: list[list[Any]]
    profile: Mapping[str, Any] | None = None


def users_of_dataset(dataset: PreparedDataset, part: Part, max_behaviors: int) -> Iterator[KnownUser]:
    """Yield the users of a prepared dataset, each once, with the newest of their behaviors and their profiles.

    Raises:
        DatasetError: A file is missing or torn.
    """
    profiles = dataset.raw_profiles()
    for events in dataset_histories(dataset, part):
        for user in users_of_events(events, max_behaviors):
            key = id_key(user.user_id, dataset.manifest.id_type)
            yield user._replace(profile=profiles.get(key))


def users_of_events(events: pa.Table, max_behaviors: int) -> Iterator[KnownUser]:
    """Yield the users of some events (`mind_dist.dataset.replay`), with the newest of each, in the order they stand in."""
    codes = events["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    by_user = events.take(pa.array(np.argsort(codes, kind="stable")))
    for user_id, of_user in groupby(rows(by_user), key=itemgetter(0)):
        behaviors = [[item, time, kind, *([context] if context else [])] for _, item, time, kind, context in of_user]
        yield KnownUser(user_id, behaviors[-max_behaviors:])
