"""The whole way of events to rows, killed with -9 in each step, on a real broker and a real Milvus."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from mind_dist.states.updater import UpdateStep
from tests import views_process
from tests.forked import Forked
from tests.services import BROKERS
from tests.state_worlds import mixed_log
from tests.view_worlds import World
from tests.views_process import PARTITIONS, Owner, ViewStep

USERS, EVENTS = 20, 300
WITHIN_S = 120


def die_at(world: World, step: int, count: int) -> None:
    """Run an owner until it dies there."""
    with Forked(views_process.main, step, count, world.place) as process:
        assert process.wait(WITHIN_S) == -signal.SIGKILL


def finish(world: World) -> None:
    """Take over, and work until all is applied and written."""
    with closing(Owner(world.place, lambda _step: None)) as owner:
        give_up_s = time.monotonic() + WITHIN_S
        done_s = None
        while done_s is None or time.monotonic() < done_s + 2:  # what an owner before left under way is redone
            assert time.monotonic() < give_up_s
            owner.step()
            done_s = (done_s or time.monotonic()) if is_done(owner) else None


def is_done(owner: Owner) -> bool:
    stores, _ = owner.shared.owned()
    if len(stores) < PARTITIONS or any(owner.states.lag(5).values()):
        return False
    return all(owner.view.positions.get(p, 0) >= store.position for p, store in stores.items())


@pytest.mark.parametrize("milvus", ["milvus_lite", "milvus_standalone"])
def test_killed_in_any_step_it_ends_in_the_rows_of_the_whole_log(
    milvus: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kafka, server = request.getfixturevalue(BROKERS[-1]), request.getfixturevalue(milvus)
    steps = [*UpdateStep, *ViewStep] if milvus == "milvus_lite" else list(ViewStep)

    def one(step: int) -> None:
        seed = 1000 * len(milvus) + step
        world = World(kafka, server, tmp_path / str(step), seed)
        world.send(mixed_log(EVENTS, USERS, seed))
        with closing(world):
            die_at(world, step, count=12 if step == UpdateStep.POLL else 4)
            finish(world)
            assert world.rows() == world.expected(), step

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, map(int, steps)))
