"""How many partitions a topic had when its oldest records were written shows in where their keys lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.log.codec import encode_key
from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.records import Record
from mind_dist.training.topic_growth import Stage, counts_explaining, stages_explaining

HASHES = [key_hash(encode_key(user)) for user in range(400)]


def samples(*counts: int) -> dict[int, list[int]]:
    """Return the oldest keys of a topic that had these numbers of partitions, one after the other."""
    found: dict[int, list[int]] = {}
    for count in counts:
        new = range(len(found), count)
        found |= {p: [h for h in HASHES if home_partition(h, count) == p] for p in new}
    return found


@given(st.lists(st.integers(1, 24), min_size=1, max_size=4, unique=True).map(sorted))
def test_every_earlier_number_of_partitions_is_found(counts: list[int]) -> None:
    assert counts_explaining(samples(*counts), 0, counts[-1]) == counts[:-1]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_keys_that_another_partitioner_placed_tell_nothing(count: int) -> None:
    others: dict[int, list[int]] = {partition: [] for partition in range(count)}
    for user, hash_of_key in enumerate(HASHES):
        others[(user * 7 + 3) % count].append(hash_of_key)
    assert counts_explaining(others, 0, count) == []


def test_a_few_keys_are_no_proof() -> None:
    few = {partition: found[:1] for partition, found in samples(4, 6).items()}
    assert counts_explaining(few, 0, 6) == []


def test_empty_partitions_are_explained_by_any_number() -> None:
    assert counts_explaining({partition: [] for partition in range(5)}, 0, 5) == []
    assert counts_explaining(samples(4) | {4: []}, 0, 5) == [4]


def test_keys_that_lie_where_they_do_since_the_growth_hide_nothing() -> None:
    before, after = samples(4), samples(6)
    grown = {p: before[p][:20] + after[p] for p in range(4)} | {p: after[p] for p in (4, 5)}
    assert counts_explaining(grown, 0, 6) == [4]


def records(*counts: int, first: int = 0) -> dict[int, list[Record]]:
    """Return the oldest records of partitions, each appended a minute after those of partitions before it."""
    found: dict[int, list[Record]] = {}
    for age, (start, end) in enumerate(zip([0, *counts], counts, strict=False)):
        for partition in range(start, end):
            keys = [k for k in map(encode_key, range(400)) if home_partition(key_hash(k), end) == partition]
            found[partition] = [Record(partition, at, key, b"", 60_000 * (age + 1)) for at, key in enumerate(keys)]
    return {partition: oldest for partition, oldest in found.items() if partition >= first}


def test_a_stage_leaves_what_was_appended_when_the_topic_had_grown_twice_since() -> None:
    assert stages_explaining(records(4, 5, 8, 9), 0, 9) == [Stage(4, 179_000), Stage(5, 239_000), Stage(8), Stage(9)]
    assert stages_explaining(records(4, 5, 8, first=4), 4, 8) == [Stage(4, 179_000), Stage(5), Stage(8)]
    assert stages_explaining(records(4, 8, first=4), 4, 8) == [Stage(4), Stage(8)]
    assert stages_explaining(records(6), 0, 6) == [Stage(6)]
