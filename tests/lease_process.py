"""An owner of user states in a process of its own that freezes between two polls, and tells before and behind whether it holds its partitions.

python -m tests.lease_process KAFKA TOPIC FOLDER
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from mind_dist.config import StatesConfig
from mind_dist.errors import MindDistError
from mind_dist.states.on_kafka import states_on_kafka
from mind_dist.states.shared import SharedStores
from tests.states_process import kafka_config


def main(address: str, topic: str, folder: str) -> None:
    """Own, freeze, and tell."""
    kafka = kafka_config(topic)
    shared = SharedStores(kafka.session_timeout_s)
    updater = states_on_kafka(address, kafka, StatesConfig(directory=str(Path(folder))), "int64", shared=shared)
    for _ in range(400):
        updater.step(0.1)
        if shared.is_ours():
            break
    sys.stdout.write(f"{shared.is_ours()}\n")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGSTOP)
    with suppress(MindDistError):
        updater.step(0.1)
    sys.stdout.write(f"{shared.is_ours()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
