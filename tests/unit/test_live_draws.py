"""An index of keys and draws that follow changing counts, beside the obvious ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mind_dist.records import Keys
from mind_dist.training import live_draws
from mind_dist.training.draws import DrawLaw, ItemDraws
from mind_dist.training.key_index import KeyIndex
from mind_dist.training.live_draws import LiveDraws


def keys(*values: int) -> Keys:
    return np.array(values, dtype=np.int64)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), unique=True, max_size=40), max_size=8))
def test_an_index_finds_what_a_dictionary_does(rounds: list[list[int]]) -> None:
    index, expected = KeyIndex(), dict[int, int]()
    for each in rounds:
        fresh = [key for key in each if key not in expected]
        index.add(keys(*fresh))
        expected.update({key: len(expected) + place for place, key in enumerate(fresh)})
        asked = [*expected, *(key ^ 1 for key in expected)]
        assert index.find(keys(*asked)).tolist() == [expected.get(key, -1) for key in asked]
        assert index.ascending.tolist() == sorted(expected)


def test_an_index_that_grows_keeps_all_and_finds_them_again() -> None:
    draw, index = np.random.default_rng(0), KeyIndex()
    everything = np.unique(draw.integers(-(1 << 63), (1 << 63) - 1, 50_000))
    shuffled = draw.permutation(everything)
    for part in np.array_split(shuffled, 7):
        index.add(part)
    np.testing.assert_array_equal(index.find(shuffled), np.arange(len(shuffled)))
    np.testing.assert_array_equal(index.keys, shuffled)
    assert (index.find(everything + 1)[~np.isin(everything + 1, everything)] == -1).all()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few items have many buckets, and settle often."""
    monkeypatch.setattr(live_draws, "_PER_BUCKET", 3)
    monkeypatch.setattr(live_draws, "_MOST_PENDING", 40)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_drawn_follows_from_the_counts_and_not_from_what_came_when(power: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    followed = LiveDraws(DrawLaw(power=power), keys(), keys())
    counts = dict[int, int]()
    for _ in range(60):
        seen = np.unique(draw.integers(-300, 300, draw.integers(1, 12)))
        for key in seen.tolist():
            counts[key] = counts.get(key, 0) + int(draw.integers(1, 4))
        followed.update(seen, keys(*(counts[key] for key in seen.tolist())))
        fresh = LiveDraws(DrawLaw(power=power), keys(*sorted(counts)), keys(*(counts[key] for key in sorted(counts))))
        drawn = [each.sample(200, np.random.default_rng(seed)) for each in (followed, fresh)]
        np.testing.assert_array_equal(drawn[0], drawn[1])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_items_are_drawn_by_their_shares(power: float) -> None:
    items, counts = np.arange(100), np.arange(100) % 7 + 1
    law = DrawLaw(power=power)
    live = LiveDraws(law, items[:70], counts[:70])
    live.update(items[60:], counts[60:])
    expected = ItemDraws(items, counts, law).shares(np.arange(-1, 101))
    np.testing.assert_allclose(live.shares(np.arange(-1, 101)), expected, rtol=1e-5)
    num_draws = 200_000
    drawn = np.bincount(live.sample(num_draws, np.random.default_rng(0)), minlength=100)
    shares = expected[1:-1]
    assert (np.abs(drawn - num_draws * shares) < 5 * np.sqrt(num_draws * shares)).all()


def test_nothing_is_drawn_from_nothing() -> None:
    live = LiveDraws(DrawLaw(), keys(), keys())
    assert not len(live.sample(5, np.random.default_rng(0)))
    assert live.shares(keys(1)).tolist() == [0]
