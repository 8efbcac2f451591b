import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.records import BehaviorSequence, Event

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
def test_a_sequence_keeps_the_newest_in_time_order(log: list[Event], max_behaviors: int) -> None:
    merged = BehaviorSequence(1).merge(log, max_behaviors)
    times = sorted({(e.timestamp_ms, e.item_key) for e in log}, key=lambda behavior: behavior[0])
    assert merged.timestamps_ms.tolist() == [time for time, _ in times[-max_behaviors:]]


def test_slices_carry_the_user_and_profile() -> None:
    sequence = BehaviorSequence(9, np.arange(5), np.arange(5), np.array([3, 4]))
    last = sequence.last(2)
    assert (last.user_key, last.item_keys.tolist(), last.profile_keys.tolist()) == (9, [3, 4], [3, 4])
    assert len(sequence.last(10)) == 5
