import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mind_dist.config import KafkaConfig
from mind_dist.errors import PoisonLimitExceeded, ServiceUnavailable, StaleAssignment
from mind_dist.index.vector_store import UserRow
from mind_dist.limits import FIRST_KEY, LAST_KEY
from mind_dist.log.codec import encode_event, encode_key
from mind_dist.serving.updater import UpdateStep
from tests.toy_serving import (
    DIM,
    POISON,
    VERSION,
    Clock,
    Crash,
    CrashAt,
    MovingSource,
    OnStep,
    Run,
    StaleStore,
    ToyEncoder,
    UnsteadyStore,
    click,
    contents,
    forget,
    log_of,
    toy_config,
    toy_manifest,
    toy_store,
)

Entry = tuple[bytes, bytes | None]

clicks = st.builds(click, st.integers(0, 3), st.integers(0, 24), st.integers(0, 9))
entries = st.one_of(clicks, clicks, clicks, st.builds(forget, st.integers(0, 3)), st.just(POISON))
logs = st.lists(entries, min_size=1, max_size=14)
with_duplicates = logs.flatmap(lambda log: st.permutations(log + log[: len(log) // 2]))


def uninterrupted(log: Sequence[Entry], **settings: Any) -> dict[int, tuple[object, ...]]:
    run = Run(log_of(log, 2), config=toy_config(**settings))
    run.drain(run.updater())
    return run.rows()


@settings(max_examples=25, deadline=None)
@given(with_duplicates)
def test_an_updater_killed_at_each_of_its_seven_steps_ends_in_the_same_rows(log: list[Entry]) -> None:
    expected = uninterrupted(log)
    for step in UpdateStep:
        for batch in range(1 + len(log) // 4):
            run = Run(log_of(log, 2))
            try:
                run.drain(run.updater(CrashAt(step, batch)))
            except Crash:
                run.drain(run.updater())
            assert run.rows() == expected, (step, batch)


@settings(max_examples=25, deadline=None)
@given(with_duplicates, st.lists(st.tuples(st.sampled_from(UpdateStep), st.integers(0, 2)), max_size=8))
def test_an_updater_killed_again_and_again_ends_in_the_same_rows(
    log: list[Entry], crashes: list[tuple[UpdateStep, int]]
) -> None:
    run = Run(log_of(log, 2))
    for step, batch in crashes:
        try:
            run.drain(run.updater(CrashAt(step, batch)))
        except Crash:
            continue
    run.drain(run.updater())
    assert run.rows() == uninterrupted(log)


@settings(max_examples=50, deadline=None)
@given(with_duplicates, st.integers(1, 20))
def test_batches_cut_anywhere_end_in_the_same_rows(log: list[Entry], max_poll_records: int) -> None:
    kafka = KafkaConfig(max_poison_fraction=1.0, max_poll_records=max_poll_records)
    assert uninterrupted(log, kafka=kafka) == uninterrupted(log)


@settings(max_examples=50, deadline=None)
@given(with_duplicates)
def test_a_replay_from_zero_changes_nothing(log: list[Entry]) -> None:
    run = Run(log_of(log, 2))
    run.drain(run.updater())
    before = run.rows()
    run.group = "replay"
    run.drain(run.updater())
    assert run.rows() == before


def test_a_replay_never_takes_a_row_back_even_for_a_moment() -> None:
    run = Run(log_of([click(7, 3, 100), forget(7), click(7, 4, 200), click(7, 4, 200)]))
    run.updater().step(0)
    run.group = "replay"
    report = run.updater().step(0)
    assert (report.num_skipped, report.num_unchanged) == (3, 1)
    assert (report.num_upserts, report.num_deletes) == (0, 0)


few_users = st.one_of(*[st.builds(click, st.integers(0, 1), st.integers(0, 24), st.integers(0, 99))] * 5, entries)
long_logs = st.lists(few_users, min_size=16, max_size=40)


@settings(max_examples=100, deadline=None)
@given(long_logs, st.integers(0, 1000), st.integers(1, 9), st.sampled_from(UpdateStep), st.integers(0, 12))
def test_stale_and_gappy_reads_still_give_exact_rows(
    log: list[Entry], seed: int, seconds: int, step: UpdateStep, batch: int
) -> None:
    clock = Clock()
    config = toy_config(row_cache_bytes=0, kafka=KafkaConfig(max_poison_fraction=1.0, max_poll_records=2))
    run = Run(log_of(log, 2), toy_store(StaleStore(seed, clock)), clock=clock, config=config)

    def drain(on_step: OnStep = lambda _step: None) -> None:
        updater = run.updater(on_step)
        while updater.step(0).num_records:
            clock.now += seconds

    try:
        drain(CrashAt(step, batch))
    except Crash:
        drain()
    assert run.rows() == uninterrupted(log)


moves = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(["step", "take 0", "take 1", "crash", "wait"])), max_size=25
)


@settings(max_examples=100, deadline=None)
@given(with_duplicates, moves, st.integers(0, 1000))
def test_owners_handing_partitions_over_end_in_the_same_rows(
    log: list[Entry], schedule: list[tuple[int, str]], seed: int
) -> None:
    clock = Clock()
    run = Run(log_of(log, 2), toy_store(StaleStore(seed, clock)), clock=clock)
    owned: list[set[int]] = [{0, 1}, set()]
    sources = [run.source(owned[0]), run.source(owned[1])]
    updaters = [run.updater_of(source) for source in sources]
    for who, what in schedule:
        if what == "step":
            updaters[who].step(0)
        elif what == "crash":
            sources[who] = run.source(owned[who])
            updaters[who] = run.updater_of(sources[who])
        elif what == "wait":
            clock.now += 6
        else:
            partition = int(what[-1])
            owned[who].add(partition)
            owned[1 - who].discard(partition)
            for source, partitions in zip(sources, owned, strict=True):
                source.move(partitions)
    for updater in updaters:
        run.drain(updater)
    assert run.rows() == uninterrupted(log)


@settings(max_examples=100, deadline=None)
@given(with_duplicates, st.lists(st.sampled_from(["", "", "before", "after", "half"]), max_size=20))
def test_a_store_that_fails_now_and_then_loses_nothing(log: list[Entry], outcomes: list[str]) -> None:
    run = Run(log_of(log, 2), toy_store(UnsteadyStore(outcomes)))
    updater = run.updater()
    while True:
        try:
            if not updater.step(0).num_records:
                break
        except ServiceUnavailable:
            continue
    assert run.rows() == uninterrupted(log)
    assert len(run.dead_letters.letters) == log.count(POISON)


def test_events_of_a_user_become_one_row_with_state_and_offset() -> None:
    run = Run(log_of([click(7, 3, 100), click(7, 4, 200), click(8, 5, 150)]))
    report = run.updater().step(0)
    rows = run.store.get_users(VERSION, [7, 8], strong=True)
    assert (report.num_applied, report.num_upserts, len(report.freshness_s)) == (3, 2, 3)
    assert rows[7].behaviors.tolist() == [3, 4]
    assert rows[7].timestamps_ms.tolist() == [100, 200]
    assert (rows[7].partition, rows[7].next_offset, rows[7].model_version) == (0, 2, VERSION)
    assert rows[7].profile.tolist() == [0, 0]
    assert run.log.stored("toy", [0]) == {0: 3}


def test_late_events_take_their_place_and_duplicates_write_nothing() -> None:
    run = Run(log_of([click(7, 3, 300), click(7, 4, 100)]))
    updater = run.updater()
    updater.step(0)
    run.log.append(*click(7, 3, 300))
    report = updater.step(0)
    row = run.store.get_users(VERSION, [7], strong=True)[7]
    assert row.behaviors.tolist() == [4, 3]
    assert (report.num_unchanged, report.num_upserts, row.next_offset) == (1, 0, 2)


def test_a_tombstone_deletes_the_row_and_a_later_event_starts_anew() -> None:
    run = Run(log_of([click(7, 3, 100), click(8, 1, 100)]))
    profile = np.array([5, 6])
    old = UserRow(7, np.ones((1, DIM), np.float32), np.ones(1, np.float32), np.array([9]), np.array([1]), profile)
    run.store.upsert_users(VERSION, [old])
    updater = run.updater()
    updater.step(0)
    assert run.store.get_users(VERSION, [7], strong=True)[7].profile.tolist() == [5, 6]
    for entry in (forget(7), forget(8), click(8, 2, 50)):
        run.log.append(*entry)
    report = updater.step(0)
    rows = run.store.get_users(VERSION, [7, 8], strong=True)
    assert (report.num_tombstones, report.num_deletes, report.num_upserts) == (2, 1, 1)
    assert rows.keys() == {8}
    assert rows[8].behaviors.tolist() == [2]
    run.log.append(*click(7, 4, 400))
    updater.step(0)
    assert run.store.get_users(VERSION, [7], strong=True)[7].profile.tolist() == [0, 0]


def test_unknown_items_are_kept_and_counted_but_take_no_part() -> None:
    run = Run(log_of([click(7, 3, 100), click(7, 1000, 200), click(8, 1001, 100)]))
    report = run.updater().step(0)
    rows = run.store.get_users(VERSION, [7, 8], strong=True)
    assert report.num_unknown_items == 2
    assert rows[7].behaviors.tolist() == [3, 1000]
    assert rows[7].interests.shape == (1, DIM)
    assert rows[8].interests.shape == (0, DIM)


def test_poison_is_dead_lettered_once_and_its_neighbours_are_applied() -> None:
    lowest = -(2**63)
    run = Run(log_of([click(7, 3, 100), POISON, (encode_key(lowest), encode_event(lowest, 1, 1)), click(7, 4, 200)]))
    report = run.updater().step(0)
    assert (report.num_poison, report.num_applied) == (2, 2)
    assert [record.offset for record, _ in run.dead_letters.letters] == [1, 2]
    assert "not JSON" in run.dead_letters.letters[0][1]
    assert run.metrics.values["mind_dist_poison_records"] == 2


def test_events_of_the_future_do_not_freeze_a_user() -> None:
    future_ms = time.time_ns() // 1_000_000 + 366 * 86_400_000
    run = Run(log_of([click(7, item, future_ms + item) for item in range(5)]))
    updater = run.updater()
    run.drain(updater)
    for item in range(5, 8):
        run.log.append(*click(7, item, 1000 + item))
    run.drain(updater)
    assert run.store.get_users(VERSION, [7], strong=True)[7].behaviors.tolist() == [5, 6, 7]
    letters = run.dead_letters.letters
    assert [record.offset for record, _ in letters] == [0, 1, 2, 3, 4]
    assert all(
        f"{record.appended_ms}" in error and f"{future_ms + record.offset}" in error for record, error in letters
    )


def test_a_record_under_another_key_than_its_user_is_dead_lettered() -> None:
    user, forgotten = b"7", b'"7"'
    run = Run(log_of([click(7, 3, 100)]))
    run.log.append(b"007", encode_event(7, 4, 200), 0)
    run.log.append(forgotten, None, 0)
    run.drain(run.updater())
    assert run.store.get_users(VERSION, [7], strong=True)[7].behaviors.tolist() == [3]
    assert [record.key for record, _ in run.dead_letters.letters] == [b"007", forgotten]
    run.log.append(user, None, 0)
    run.drain(run.updater())
    assert run.rows() == {}


def test_events_of_other_types_are_ignored_and_counted_and_are_no_poison() -> None:
    encoder = ToyEncoder(manifest=toy_manifest("buy", "rent"))
    entries = [
        click(7, 1, 10, "buy"),
        click(7, 2, 20),
        click(8, 3, 30),
        click(7, 4, 40, "rent"),
        click(7, 1, 50, "Buy"),
    ]
    run = Run(log_of(entries), encoder=encoder, config=toy_config(kafka=KafkaConfig(max_poison_fraction=0.0)))
    report = run.updater().step(0)
    assert (report.num_records, report.num_ignored, report.num_applied, report.num_poison) == (5, 3, 2, 0)
    assert run.metrics.values["mind_dist_events_ignored"] == 3
    assert run.rows().keys() == {7}
    assert run.store.get_users(VERSION, [7], strong=True)[7].behaviors.tolist() == [1, 4]
    assert run.dead_letters.letters == []
    assert run.log.stored("toy", [0]) == {0: 5}


def test_a_version_that_names_no_types_takes_events_of_all() -> None:
    run = Run(log_of([click(7, 1, 10, "buy"), click(7, 2, 20, "seen"), click(7, 3, 30)]))
    report = run.updater().step(0)
    assert (report.num_applied, report.num_ignored) == (3, 0)


def test_a_user_of_a_key_that_no_row_can_have_is_dead_lettered() -> None:
    entries = [(encode_key(key), encode_event(key, 1, 1)) for key in (FIRST_KEY - 1, LAST_KEY + 1, FIRST_KEY, LAST_KEY)]
    run = Run(log_of(entries))
    run.drain(run.updater())
    assert run.rows().keys() == {FIRST_KEY, LAST_KEY}
    assert len(run.dead_letters.letters) == 2


def test_too_much_poison_stops_the_updater_without_committing_it() -> None:
    kafka = KafkaConfig(max_poison_fraction=0.5, poison_window=4)
    run = Run(log_of([click(7, 3, 100), POISON, POISON, POISON]), config=toy_config(kafka=kafka))
    with pytest.raises(PoisonLimitExceeded, match="3 of the last 4"):
        run.updater().step(0)
    assert len(run.dead_letters.letters) == 3
    assert run.log.stored("toy", [0]) == {}


def test_a_batch_that_outlived_its_lease_is_not_written_but_read_again() -> None:
    run = Run(log_of([click(7, 3, 100)]))

    def dawdle(step: UpdateStep) -> None:
        if step is UpdateStep.UPSERT and not run.store.count_users(VERSION):
            run.clock.now += run.config.kafka.max_poll_interval_s / 2 + 1 if waits else 0

    waits = True
    updater = run.updater(dawdle)
    with pytest.raises(StaleAssignment, match="read again"):
        updater.step(0)
    assert contents(run.store) == {}
    waits = False
    assert updater.step(0).num_applied == 1


def test_an_owner_that_slept_through_a_handover_does_not_write() -> None:
    run = Run(log_of([click(7, 3, 100), click(7, 4, 200)]))
    source = run.source()

    def sleep(step: UpdateStep) -> None:
        if step is UpdateStep.UPSERT:
            run.clock.now += run.config.kafka.session_timeout_s
            source.move([])
            successor = run.updater()
            run.drain(successor)
            run.log.append(*click(7, 5, 300))
            run.drain(successor)

    sleeper = run.updater_of(source, sleep)
    with pytest.raises(StaleAssignment):
        sleeper.step(0)
    assert run.store.get_users(VERSION, [7], strong=True)[7].behaviors.tolist() == [3, 4, 5]


def test_a_partition_that_came_back_within_one_poll_is_read_afresh() -> None:
    run = Run(log_of([click(7, 3, 100)]))
    source = run.source()
    first = run.updater_of(source)
    first.step(0)
    run.log.append(*click(7, 4, 200))
    run.drain(run.updater())
    source.move([0])
    run.log.append(*click(7, 5, 300))
    run.drain(first)
    assert run.store.get_users(VERSION, [7], strong=True)[7].behaviors.tolist() == [3, 4, 5]


def test_lag_is_what_is_not_applied_yet() -> None:
    run = Run(log_of([click(7, item, item) for item in range(6)]))
    updater = run.updater()
    updater.step(0)
    updater.report_lag()
    assert run.metrics.values["mind_dist_lag_records"] == 2
    updater.close()


class SourceWithoutLag(MovingSource):
    """A source whose broker is away unless told otherwise: polls find nothing, and questions about ends fail."""

    answers = False

    def lag(self, timeout_s: float) -> Mapping[int, int]:
        if not self.answers:
            raise ServiceUnavailable("Kafka", "toy", timeout_s)
        return super().lag(timeout_s)


def test_lag_that_cannot_be_told_is_counted_and_logged_once_a_streak_and_fails_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run(log_of([click(7, item, item) for item in range(6)]))
    source = SourceWithoutLag(run.log, run.group, [0], 500)
    updater = run.updater_of(source)
    for streak in (1, 2):
        for _ in range(3):
            updater.step(0)
            updater.report_lag()
        assert run.metrics.values["mind_dist_lag_report_failures"] == 3 * streak
        assert len(caplog.records) == streak
        assert updater.lag_problem == "Kafka at toy did not answer within 2 s"
        source.answers = True
        updater.report_lag()
        assert updater.lag_problem == ""
        assert run.metrics.values["mind_dist_lag_records"] == 0
        source.answers = False
    updater.close()


def test_rows_of_partitions_that_went_away_leave_memory() -> None:
    run = Run(log_of([click(7, 3, 100)]))
    source = run.source()
    updater = run.updater_of(source)
    updater.step(0)
    assert len(updater._rows) == 1
    source.move([])
    updater.step(0)
    assert len(updater._rows) == 0
