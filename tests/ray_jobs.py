"""Jobs submitted as on a cluster, by the command line tool, and then followed by polling.

`ray job submit` tails a job over a WebSocket, which has been seen to close (code 1006) before the job had ended, and then
fails. Asking over HTTP can be repeated: here until a deadline, whatever the dashboard answers meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}


def run_job(environment: Mapping[str, str], *command: str, options: tuple[str, ...] = ()) -> tuple[str, str]:
    """Submit `command` to the cluster `environment` names, wait for its end, and return its status and output."""
    return submit_job(environment, *command, options=options).end()


def submit_job(environment: Mapping[str, str], *command: str, options: tuple[str, ...] = ()) -> Job:
    """Submit `command` to the cluster `environment` names."""
    job = f"test-{uuid.uuid4().hex}"
    ray = str(Path(sys.executable).with_name("ray"))
    line = [ray, "job", "submit", "--no-wait", "--submission-id", job, *options, "--", *command]
    done = subprocess.run(
        line, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Job(environment, job)


@dataclass(frozen=True)
class Job:
    """A submitted job.

    Attributes:
        environment: Names its cluster.
        name: Its submission id.
    """

    environment: Mapping[str, str]
    name: str

    def end(self, within_s: float = 300) -> tuple[str, str]:
        """Wait for its end, and return its status and output."""
        deadline_s = time.monotonic() + within_s
        while (status := self.status(deadline_s)) not in ENDED:
            assert time.monotonic() < deadline_s, f"job {self.name} is {status}: {self.output(deadline_s)}"
            time.sleep(0.5)
        return status, self.output(deadline_s)

    def status(self, deadline_s: float) -> str:
        """Return what Ray says of it."""
        return self._ask("", deadline_s)["status"]

    def output(self, deadline_s: float) -> str:
        """Return what it has written."""
        return self._ask("/logs", deadline_s)["logs"]

    def _ask(self, what: str, deadline_s: float) -> dict[str, str]:
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        url, headers = self.environment["RAY_API_SERVER_ADDRESS"], {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
            return _ask(client, f"/api/jobs/{self.name}{what}", deadline_s)


def _ask(client: httpx.Client, path: str, deadline_s: float) -> dict[str, str]:
    """Return the answer of the dashboard, whose modules Ray restarts when they do not respond."""
    while True:
        try:
            answer = client.get(path)
            answer.raise_for_status()
        except httpx.HTTPError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.5)
        else:
            content: dict[str, str] = answer.json()
            return content
