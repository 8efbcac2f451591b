"""A Ray head node as a local process, with token authentication and ports of its own."""

from __future__ import annotations

import secrets
import shutil
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

from mind_dist.errors import ServiceUnavailable
from mind_dist.local_process import LocalProcess
from mind_dist.local_stack.kept import kept, kept_ports

_OBJECT_STORE_BYTES = 300_000_000
_START_WAIT_S = 120
_LATE = "timed out during startup"
"""What Ray says when its node was not up within a bound of 30 s that cannot be set."""


@dataclass
class RayHead(LocalProcess):
    """A Ray head node.

    Attributes:
        dashboard: Where `ray job submit --address` sends jobs.
        client_environment: What a process needs to connect to it.
        session: Where it keeps what one run needs; gone when it has stopped.
    """

    dashboard: str = ""
    client_environment: Mapping[str, str] = field(default_factory=dict)
    session: Path | None = None

    @property
    def metrics_discovery(self) -> Path | None:
        """The file in which Prometheus finds Ray's metrics agents."""
        return self.session and self.session / "prom_metrics_service_discovery.json"

    def start(self) -> None:
        """Start Ray, in an empty session directory."""
        if self.session is not None:
            shutil.rmtree(self.session, ignore_errors=True)  # of a stack that was killed
            self.session.mkdir(mode=0o700)
        super().start()

    def wait_ready(self) -> None:
        """Return when Ray serves; on a busy machine its start may come too late, and is then tried once more.

        Raises:
            ServiceUnavailable: It ended, somebody else has its port, or it was not ready in time.
        """
        try:
            super().wait_ready()
        except ServiceUnavailable:
            if self.is_running() or _LATE not in self.log.read_text(errors="replace"):
                raise
            super().stop()
            self.start()
            super().wait_ready()

    def stop(self) -> None:
        """End Ray, and move its logs to a folder of their own beside its output."""
        super().stop()
        if self.session is None or not self.session.exists():
            return
        for logs in self.session.glob("session_20*/logs"):
            shutil.move(logs, self.log.parent / "ray" / time.strftime("%Y%m%d-%H%M%S"))
        shutil.rmtree(self.session, ignore_errors=True)


def ray_head(directory: Path, *, num_cpus: int = 8, environment: Mapping[str, str] | None = None) -> RayHead:
    """Return a Ray head node.

    Args:
        directory: For its token, ports and logs.
        num_cpus: Logical CPUs; they may exceed the cores, for replicas and workers that mostly wait.
        environment: Variables for the workers.
    """
    port, dashboard_port, client_port, *agents = ports = kept_ports(directory, "Ray", 6)
    address, dashboard = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}"
    token_path = _token(directory / "ray_token")
    client = {
        "RAY_ADDRESS": address,
        "RAY_API_SERVER_ADDRESS": dashboard,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
    }
    session = Path(
        kept(directory, "Ray session", lambda: mkdtemp(prefix="ray-", dir="/tmp"))
    )  # sockets' paths are short
    settings = {
        "port": port,
        "node-ip-address": "127.0.0.1",
        "dashboard-port": dashboard_port,
        "ray-client-server-port": client_port,
        "dashboard-agent-listen-port": agents[0],
        "dashboard-agent-grpc-port": agents[1],
        "runtime-env-agent-port": agents[2],
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": num_cpus,
        "object-store-memory": _OBJECT_STORE_BYTES,
        "temp-dir": session,
    }
    agent = f"http://127.0.0.1:{agents[0]}/api/local_raylet_healthz"  # without it the dashboard turns jobs away
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=true"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    return RayHead(
        "Ray",
        address,
        port,
        command,
        directory / "ray.log",
        lambda: all(_responds(url, token_path.read_text()) for url in (f"{dashboard}/api/jobs/", agent)),
        {
            **(environment or {}),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_path),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # there is no other node to drain to
            "RAY_raylet_start_wait_time_s": str(_START_WAIT_S),
        },
        other_ports=ports[1:],
        port_advice="start in another directory",
        dashboard=dashboard,
        client_environment=client,
        session=session,
    )


def _token(path: Path) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return path.absolute()


def _responds(url: str, token: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - our own http address
    try:
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310
            return True
    except OSError:  # HTTP errors are among them
        return False
