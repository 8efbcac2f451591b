"""How many partitions a topic had when its oldest records were written shows in where their keys lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.data.codec import encode_key
from mind_dist.data.partitioner import home_partition, key_hash
from mind_dist.training.topic_growth import counts_explaining

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
    assert counts_explaining(samples(*counts), counts[-1]) == counts[:-1]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_keys_that_another_partitioner_placed_tell_nothing(count: int) -> None:
    others: dict[int, list[int]] = {partition: [] for partition in range(count)}
    for user, hash_of_key in enumerate(HASHES):
        others[(user * 7 + 3) % count].append(hash_of_key)
    assert counts_explaining(others, count) == []


def test_a_few_keys_are_no_proof() -> None:
    few = {partition: found[:1] for partition, found in samples(4, 6).items()}
    assert counts_explaining(few, 6) == []


def test_empty_partitions_are_explained_by_any_number() -> None:
    assert counts_explaining({partition: [] for partition in range(5)}, 5) == []
    assert counts_explaining(samples(4) | {4: []}, 5) == [4]


def test_keys_that_lie_where_they_do_since_the_growth_hide_nothing() -> None:
    before, after = samples(4), samples(6)
    grown = {p: before[p][:20] + after[p] for p in range(4)} | {p: after[p] for p in (4, 5)}
    assert counts_explaining(grown, 6) == [4]
