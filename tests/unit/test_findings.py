"""What drills count: nothing where all is right, and each fault by its name."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mind_dist.encoder import InterestEncoder
from mind_dist.index.vector_store import UserRow
from mind_dist.records import BehaviorSequence, Record
from mind_dist.states.record import UserState, encode_state
from mind_dist.strict_json import from_json
from tests import findings
from tests.drills.report import Outcome, Run, keep
from tests.findings import NOTHING, Findings
from tests.state_worlds import FEATURES, Oracle, in_order, mixed_log, told_by
from tests.versions import tiny_version
from tests.view_oracle import bits

ORACLE = told_by(in_order(mixed_log(200, 10, seed=1)), 10)
LONG = max(ORACLE.states, key=lambda user: len(ORACLE.states[user][0]))


def states_of(oracle: Oracle) -> list[Record]:
    return [
        Record(0, at, str(key).encode(), encode_state(UserState(history, profile), FEATURES.behavior), 0)
        for at, (key, (history, profile)) in enumerate(oracle.states.items())
    ]


def test_states_that_are_right_have_nothing() -> None:
    assert findings.in_states(states_of(ORACLE), ORACLE) == NOTHING
    assert findings.differing_users(states_of(ORACLE), ORACLE) == []


def test_what_states_lack_is_lost_and_what_they_have_too_much_is_repeated() -> None:
    history, profile = ORACLE.states[LONG]
    others = {key: each for key, each in ORACLE.states.items() if key != LONG}
    shorter = ORACLE._replace(states={**others, LONG: (history.slice(1, len(history)), profile)})
    assert findings.in_states(states_of(shorter), ORACLE) == Findings(lost=1)
    assert findings.in_states(states_of(ORACLE), shorter) == Findings(repeated=1)
    without = ORACLE._replace(states=others)
    assert findings.in_states(states_of(without), ORACLE) == Findings(lost=len(history))
    assert findings.in_states(states_of(ORACLE), without) == Findings(repeated=len(history))
    other_profile = ORACLE._replace(states={**others, LONG: (history, {"age": -1})})
    assert findings.in_states(states_of(other_profile), ORACLE) == Findings(lost=1)
    [told] = findings.differing_users(states_of(other_profile), ORACLE)
    assert told.startswith(f"user {LONG}:")


def test_a_user_out_of_order_is_lost() -> None:
    history, profile = ORACLE.states[LONG]
    items, times = history.item_keys[::-1].copy(), history.timestamps_ms
    turned = dataclasses.replace(history, item_keys=items, timestamps_ms=np.full_like(times, times[0]))
    same = dataclasses.replace(history, timestamps_ms=np.full_like(times, times[0]))
    one = dataclasses.replace(turned, behavior_keys=history.behavior_keys[::-1].copy())
    wanted = Oracle({LONG: (same, profile)}, [])
    assert findings.in_states(states_of(Oracle({LONG: (one, profile)}, [])), wanted) == Findings(lost=1)


def test_dead_letters_are_wanted_exactly_once() -> None:
    poison = [(0, 3), (0, 7)]
    assert findings.in_dead_letters([(0, 7), (0, 3)], poison) == NOTHING
    assert findings.in_dead_letters([(0, 3), (0, 3)], poison) == Findings(lost=1, repeated=1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> InterestEncoder:
    return InterestEncoder.load(tiny_version(tmp_path_factory.mktemp("version")))


def row_of(encoder: InterestEncoder, items: list[int]) -> UserRow:
    known = BehaviorSequence(1, np.array(items, dtype=np.int64), np.arange(len(items), dtype=np.int64))
    [interests] = encoder.encode([known])
    vectors, weights, version = interests.vectors, interests.weights, encoder.model_version
    row = UserRow(1, vectors, weights, known.item_keys, known.timestamps_ms, model_version=version)
    return dataclasses.replace(row, behavior_keys=np.empty((len(items), 0), dtype=np.int64))


def test_rows_are_stale_torn_or_mixed(encoder: InterestEncoder) -> None:
    new, old = row_of(encoder, [1, 2, 3]), row_of(encoder, [1, 2])
    expected = {1: bits(new)}
    torn = dataclasses.replace(new, interests=old.interests, weights=old.weights)
    elsewhere = dataclasses.replace(new, model_version="v00000009_00000000")
    assert findings.in_rows([new], expected, encoder) == NOTHING
    assert findings.in_rows([old], expected, encoder) == Findings(stale_rows=1)
    assert findings.in_rows([], expected, encoder) == Findings(stale_rows=1)
    assert findings.in_rows([new, new], expected, encoder) == Findings(stale_rows=1)
    assert findings.in_rows([torn], expected, encoder) == Findings(torn=1, stale_rows=1)
    assert findings.in_rows([elsewhere], expected, encoder) == Findings(mixed=1, stale_rows=1)


def test_a_report_keeps_one_row_for_each_drill_broker_and_store(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "drills.json"
    fine = Outcome.of("killed", "Apache Kafka", "lite", [Run(figures={"num_kills": 2, "again_s": 3.0})] * 2)
    failed = Outcome.of("killed", "Apache Kafka", "lite", [Run(Findings(lost=1)), Run(problems=("late",))])
    keep(failed.row(), path)
    keep(dataclasses.replace(fine, store="standalone").row(), path)
    keep(fine.row(), path)
    rows = from_json(path.read_bytes())
    assert [(row["store"], row["ok"]) for row in rows] == [("standalone", True), ("lite", True)]
    assert rows[1]["figures"] == {"num_kills": 4, "again_s": 3.0}
    assert (failed.ok, failed.row()["lost"], failed.row()["problems"]) == (False, 1, ["late"])
