"""A run trained by one group of processes after the other over gloo, each killed somewhere, and what each has trained."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # the optimizer imports it, in two seconds: here once for all processes
from torch import distributed

from mind_dist.checkpoint import ModelVersion, TableRows
from mind_dist.examples.source import Examples
from mind_dist.keys import partition_of
from mind_dist.log.codec import encode_event, encode_key
from mind_dist.log.source import InMemoryLog
from mind_dist.training.collectives import ProcessGroup
from mind_dist.training.open_run import open_run
from mind_dist.training.pulse import Activity
from mind_dist.training.run import TrainingRun
from mind_dist.training.saving import save, saved_version
from mind_dist.training.settings import TrainSettings
from tests.forked import Forked
from tests.toy_training import NUM_BUCKETS, NUM_ITEMS

WITHIN_S = 120

Trained = dict[int, list[list[int]]]
"""Time and first target of what was trained of each partition, in order."""


@dataclass(frozen=True)
class Group:
    """One group of workers.

    Attributes:
        workers: How many.
        dies: A rank, and the collective in whose place it is killed with -9; None for nobody.
        until: Stop after this step, with a save; 0 for where the data ends.
    """

    workers: int
    dies: tuple[int, int] | None = None
    until: int = 0


@dataclass
class Lineage:
    """A run by several groups.

    Attributes:
        settings: The run; its `workers` say nothing.
        place: For what the processes note.
        bootstrap: Brokers, where it trains from a log.
    """

    settings: TrainSettings
    place: Path
    bootstrap: str = ""
    _resumed_at: list[int] = field(default_factory=list)

    def train(self, *groups: Group) -> None:
        """Let groups train, one after the other; each goes on from the newest version."""
        for group in groups:
            number = len(self._resumed_at)
            found = self.settings.versions.newest_whole().version
            self._resumed_at.append(found.manifest.step if found else 0)
            processes = [Forked(work, self, number, group, rank) for rank in range(group.workers)]
            codes = [process.wait(WITHIN_S) for process in processes]
            if group.dies is None:
                assert codes == [0] * group.workers
            else:
                assert codes[group.dies[0]] == -signal.SIGKILL, "it was to die, and lived"
                assert 0 not in codes, "a group goes on together or not at all"

    def newest(self) -> ModelVersion:
        """Return the newest version."""
        found = self.settings.versions.newest_whole().version
        assert found is not None
        return found

    def trained(self) -> Trained:
        """Return what was trained along the versions that lead to the newest."""
        last = self.newest().manifest.step
        trained: Trained = defaultdict(list)
        for number, first in enumerate(self._resumed_at):
            until = min([last, *self._resumed_at[number + 1 :]])
            steps = sorted(note["step"] for note in self._notes(number) if first < note["step"] <= until)
            assert set(steps) == set(range(first + 1, until + 1)), "every step has left a note"
            for note in sorted(self._notes(number), key=lambda note: int(note["step"])):
                if first < note["step"] <= until:
                    for partition, found in note["trained"].items():
                        trained[int(partition)] += found
        return trained

    def collectives(self, step: int) -> int:
        """Return how many collectives the first group had begun when a step was done, before it was saved."""
        return next(int(note["collectives"]) for note in self._notes(0) if note["step"] == step)

    def _notes(self, number: int) -> Iterator[dict[str, Any]]:
        for path in self.place.glob(f"notes-{number}-*"):
            yield from map(json.loads, path.read_text().splitlines())


class Mortal(Activity):
    """Kills its process in place of a collective."""

    def __init__(self, dies_at: int) -> None:
        super().__init__()
        self._dies_at = dies_at

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Begin one, or die."""
        if self.collectives == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with super().collective():
            yield


def work(lineage: Lineage, number: int, group: Group, rank: int) -> None:
    """Train one rank's part, as a worker does; end with 1 where another rank is gone."""
    try:
        _work(lineage, number, group, rank)
    except RuntimeError as error:
        if "peer" not in str(error):
            raise
        sys.exit(1)


def _work(lineage: Lineage, number: int, group: Group, rank: int) -> None:
    settings, place = lineage.settings, lineage.place
    torch.set_num_threads(1)
    meeting, timeout = f"file://{place}/meeting-{number}", timedelta(seconds=60)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=group.workers, timeout=timeout)
    activity = Mortal(group.dies[1]) if group.dies and group.dies[0] == rank else Activity()
    ranks = ProcessGroup(torch.device("cpu"), activity)
    saved = saved_version(settings.versions, ranks)
    run = open_run(settings, lineage.bootstrap, saved, ranks, torch.device("cpu"))
    taken: Trained = defaultdict(list)
    _note_takes(run, taken)
    saved_step, every = run.step, settings.training.checkpoint_every_steps
    with (place / f"notes-{number}-{rank}").open("w") as notes:
        for report in run.steps(lambda: run.step + 1 == group.until):
            note = {"step": report.step, "trained": taken, "collectives": activity.collectives}
            notes.write(json.dumps(note) + "\n")
            notes.flush()
            taken.clear()
            if every and report.step % every == 0:
                save(run, settings.versions, settings.num_to_keep, ranks)
                saved_step = report.step
    if run.step > saved_step:
        save(run, settings.versions, settings.num_to_keep, ranks)
    run.examples.close()


def long_log(num_events: int = 700) -> InMemoryLog:
    """Return events of ten users in each partition, beside poison, and users that are forgotten."""
    generator, log = np.random.default_rng(11), InMemoryLog(num_partitions=NUM_BUCKETS)
    users = np.arange(1, 200)
    homes = partition_of(users, NUM_BUCKETS)
    users = np.concatenate([users[homes == partition][:10] for partition in range(NUM_BUCKETS)])
    for number in range(num_events):
        user = int(generator.choice(users))
        partition = int(partition_of(np.array([user]), NUM_BUCKETS)[0])
        log.append(encode_key(user), encode_event(user, int(generator.integers(1, NUM_ITEMS)), number), partition)
        if number % 31 == 30:
            log.append(encode_key(user), b"{", partition)
        if number % 97 == 96:
            log.append(encode_key(user), None, partition)
    return log


def _note_takes(run: TrainingRun, taken: Trained) -> None:
    """Have a run note what it takes of each partition."""
    take = run.examples.take

    def noted(partition: int, count: int) -> Examples:
        examples = take(partition, count)
        columns = zip(examples.timestamps_ms.tolist(), examples.targets[:, 0].tolist(), strict=True)
        taken[partition] += [list(each) for each in columns]
        return examples

    run.examples.take = noted  # type: ignore[method-assign]


def largest_difference(left: ModelVersion, right: ModelVersion) -> float:
    """Return how far two versions' parameters are apart, at most."""
    rows: Sequence[TableRows] = [left.items(), right.items()]
    np.testing.assert_array_equal(rows[0].keys, rows[1].keys)
    np.testing.assert_array_equal(rows[0].counts, rows[1].counts)
    pairs = [(rows[0].vectors, rows[1].vectors)]
    pairs += [(tensor.numpy(), right.dense()[name].numpy()) for name, tensor in left.dense().items()]
    return max(float(np.abs(one - other).max(initial=0)) for one, other in pairs)
