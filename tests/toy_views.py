"""Users in an index without a service: what views would have written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mind_dist.index.vector_store import UserRow, VectorStore
from mind_dist.records import BehaviorSequence


def fill_users(store: VectorStore, encoder: Any, model_version: str, sequences: Iterable[BehaviorSequence]) -> None:
    """Write the rows of some users as a version's encoder gives them."""
    known = [sequence.newest(encoder.max_behaviors) for sequence in sequences]
    rows = [
        UserRow(
            sequence.user_key,
            interests.vectors,
            interests.weights,
            sequence.item_keys,
            sequence.timestamps_ms,
            sequence.profile_keys,
            updated_ms=1,
            model_version=model_version,
            behavior_keys=sequence.behavior_keys,
        )
        for sequence, interests in zip(known, encoder.encode(known), strict=True)
    ]
    store.upsert_users(model_version, rows)
