"""Training over two Ray nodes, one of which is lost, is told to go, or comes while a run goes on."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.authentication_test_utils import reset_auth_token_state

from jobs.train import Train
from mind_dist import local_stack
from mind_dist.config import Addresses, dump
from mind_dist.local_process import LocalProcess
from mind_dist.local_stack.ray_head import RayHead
from mind_dist.strict_json import to_json
from mind_dist.training import ray_trainer
from mind_dist.training.ray_trainer import train_on_ray
from mind_dist.training.run_monitor import RunMonitor, TrainProgress, Wishes
from mind_dist.training.settings import TrainSettings
from tests.lineages import Group, Lineage, largest_difference
from tests.ray_jobs import submit_job
from tests.ray_nodes import lose, second_node
from tests.toy_training import MODEL, TRAINING, write_dataset

ROOT = Path(__file__).parents[2]
WITHIN_S = 400
HEAD = "node:__internal_head__"
"""The resource by which Ray knows the head's node."""

LONG = dataclasses.replace(TRAINING, epochs=40, checkpoint_every_steps=20, lr_decay=False)
ENDLESS = dataclasses.replace(LONG, epochs=100_000, checkpoint_every_steps=0)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    with local_stack.ray_head(tmp_path_factory.mktemp("head"), num_cpus=1) as head:
        yield head


@pytest.fixture
def node(head: RayHead, tmp_path: Path) -> Iterator[LocalProcess]:
    with second_node(head, tmp_path) as node:
        yield node


@pytest.fixture
def connected(head: RayHead, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in head.client_environment.items():
        monkeypatch.setenv(name, value)
    reset_auth_token_state()  # Ray read the environment when it was imported
    ray.init(address=head.address, log_to_driver=False)
    yield
    ray.shutdown()
    monkeypatch.undo()
    reset_auth_token_state()


@pytest.fixture
def train(tmp_path: Path) -> Train:
    dataset, storage = write_dataset(tmp_path / "dataset"), str(tmp_path / "runs")
    return Train(dataset, storage, model=MODEL, training=LONG, min_workers=1, num_to_keep=1000)


def saved(settings: TrainSettings) -> dict[int, int]:
    """Return with how many workers each version was saved, by step."""
    found = {}
    for manifest in Path(settings.storage).glob(f"{settings.name}/checkpoint_*/manifest.json"):
        counts = [int(count) for count in re.findall(r"items/shard-\d+-of-(\d+)", manifest.read_text())]
        found[int(manifest.parent.name.rpartition("_")[2])] = counts[0]
    return dict(sorted(found.items()))


def changes(numbers: Iterable[int]) -> list[int]:
    """Return numbers without those that are as the one before."""
    return [number for number, _ in groupby(numbers)]


def wait_until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.1)


def assert_undisturbed(settings: TrainSettings, tmp_path: Path) -> None:
    """The newest version is what undisturbed groups of processes come to, as many as have saved the versions."""
    (tmp_path / "notes").mkdir()
    lineage = Lineage(dataclasses.replace(settings, name="undisturbed"), tmp_path / "notes")
    ends = [list(steps) for _, steps in groupby(saved(settings).items(), key=itemgetter(1))]
    lineage.train(*(Group(workers, until=step) for *_, (step, workers) in ends))
    newest = settings.versions.newest_whole().version
    assert newest is not None
    assert newest.manifest.positions == lineage.newest().manifest.positions
    assert largest_difference(newest, lineage.newest()) < 1e-6


def test_a_submitted_run_over_two_nodes_goes_on_with_one_when_the_other_is_lost(
    head: RayHead, node: LocalProcess, train: Train, tmp_path: Path
) -> None:
    (tmp_path / "train.json").write_text(to_json(dump(train)))
    command = (sys.executable, "-m", "jobs.train", "--config", str(tmp_path / "train.json"))
    job = submit_job(head.client_environment, *command, options=("--working-dir", str(ROOT)))
    wait_until(lambda: max(saved(train), default=0) >= 40)
    lose(node)
    status, output = job.end(WITHIN_S)
    assert status == "SUCCEEDED", output
    assert "a group of workers has failed" in output
    assert changes(saved(train).values()) == [2, 1]
    assert_undisturbed(train, tmp_path)


