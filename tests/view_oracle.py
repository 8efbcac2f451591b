"""What the rows of a model version must be, told by all records of the log and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from mind_dist.index.vector_store import UserRow
from mind_dist.records import Record
from mind_dist.states.record import UserState
from mind_dist.views.reading import Reading
from mind_dist.views.view import Encoder
from tests.state_worlds import FEATURES, Oracle, told_by

Rows = dict[int, tuple[object, ...]]
"""User → all of the row."""


def expected_rows(events: Sequence[Record], states: Sequence[Record], encoder: Encoder, max_history: int) -> Rows:
    """Return the rows that the events give; where each one's state stands is looked up in the log of states."""
    return rows_of(told_by(events, max_history), states, encoder)


def rows_of(oracle: Oracle, states: Sequence[Record], encoder: Encoder) -> Rows:
    """Return the rows that what an oracle says gives."""
    told = oracle.states
    by_key = {(record.key or b"").decode(): record for record in states}
    newest = {int(key): record for key, record in by_key.items() if key.lstrip("-").isdigit()}
    assert told.keys() == {key for key, record in newest.items() if record.value}
    reading = Reading.of(encoder.manifest, encoder.config, encoder.max_behaviors, FEATURES.behavior)
    rows = []
    for key, (history, profile) in told.items():
        sequence = reading.sequence(UserState(history, profile))
        [interests] = encoder.encode([sequence])
        row = UserRow(
            key,
            interests.vectors,
            interests.weights,
            sequence.item_keys,
            sequence.timestamps_ms,
            sequence.profile_keys,
            newest[key].partition,
            newest[key].offset,
            model_version=encoder.manifest.model_version,
            behavior_keys=sequence.behavior_keys,
        )
        rows.append(row)
    return {row.user_key: bits(row) for row in rows}


def bits(row: UserRow) -> tuple[object, ...]:
    """Return all of a row to the last bit, but for when it was made."""
    arrays = (row.interests, row.weights, row.behaviors, row.timestamps_ms, row.profile, row.behavior_keys)
    parts = [(array.dtype.str, array.shape[0] if array.size else 0, array.tobytes()) for array in arrays]
    return (*parts, row.partition, row.state_offset, row.model_version)
