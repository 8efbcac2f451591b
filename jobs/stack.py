"""A broker, Milvus and Ray on this machine, until Ctrl-C.

python -m jobs.stack up
"""

from __future__ import annotations

import os
import shlex
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from jobs.cli import run, stop_requested
from mind_dist.config import Addresses, KafkaConfig
from mind_dist.errors import ConfigError
from mind_dist.local_stack import LocalStack
from mind_dist.log.kafka import ensure_event_topics
from mind_dist.ports import is_open


@dataclass(frozen=True)
class Stack:
    """Start services as local processes and keep them until Ctrl-C or SIGTERM.

    A later start in the same directory goes on where this one stops, however it stops: the broker's records and committed
    offsets, Milvus' collections, all ports and Ray's token are kept. Ray's jobs and what Serve had deployed are not:
    submit and serve again. Tansu and Apache Kafka keep records of their own: with KAFKA_HOME set and without, different
    ones are there. Delete the directory to begin empty.
    """

    action: Positional[Literal["up"]]
    """What to do."""
    directory: Path = Path(".mind_dist/stack")
    """Where logs, data and ports are kept; one stack at a time."""
    broker: bool = True
    """Start a broker, with the topics that jobs look for by default: Apache Kafka where KAFKA_HOME is set, Tansu
    otherwise."""
    milvus: bool = True
    """Start a Milvus Lite server."""
    ray: bool = True
    """Start Ray."""
    num_cpus: int = 8
    """Logical CPUs of Ray."""


def main(job: Stack) -> None:
    """Start, say where everything is in lines for a shell, and wait.

    Raises:
        ConfigError: The environment names a broker or a Milvus to use, and nothing answers there.
        ServiceEnded: A service has ended by itself; the others are stopped.
    """
    _check_given(job)
    stop = stop_requested()
    up = LocalStack.start(
        job.directory, keep=True, broker=job.broker, milvus=job.milvus, ray=job.ray, num_cpus=job.num_cpus
    )
    with suppress(KeyboardInterrupt), up as stack:
        if job.broker and "MIND_DIST_KAFKA" not in os.environ:  # our own broker: nobody else makes its topics
            ensure_event_topics(
                stack.addresses.kafka, KafkaConfig().of_deployment(Addresses.from_environment().deployment)
            )
        for name, value in stack.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        if stack.metrics_discovery is not None:
            print(f"# Prometheus finds Ray's metrics by file_sd_configs: {stack.metrics_discovery}")
        print(f"# up until Ctrl-C; logs and data are in {stack.directory}", flush=True)
        while not stop():
            stack.check_running()
            time.sleep(0.2)


def _check_given(job: Stack) -> None:
    """Say which services are those of the environment, as in a shell that has the exports of an earlier stack."""
    wanted = {"MIND_DIST_KAFKA": job.broker, "MIND_DIST_MILVUS": job.milvus, "RAY_ADDRESS": job.ray}
    for name in (name for name, is_wanted in wanted.items() if is_wanted and name in os.environ):
        address = os.environ[name]
        host, _, port = address.partition(",")[0].rpartition("://")[2].partition("/")[0].rpartition(":")
        if port.isdecimal() and not is_open(host, int(port)):
            raise ConfigError(name, f"is set, and nothing answers at {address}: unset it, and the stack starts its own")
        print(f"# {name} is set: {address} is used, and none is started; unset it to start one")


if __name__ == "__main__":
    run(Stack, main)
