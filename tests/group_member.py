"""A member of a consumer group in a process of its own, to be frozen: it does what it is told through a pipe."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from mind_dist.config import KafkaConfig
from mind_dist.errors import MindDistError
from mind_dist.log.kafka import KafkaSource

_ANSWER_WITHIN_S = 60


class MemberProcess:
    """Calls a `KafkaSource` in another process, which can be stopped in between and woken again."""

    def __init__(self, pid: int, pipe: Connection) -> None:
        self._pid = pid
        self._pipe = pipe

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what the method returns; raise what it raises."""
        self._pipe.send((method, arguments))
        assert self._pipe.poll(_ANSWER_WITHIN_S), f"no answer to {method}"
        answer = self._pipe.recv()
        if isinstance(answer, MindDistError):
            raise answer
        return answer

    def freeze(self) -> None:
        """Stop the process where it is."""
        os.kill(self._pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        os.kill(self._pid, signal.SIGCONT)


@contextmanager
def member_process(bootstrap: str, config: KafkaConfig, group: str) -> Iterator[MemberProcess]:
    """Start a member."""
    context = multiprocessing.get_context("spawn")  # a fork of a server lacks what tests put into the environment
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, bootstrap, config, group), daemon=True)
    process.start()
    assert process.pid is not None
    try:
        yield MemberProcess(process.pid, here)
    finally:
        process.kill()
        process.join()
        for each in (here, there):
            each.close()


def serve(pipe: Connection, bootstrap: str, config: KafkaConfig, group: str) -> None:
    """Do what comes through the pipe, one call after the other."""
    source = KafkaSource(bootstrap, config, group)
    while True:
        method, arguments = pipe.recv()
        try:
            pipe.send(getattr(source, method)(*arguments))
        except MindDistError as error:
            pipe.send(error)
