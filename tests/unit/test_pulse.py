"""A rank that hangs is told from those that wait for it, whatever it hangs in."""

from __future__ import annotations

import time

import pytest

from mind_dist.training.pulse import AWAITED_S, SILENT_S, STUCK_S, Activity, Pulse, Pulses, pulse_of
from mind_dist.training.run_monitor import RunMonitor


def sign(rank: int, collectives: int = 10, waiting_s: float = 0.0, group: str = "first", step: int = 41) -> Pulse:
    return Pulse(group, rank, 2, f"process {rank}", step, collectives, waiting_s)


def heard(*signs: tuple[Pulse, float]) -> Pulses:
    pulses = Pulses()
    for pulse, at_s in signs:
        pulses.hear(pulse, at_s)
    return pulses


def test_a_rank_of_which_nothing_is_heard_is_named_with_its_step() -> None:
    pulses = heard((sign(0), 0.0), (sign(1), 0.0), (sign(0), SILENT_S))
    assert pulses.hang(SILENT_S) is None
    assert str(pulses.hang(SILENT_S + 1)) == (
        f"worker 1 of 2 (process 1) hangs at step 41: nothing was heard of it for {SILENT_S + 1:.0f} s"
    )


def test_a_rank_that_does_not_come_to_the_collective_in_which_the_others_wait_is_named() -> None:
    pulses = heard((sign(0, collectives=11, waiting_s=STUCK_S - 1), 100.0), (sign(1), 100.0))
    assert pulses.hang(100.0) is None
    pulses.hear(sign(0, collectives=11, waiting_s=STUCK_S + 1), 102.0)
    assert str(pulses.hang(103.0)) == (
        "worker 1 of 2 (process 1) hangs at step 41: the others have waited for it in a collective for 62 s"
    )


def test_when_a_group_has_failed_the_rank_that_was_waited_for_is_named_but_not_one_that_was_killed() -> None:
    waited = heard((sign(0, collectives=11, waiting_s=AWAITED_S), 100.0), (sign(1), 100.0))
    assert str(waited.why(101.0, [])).startswith("worker 1 of 2 (process 1) hangs at step 41: the others have waited")
    killed = heard((sign(1, collectives=5), 99.0), (sign(0, collectives=9, waiting_s=0.4), 100.0))
    assert killed.why(101.0, []) is None
    unheard = heard((sign(0), 100.0))
    assert unheard.why(101.0, [1]) is None


def test_ranks_that_wait_in_the_same_collective_or_come_to_it_in_time_hang_none() -> None:
    both = heard((sign(0, waiting_s=2 * STUCK_S), 0.0), (sign(1, waiting_s=2 * STUCK_S), 0.0))
    assert both.hang(1.0) is None
    ahead = heard((sign(0, collectives=12), 0.0), (sign(1, collectives=10), 0.0))
    assert ahead.hang(1.0) is None


def test_a_group_that_has_ended_hangs_not_and_the_next_one_begins_anew() -> None:
    pulses = heard((sign(0), 0.0), (sign(1), 0.0))
    assert pulses.hang(10 * SILENT_S) is None
    pulses.hear(sign(0, group="next"), 10 * SILENT_S)
    assert pulses.hang(10 * SILENT_S) is None


def test_the_monitor_tells_once_why_a_group_has_failed_and_names_the_one_that_ray_says_is_silent() -> None:
    monitor = RunMonitor()
    for rank in (0, 1):
        monitor.hear(sign(rank))
    errors = {0: "RuntimeError: closed", 1: "WorkerHealthCheckTimeoutError: hangs"}
    monitor.fail((1,), errors)
    monitor.fail((1,), errors)
    monitor.hear(sign(0, group="next"))
    monitor.fail((), {1: "ActorDiedError: died"})
    first, second = monitor.state().failures
    assert first == "worker 1 of 2 (process 1) hangs at step 41: nothing was heard of it for 0 s"
    assert second == "worker 1: ActorDiedError: died"


@pytest.mark.parametrize("in_collective", [False, True])
def test_a_rank_tells_what_it_is_at_while_its_training_thread_is_busy(
    in_collective: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mind_dist.training.pulse._EVERY_S", 0.01)
    told: list[Pulse] = []
    activity = Activity(step=7)

    def wait_for_two() -> None:
        while len(told) < 2:
            time.sleep(0.01)

    with pulse_of(activity, "group", 0, 2, told.append):
        if in_collective:
            with activity.collective():
                wait_for_two()
        else:
            wait_for_two()
    num_told = len(told)
    time.sleep(0.05)
    assert len(told) == num_told, "it has ended"
    assert (told[-1].step, told[-1].collectives) == (7, int(in_collective))
    assert (told[1].waiting_s > 0) == in_collective