def drain(head: RayHead, within_s: int) -> None:
    """Tell Ray that the second node is about to go."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray is untyped here
    [other] = [found["NodeID"] for found in nodes if found["Alive"] and HEAD not in found["Resources"]]
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", head.address, "--node-id", other]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "it goes"]
    command += ["--deadline-remaining-seconds", str(within_s)]
    environment = {**os.environ, **head.client_environment}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)


class SlowMonitor(RunMonitor):
    """Passes on each wish 3 s late, in which toy workers report to Ray more than once, and a report waits to be taken."""

    def __init__(self) -> None:
        super().__init__()
        self._since: dict[Wishes, float] = {}

    def tell(self, progress: TrainProgress | None) -> Wishes:
        wishes, now_s = super().tell(progress), time.monotonic()
        return wishes if now_s - self._since.setdefault(wishes, now_s) >= 3.0 else Wishes()


class Disturbed:
    """A run at which something is done to the nodes, and which is stopped once another number of workers trains.

    Args:
        settings: The run.
        workers: When so many train, something is done. Ray may begin with as many as there was room for 20 s ago.
        act: What is done.
        caplog: What the run has logged.
    """

    def __init__(
        self, settings: TrainSettings, workers: int, act: Callable[[], object], caplog: pytest.LogCaptureFixture
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._act = act
        self._acted = False
        self._caplog = caplog
        self._give_up_s = time.monotonic() + WITHIN_S

    def train(self) -> None:
        """Train until it is stopped."""
        logging.getLogger("mind_dist").propagate = True
        with self._caplog.at_level(logging.INFO, logger="mind_dist"):
            train_on_ray(self._settings, Addresses(), on_progress=self._note, should_stop=self._is_over)

    def workers(self) -> list[int]:
        """Return with how many workers each group has trained."""
        found = [record for record in self._caplog.records if record.message == "workers train"]
        return [record.__dict__["fields"]["workers"] for record in found]

    def _note(self, progress: TrainProgress) -> None:
        if progress.step > 20 and not self._acted and self.workers()[-1:] == [self._workers]:
            self._acted = True
            self._act()

    def _is_over(self) -> bool:
        assert time.monotonic() < self._give_up_s
        return self._acted and self.workers()[-1] != self._workers


@pytest.mark.usefixtures("connected", "node")
def test_a_run_that_is_told_that_a_node_goes_saves_before_and_goes_on_from_there_at_no_failures_cost(
    head: RayHead, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_trainer, "_LOOK_FOR_NODES_EVERY_S", 3.0)
    settings = dataclasses.replace(train, training=ENDLESS, checkpoint_every_s=0, max_failures=0)
    run = Disturbed(settings, 2, lambda: drain(head, within_s=10), caplog)  # then its raylet ends by itself
    run.train()
    # Ray may begin anew with one more than once, as long as it sees the notice; each group has saved before it was ended
    assert changes(run.workers())[-2:] == changes(saved(settings).values())[-2:] == [2, 1]
    assert_undisturbed(settings, tmp_path)


@pytest.mark.usefixtures("connected")
def test_a_run_saves_before_it_grows_onto_a_node_that_has_come(
    head: RayHead, train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_trainer, "_LOOK_FOR_NODES_EVERY_S", 3.0)
    monkeypatch.setattr(ray_trainer, "RunMonitor", SlowMonitor)
    settings = dataclasses.replace(train, training=ENDLESS, checkpoint_every_s=0, max_failures=0)
    with ExitStack() as nodes:
        run = Disturbed(settings, 1, lambda: nodes.enter_context(second_node(head, tmp_path)), caplog)
        run.train()
    assert run.workers() == list(saved(settings).values()) == [1, 2]
    assert_undisturbed(settings, tmp_path)
