import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.records import MAX_TIES, BehaviorSequence, Event
from tests.one_order import expected

events = st.lists(st.builds(Event, st.just(1), st.integers(0, 5), st.integers(0, 8)), max_size=20)


@given(events, st.integers(1, 6))
def test_merging_the_same_events_again_changes_nothing(log: list[Event], max_behaviors: int) -> None:
    once = BehaviorSequence(1).merge(log, max_behaviors)
    assert (
        once.merge(log, max_behaviors) is once
        or once.merge(log, max_behaviors).item_keys.tolist() == once.item_keys.tolist()
    )


@given(events, st.integers(0, 20), st.integers(1, 6))
def test_batches_cut_anywhere_give_the_same_sequence(log: list[Event], cut: int, max_behaviors: int) -> None:
    whole = BehaviorSequence(1).merge(log, max_behaviors)
    parts = BehaviorSequence(1).merge(log[:cut], max_behaviors).merge(log[cut:], max_behaviors)
    assert parts.item_keys.tolist() == whole.item_keys.tolist()
    assert parts.timestamps_ms.tolist() == whole.timestamps_ms.tolist()


@given(events, st.integers(1, 6))
def test_a_sequence_keeps_the_newest_in_the_order_of_time_and_arrival(log: list[Event], max_behaviors: int) -> None:
    merged = BehaviorSequence(1).merge(log, max_behaviors)
    truth = expected([(1, event.item_key, event.timestamp_ms, "click") for event in log], max_behaviors)
    found = zip(merged.item_keys.tolist(), merged.timestamps_ms.tolist(), strict=True)
    assert list(found) == [behavior[:2] for behavior in truth.get(1, [])]
    assert merged.newest(max_behaviors) is merged


@given(events, st.integers(1, 6))
def test_one_event_after_the_other_gives_what_merging_them_does(log: list[Event], max_behaviors: int) -> None:
    one_by_one = merged = BehaviorSequence(1, profile_keys=np.array([3]))
    for event in log:
        after, one_by_one = one_by_one, one_by_one.followed_by(event, max_behaviors)
        merged = merged.merge([event], max_behaviors)
        assert one_by_one.item_keys.tolist() == merged.item_keys.tolist()
        assert one_by_one.timestamps_ms.tolist() == merged.timestamps_ms.tolist()
        assert (one_by_one is after) == (after.merge([event], max_behaviors) is after), "a duplicate changes nothing"
    assert one_by_one.profile_keys.tolist() == [3]


def test_a_repeat_of_what_a_full_history_has_at_its_oldest_time_is_no_new_event() -> None:
    basket = [Event(1, item, 7) for item in (3, 1, 2)]
    full = BehaviorSequence(1).merge(basket, max_behaviors=2)
    assert full.item_keys.tolist() == [3, 1, 2]
    assert full.merge(basket, 2) is full
    assert full.merge([Event(1, 9, 6)], 2) is full
    assert full.merge([Event(1, 4, 7)], 2).item_keys.tolist() == [3, 1, 2, 4]
    assert full.merge([Event(1, 3, 8)], 2).item_keys.tolist() == [3, 1, 2, 3]
    assert full.merge([Event(1, 3, 8), Event(1, 5, 9)], 2).item_keys.tolist() == [3, 5]


def test_ties_beyond_the_newest_are_bounded() -> None:
    merged = BehaviorSequence(1).merge([Event(1, item, 7) for item in range(MAX_TIES + 9)], max_behaviors=2)
    assert merged.item_keys.tolist() == list(range(7, MAX_TIES + 9))


def test_slices_carry_the_user_and_profile() -> None:
    sequence = BehaviorSequence(9, np.arange(5), np.arange(5), np.array([3, 4]))
    last = sequence.last(2)
    assert (last.user_key, last.item_keys.tolist(), last.profile_keys.tolist()) == (9, [3, 4], [3, 4])
    assert len(sequence.last(10)) == 5
