"""Ray started on this machine by a job: tried once more where it is not up in time, then one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

JOB = """
import sys, types
from dataclasses import dataclass
import ray, ray._private.node as node, ray._private.services as services
from jobs.cli import connect_ray, run

@dataclass(frozen=True)
class Job:
    "Start Ray."

def main(job):
    hurried, init, tries = int(sys.argv[1]), ray.init, []
    time, get_node = node.time, services.get_node

    def not_yet(*_):
        raise RuntimeError("no such node yet")

    def counted(**settings):
        # Ray gives up where its node has not registered after 30 s: in a hurried try these pass in no time.
        tries.append(1)
        is_hurried = len(tries) <= hurried
        services.get_node = not_yet if is_hurried else get_node
        hasty = types.SimpleNamespace(**vars(time) | {"monotonic": lambda: 1000 * time.monotonic()})
        node.time = hasty if is_hurried else time
        return init(**settings)

    ray.init = counted
    connect_ray()
    print("up after", len(tries), "tries:", ray.is_initialized())

run(Job, main, [])
"""


def start(hurried: int) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", JOB, str(hurried)]
    return subprocess.run(command, cwd=REPOSITORY, env=bare, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("hurried", [1, 2])
def test_a_start_that_timed_out_is_tried_once_more_and_then_one_line(hurried: int) -> None:
    done = start(hurried)
    warning, *more = [line for line in done.stderr.splitlines() if "mind_dist" in line or line.startswith("error")]
    assert "Ray did not start, trying again error=The current node timed out during startup" in warning
    assert "Traceback" not in done.stderr
    if hurried == 1:
        assert (done.returncode, done.stdout, more) == (0, "up after 2 tries: True\n", [])
    else:
        [line] = more
        assert done.returncode == 1
        assert line.startswith("error: Ray at this machine did not answer within ")
        assert line.endswith("if the machine is busy, try again later or set RAY_ADDRESS to a running cluster)")
