"""An updater replica in a process of its own, as Serve runs it: to be stopped in a step, killed, frozen, woken."""

from __future__ import annotations

import enum
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

from mind_dist.config import Addresses, ServingConfig, dump
from mind_dist.encoder import InterestEncoder
from mind_dist.index.vector_store import VersionInfo
from mind_dist.keys import IdType
from mind_dist.serving.ray_app import UpdaterReplica
from mind_dist.serving.work_loop import Beat
from mind_dist.states.local_store import LocalStore
from mind_dist.states.shared import SharedStores
from mind_dist.states.updater import StatesUpdater, UpdateStep
from mind_dist.views.view import View
from tests.forked import context, state_of
from tests.views_process import SteppedStore, ViewStep

ANSWER_WITHIN_S = 30.0
_INSIDE_S = 0.002
"""So long after an upsert has begun the process is stopped inside it."""


class TakeOverStep(enum.IntEnum):
    """Where a process can be stopped while it takes partitions over; numbers go on behind those of `ViewStep`."""

    RESTORE = 12
    FINISH_VIEWS = 13
    WRITE_AGAIN = 14


INSIDE_UPSERT = 15
STEPS: Sequence[enum.IntEnum] = (*UpdateStep, *ViewStep, *TakeOverStep)


class StopsAt(NamedTuple):
    """Where a process stops itself.

    Attributes:
        step: One of `STEPS`, or `INSIDE_UPSERT`; 0 for nowhere.
        at: The how manieth time that it enters the step.
        by: SIGKILL or SIGSTOP.
    """

    step: int = 0
    at: int = 1
    by: signal.Signals = signal.SIGKILL

    def name(self) -> str:
        """Return what people call it."""
        names = {int(each): each.name.lower().replace("_", " ") for each in STEPS}
        return {**names, INSIDE_UPSERT: "inside an upsert", 0: "anywhere"}[self.step]


NOWHERE = StopsAt()


class SteppedShared(SharedStores):
    """Tells when the first states are all here, and views begin to finish what was left."""

    on_step: Callable[[int], None]

    def own(self, stores: dict[int, LocalStore]) -> None:  # type: ignore[override]
        is_first = bool(stores) and not self.owned().stores
        if is_first:
            self.on_step(TakeOverStep.RESTORE)  # its last moment; a poll may have been enough for all of it
        super().own(stores)
        if is_first:
            self.on_step(TakeOverStep.FINISH_VIEWS)


