"""Jobs submitted as on a cluster, by the command line tool, and then followed by polling.

`ray job submit` tails a job over a WebSocket, which has been seen to close (code 1006) before the job had ended, and then
fails. Asking over HTTP can be repeated: here until a deadline, whatever the dashboard answers meanwhile.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import httpx

ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}


def run_job(environment: Mapping[str, str], *command: str, options: tuple[str, ...] = ()) -> tuple[str, str]:
    """Submit `command` to the cluster `environment` names, wait for its end, and return its status and output."""
    job = f"test-{uuid.uuid4().hex}"
    ray = str(Path(sys.executable).with_name("ray"))
    line = [ray, "job", "submit", "--no-wait", "--submission-id", job, *options, "--", *command]
    done = subprocess.run(
        line, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    token = Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    with httpx.Client(
        base_url=environment["RAY_API_SERVER_ADDRESS"], headers={"Authorization": f"Bearer {token}"}, timeout=30
    ) as client:
        deadline_s = time.monotonic() + 300
        while (status := _ask(client, f"/api/jobs/{job}", deadline_s)["status"]) not in ENDED:
            assert time.monotonic() < deadline_s, f"job {job} is {status}"
            time.sleep(0.5)
        return status, _ask(client, f"/api/jobs/{job}/logs", deadline_s)["logs"]


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
