"""A world that drills act on: a deployment with replicas in processes of their own, and waiting until all is as it must be."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from mind_dist.config import KafkaConfig, ViewsConfig
from mind_dist.errors import MindDistError
from mind_dist.log.identity import LogIdentity
from mind_dist.log.kafka import log_identity
from mind_dist.log.kafka_groups import end_positions, lag
from tests.drills.replica import NOWHERE, Replica, StopsAt
from tests.drills.report import Run
from tests.drills.site import Site, eventually
from tests.findings import NOTHING, Findings
from tests.state_worlds import mixed_log
from tests.states_process import MAX_HISTORY
from tests.view_oracle import Rows
from tests.view_worlds import World, dead_letters
from tests.views_process import PARTITIONS

logger = logging.getLogger(__name__)

USERS = 20
WITHIN_S = 120.0
_AT_LEAST = 10
_TRANSACTION_S = 15.0
"""A group's positions may show before the states and dead letters of the same transaction do, for so long at most."""
VIEWS = ViewsConfig(batch_size=8, store_s=0.1, look_s=1.0, settle_s=3.0, audit_s=0.2)
"""Small batches, so that there is much to be stopped in."""


class DrillWorld:
    """A world with replicas; a context manager that kills these and drops its version.

    Args:
        site: The services.
        name: Of its folder.
        seed: Of its version and its log.
        partitions: Of its events.
        views: How rows follow.
        max_history: Behaviors kept of a user.
        max_poll_records: Records of one transaction.
    """

    def __init__(
        self,
        site: Site,
        name: str,
        seed: int,
        *,
        partitions: int = PARTITIONS,
        views: ViewsConfig = VIEWS,
        max_history: int = MAX_HISTORY,
        max_poll_records: int = 25,
    ) -> None:
        self.folder = Path(site.folder) / f"{name}-{seed}-{time.monotonic_ns()}"
        self.world = World(
            site.kafka.address,
            site.milvus.address,
            self.folder,
            seed,
            partitions=partitions,
            max_poll_records=max_poll_records,
        )
        self.world.store.activate(self.world.version)
        self.max_history = max_history
        self._config = self.world.serving(views, max_history)
        self._now_ms = 1_000_000_000_000
        self._replicas = ExitStack()
        self._started: list[Replica] = []

    @property
    def group(self) -> KafkaConfig:
        """The topics and groups of its replicas."""
        return self.world.config.of_deployment(self.world.place.deployment)

    @property
    def session_s(self) -> float:
        """After so long the broker gives the partitions of one that died to others."""
        return self.world.config.session_timeout_s

    def start(self, stops: StopsAt = NOWHERE) -> Replica:
        """Start a replica."""
        self._started.append(
            self._replicas.enter_context(Replica(self._config, self.world.addresses, self.folder, stops))
        )
        return self._started[-1]

    def send(self, num_records: int, seed: int) -> None:
        """Write what real logs have, later than what was written before."""
        self.world.send(mixed_log(num_records, USERS, seed, self.later(num_records)))

    def later(self, num_records: int) -> int:
        """Return when the first of so many events is, one a second, which are the next ones."""
        first_ms = self._now_ms
        self._now_ms += 1000 * num_records
        return first_ms

    def send_for(self, seconds: float, draw: random.Random, per_s: int = 100) -> None:
        """Write so at a pace for some time."""
        started, sent = time.monotonic(), 0
        while (elapsed := time.monotonic() - started) < seconds:
            due = int(elapsed * per_s) - sent
            if due >= _AT_LEAST:
                self.send(due, draw.randrange(1 << 30))
                sent += due
            time.sleep(0.05)

    def states_identity(self) -> LogIdentity:
        """Return which log of states it is."""
        return log_identity(self.world.place.kafka, self.world.config.states_topic)

    def lag(self) -> int:
        """Return how many events no replica has applied."""
        address = self.world.place.kafka
        return lag(address, self.group, self.group.updaters_group, end_positions(address, self.group))

    def wait_applied(self, timeout_s: float = WITHIN_S) -> float:
        """Return how long it took until all events were applied, in seconds."""
        try:
            return eventually(self._is_applied, timeout_s, "all events applied")
        except TimeoutError:
            for each in self._started:
                if not each.is_stopped():
                    logger.exception("replica %d stands: %s", each.pid, each.ask("stands"))
            raise

    def _is_applied(self) -> bool:
        try:
            return not self.lag()
        except MindDistError:
            return False

    def num_dead_letters(self) -> int:
        """Return how many dead letters there are."""
        return len(dead_letters(self.world.place.kafka, self.world.config.dead_letter_topic))

    def finish(self, within_s: float = 30.0, figures: dict[str, float | int | str] | None = None) -> Run:
        """Wait until all events are applied and the rows follow, and return what is there then.

        Args:
            within_s: How long rows may take behind the states.
            figures: What was measured before.
        """
        self.wait_applied()
        started = time.monotonic()
        found, expected = self.world.find(self.max_history)
        while found != NOTHING and time.monotonic() < started + _TRANSACTION_S:
            time.sleep(0.5)
            found, expected = self.world.find(self.max_history)
        in_rows = rows_in_time(self.world, expected, within_s) if found == NOTHING else NOTHING
        return Run(found.plus(in_rows), figures or {}, tuple(self.world.problems))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._replicas.close()
        self.world.close()


def rows_in_time(world: World, expected: Rows, within_s: float = 30.0) -> Findings:
    """Return what differs in the rows, once they are what they must be, or had time for it."""
    started = time.monotonic()
    found = world.find_in_rows(expected)
    while found != NOTHING and time.monotonic() < started + within_s:
        time.sleep(0.2)
        found = world.find_in_rows(expected)
    return found


def num_repairs(replicas: Sequence[Replica]) -> int:
    """Return how many rows some replicas found to differ, and wrote anew."""
    return sum(replica.num_repairs() for replica in replicas if replica.state() not in {"", "Z"})