class SteppedReplica(UpdaterReplica):
    """The real replica, which stops itself in a step."""

    def __init__(self, config: dict[str, Any], addresses: dict[str, Any], stops: StopsAt) -> None:
        self._stops, self._left = stops, stops.at
        self._updater: StatesUpdater | None = None
        super().__init__(config, addresses)

    def stands(self) -> str:
        """Tell how its partitions stand, for people who ask why nothing is taken of them."""
        if self._updater is None:
            return "no updater yet"
        owned = self._updater._owned
        consumer: Any = owned._source._consumer  # type: ignore[attr-defined]
        fetcher = consumer._fetcher
        told = [
            f"held {owned._is_held}",
            f"generations {owned._generation}, {consumer.group_metadata().generation_id}",
            f"pending fetches {fetcher._nodes_with_pending_fetch_requests}",
            f"fetched {[each.topic_partition.partition for each in fetcher._completed_fetches]}",
            f"in line {fetcher._next_partition_records}",
            f"parked {[*fetcher._paused_completed_fetches, *fetcher._paused_partition_records]}",
        ]
        for number, each in owned.partitions.items():
            restore = each.restore and (each.restore.reader.position(), each.restore.end)
            told.append(f"{number}: restoring {restore}, stopped {each.stopped!r}, stored {each.stored}")
        told += [f"{each}: {vars(state)}" for each, state in consumer._subscription.assignment.items()]
        stacks = sys._current_frames().values()
        told += ["".join(traceback.format_stack(frame)[-4:]) for frame in stacks]
        return "; ".join(told)

    def store(self, retry_s: float) -> SteppedStore:  # noqa: ARG002 - as the replica's own
        store = SteppedStore.at(self.addresses, self.config.milvus)
        assert isinstance(store, SteppedStore)
        store.on_step = self._enter
        return store

    def _keep_states(self, id_type: IdType) -> None:
        if self._states is None:
            shared = SteppedShared(self.config.kafka.session_timeout_s)
            shared.on_step = self._enter
            self._shared = shared
        super()._keep_states(id_type)

    def _connect(self, id_type: IdType, beat: Beat) -> StatesUpdater:
        def stepped(text: str) -> None:
            beat(text)
            self._enter(int(text.split(maxsplit=1)[0]))

        self._updater = super()._connect(id_type, stepped)
        return self._updater

    def _view(self, encoder: InterestEncoder, info: VersionInfo) -> View:
        view = super()._view(encoder, info)
        store = view._positions.store

        def stepped(*arguments: Any) -> None:
            self._enter(ViewStep.STORE_POSITION)
            store(*arguments)
            self._enter(ViewStep.STORED_POSITION)

        view._positions.store = stepped  # type: ignore[method-assign,assignment]
        return view

    def _enter(self, step: int) -> None:
        """Stop where that is due; some steps are seen only from within others."""
        self._stop_at(step)
        if step == UpdateStep.POLL and self._updater and any(p.restore for p in self._updater.partitions.values()):
            self._stop_at(TakeOverStep.RESTORE)
        taken_over = self._shared.owned().taken_over
        if step == ViewStep.UPSERT and time.monotonic() >= taken_over + self.config.views.settle_s:
            self._stop_at(TakeOverStep.WRITE_AGAIN)
        if step == ViewStep.UPSERT:
            self._stop_at(INSIDE_UPSERT)

    def _stop_at(self, step: int) -> None:
        if step != self._stops.step:
            return
        self._left -= 1
        if self._left == 0 and step == INSIDE_UPSERT:
            threading.Timer(_INSIDE_S, os.kill, (os.getpid(), self._stops.by)).start()
        elif self._left == 0:
            os.kill(os.getpid(), self._stops.by)


def serve(pipe: Connection, config: dict[str, Any], addresses: dict[str, Any], stops: StopsAt, log: str) -> None:
    """Do what comes through the pipe, one call after the other."""
    with Path(log).open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    replica = SteppedReplica(config, addresses, stops)
    while True:
        match pipe.recv():
            case "status":
                pipe.send(replica.status())
            case "stands":
                pipe.send(replica.stands())
            case "problems":
                pipe.send([str(problem) for problem in replica.health()[1]])
            case "end":
                replica.__del__()
                pipe.send(None)
                return


class Replica:
    """A replica's process; a context manager that kills it at the end."""

    def __init__(self, config: ServingConfig, addresses: Addresses, folder: Path, stops: StopsAt = NOWHERE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._pipe, there = context.Pipe()
        log = str(folder / "replicas.log")
        self._process = context.Process(
            target=serve, args=(there, dump(config), addresses.shareable(), stops, log), daemon=True
        )
        self._process.start()
        there.close()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def ask(self, what: str) -> Any:
        """Return its `status` or its `problems`.

        Raises:
            TimeoutError: It does not answer.
            EOFError: It has ended.
        """
        self._pipe.send(what)
        if not self._pipe.poll(ANSWER_WITHIN_S):
            raise TimeoutError(f"the replica does not answer {what}")
        return self._pipe.recv()

    def num_repairs(self) -> int:
        """Return how many rows it found to differ, and wrote anew."""
        return sum(view["num_repairs"] for view in self.ask("status")["views"])

    def owned(self) -> list[int]:
        """Return its partitions."""
        found: list[int] = self.ask("status")["states"].get("partitions", [])
        return found

    def send(self, number: signal.Signals) -> None:
        """Kill it, freeze it, or wake it."""
        os.kill(self.pid, number)

    def state(self) -> str:
        """Return the kernel's letter for it: T is frozen, Z or nothing has ended."""
        return state_of(self.pid)

    def is_stopped(self) -> bool:
        """Tell whether it was frozen or killed."""
        return self.state() in {"T", "Z", ""} or not self._process.is_alive()

    def end(self) -> None:
        """Let it leave as Serve does."""
        self.ask("end")
        self._process.join(ANSWER_WITHIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
