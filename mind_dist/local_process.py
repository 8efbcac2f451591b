"""A server as a local process of its own: started, waited for, stopped with everything that came of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from mind_dist import supervise
from mind_dist.errors import ServiceEnded, ServiceUnavailable
from mind_dist.ports import check_port, free_ports, listeners

__all__ = ["LocalProcess", "free_ports", "listeners"]


@dataclass
class LocalProcess:
    """A server to run on this machine; a context manager that enters when it is ready.

    Attributes:
        service: What it is, for messages: `Kafka`, `Milvus`, `Ray`.
        address: What clients are told.
        port: Where it listens. Another process on the same port is noticed, not talked to.
        command: What to run.
        log: Where its output goes.
        other_ports: Further ports it binds; they must be free at the start, too.
        port_advice: How to choose other ports, for the message where one is held.
        is_ready: Tells whether it serves; asked only when its port is open.
        environment: Variables added to ours.
        kept_open: Descriptors that stay open until the server and all that came of it has ended.
        ready_within_s: How long it may take to be ready.
        stop_within_s: How long it may take to end by itself after SIGTERM.
    """

    service: str
    address: str
    port: int
    command: Sequence[str]
    log: Path
    is_ready: Callable[[], bool] = lambda: True
    environment: Mapping[str, str] = field(default_factory=dict)
    other_ports: Sequence[int] = ()
    port_advice: str = "choose another port"
    kept_open: Sequence[int] = ()
    ready_within_s: float = 120.0
    stop_within_s: float = 10.0
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server under a supervisor and return at once.

        Raises:
            PortInUse: Somebody else has its port.
        """
        for port in (self.port, *self.other_ports):
            check_port("127.0.0.1", port, purpose=self.service, advice=self.port_advice)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        supervised = [sys.executable, "-I", "-S", supervise.__file__, str(self.stop_within_s), *self.command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                supervised,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                pass_fds=self.kept_open,
                start_new_session=True,  # a Ctrl-C is ours alone: we stop the servers in order
            )

    def wait_ready(self) -> None:
        """Return when the server serves.

        Raises:
            ServiceUnavailable: It ended, somebody else has its port, or it was not ready in time.
        """
        start_s = time.monotonic()
        while not self._serves(time.monotonic() - start_s):
            if time.monotonic() - start_s > self.ready_within_s:
                raise self._unavailable(self.ready_within_s, "not ready")
            time.sleep(0.1)

    def _serves(self, waited_s: float) -> bool:
        if not self.is_running():
            raise self._unavailable(waited_s, "it ended")
        holders = listeners(self.port)
        if holders and not holders <= self.processes():
            raise self._unavailable(waited_s, f"port {self.port} is held by another process")
        return bool(holders) and self.is_ready()

    def _unavailable(self, waited_s: float, problem: str) -> ServiceUnavailable:
        return ServiceUnavailable(self.service, self.address, waited_s, f"{problem}; its log is {self.log}")

    def is_running(self) -> bool:
        """Tell whether the server was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def check_running(self) -> None:
        """Check that the server has not ended.

        Raises:
            ServiceEnded: It has.
        """
        if not self.is_running():
            raise ServiceEnded(self.service, self.address, str(self.log))

    def processes(self) -> set[int]:
        """Return the ids of all processes that came of the server, its supervisor's included."""
        return supervise.descendants_of(self._process.pid) if self._process else set()

    def stop(self) -> None:
        """End the server and everything that came of it; nothing happens when it is not running."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
