"""A broker, Milvus and Ray on this machine, until Ctrl-C.

python -m jobs.stack up
"""

from __future__ import annotations

import shlex
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from jobs.cli import run, stop_requested
from mind_dist.local_stack import LocalStack


@dataclass(frozen=True)
class Stack:
    """Start services as local processes and keep them until Ctrl-C or SIGTERM."""

    action: Positional[Literal["up"]]
    """What to do."""
    directory: Path = Path(".mind_dist/stack")
    """Where logs and data go, each start's below a directory of its own."""
    broker: bool = True
    """Start a broker: Apache Kafka where KAFKA_HOME is set, Tansu otherwise."""
    milvus: bool = True
    """Start a Milvus Lite server."""
    ray: bool = True
    """Start Ray."""
    num_cpus: int = 8
    """Logical CPUs of Ray."""


def main(job: Stack) -> None:
    """Start, say where everything is in lines for a shell, and wait."""
    stop = stop_requested()
    up = LocalStack.start(job.directory, broker=job.broker, milvus=job.milvus, ray=job.ray, num_cpus=job.num_cpus)
    with suppress(KeyboardInterrupt), up as stack:
        for name, value in stack.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        print(f"# up until Ctrl-C; logs are in {stack.directory}", flush=True)
        while not stop():
            time.sleep(0.2)


if __name__ == "__main__":
    run(Stack, main)
