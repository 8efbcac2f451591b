"""A second Ray node on this machine, with ports and a directory of its own, that can be lost."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mind_dist.local_process import LocalProcess, free_ports
from mind_dist.local_stack.ray_head import RayHead


@contextmanager
def second_node(head: RayHead, directory: Path) -> Iterator[LocalProcess]:
    """Yield a node of one CPU that has joined the head's cluster."""
    agent, *others = ports = free_ports(3)
    session = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets' paths are short
    settings = {
        "address": head.address,
        "node-ip-address": "127.0.0.1",
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": others[0],
        "runtime-env-agent-port": others[1],
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": 1,
        "object-store-memory": 100_000_000,
        "temp-dir": session,
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    environment = {**head.client_environment, "RAY_raylet_start_wait_time_s": "120"}
    token = Path(head.client_environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    node = LocalProcess(
        "Ray node",
        head.address,
        agent,
        command,
        directory / "ray_node.log",
        lambda: _answers(f"http://127.0.0.1:{agent}/api/local_raylet_healthz", token),
        environment,
        other_ports=ports[1:],
    )
    try:
        with node:
            yield node
    finally:
        shutil.rmtree(session, ignore_errors=True)


def lose(node: LocalProcess) -> None:
    """Kill a node's raylet, as a machine that is gone would be; its workers end with it."""
    [raylet] = [pid for pid in node.processes() if _program(pid) == "raylet"]
    os.kill(raylet, signal.SIGKILL)
    while _program(raylet) == "raylet":
        time.sleep(0.05)


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # it has ended
        return ""


def _answers(url: str, token: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except OSError:
        return False
    return True
