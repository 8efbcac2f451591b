"""Real services for tests, each started once a session when first asked for; see `mind_dist.local_stack`.

Apache Kafka comes from `KAFKA_HOME`, or from `shared/kafka` beside the repository; where neither is there,
`BROKERS` lacks it and tests over every broker are not generated for it.
"""

import os
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import milvus
import pytest
from ray._private.authentication_test_utils import reset_auth_token_state

from mind_dist import local_stack
from mind_dist.local_process import LocalProcess, free_ports

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "kafka"
KAFKA_HOME = Path(os.environ["KAFKA_HOME"]) if "KAFKA_HOME" in os.environ else _BESIDE
"""Where Apache Kafka is, if it is there."""

BROKERS = ["tansu_broker", *(["kafka_broker"] if KAFKA_HOME.is_dir() else [])]
"""Fixtures of the brokers that can run here: parametrize over them and use `request.getfixturevalue`."""


@pytest.fixture(scope="session")
def tansu_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a Tansu broker."""
    with local_stack.tansu(tmp_path_factory.mktemp("tansu")) as broker:
        yield broker.address


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of an Apache Kafka broker."""
    with local_stack.apache_kafka(tmp_path_factory.mktemp("kafka"), KAFKA_HOME) as broker:
        yield broker.address


@pytest.fixture(scope="session")
def milvus_lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URI of a Milvus Lite server."""
    with local_stack.milvus_lite(tmp_path_factory.mktemp("milvus-lite")) as server:
        yield server.address


@pytest.fixture(scope="session")
def milvus_standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URI of a Milvus standalone server."""
    with standalone(tmp_path_factory.mktemp("milvus-standalone")) as server:
        yield server.address


_ETCD = """\
listen-client-urls: http://127.0.0.1:{client}
advertise-client-urls: http://127.0.0.1:{client}
listen-peer-urls: http://127.0.0.1:{peer}
initial-advertise-peer-urls: http://127.0.0.1:{peer}
initial-cluster: default=http://127.0.0.1:{peer}
"""  # the wheel's own start leaves etcd on 2379 and 2380, so only one server a machine would run


def standalone(directory: Path) -> LocalProcess:
    """Return the Milvus that the wheel `milvus` carries, with its data in `directory`."""
    config = milvus.MilvusServerConfig(data_dir=str(directory))
    names = [name for name in config.configurable_items if name.endswith("_port")]
    *ports, metrics, peer = free_ports(len(names) + 2)
    config.update(**dict(zip(names, ports, strict=True)))
    config.resolve()
    (directory / "etcd.yaml").write_text(_ETCD.format(client=config.get("etcd_port"), peer=peer))
    milvus._initialize_data_files(str(directory))
    environment = {
        "DEPLOY_MODE": "STANDALONE",
        "ETCD_CONFIG_PATH": str(directory / "etcd.yaml"),
        "METRICS_PORT": str(metrics),
        "MILVUS_RUN_DIR": str(directory / "run"),
        "LD_LIBRARY_PATH": str(directory / "bin"),
    }
    command = ["sh", "-c", 'cd "$1" && exec bin/milvus run standalone', "sh", str(directory)]
    port = config.get("proxy_port")
    address = f"http://127.0.0.1:{port}"
    health = f"http://127.0.0.1:{metrics}/healthz"
    log = directory / "milvus.log"
    return LocalProcess("Milvus", address, port, command, log, lambda: _healthy(health), environment, stop_within_s=1)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return b"OK" in response.read()
    except OSError:
        return False


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a Ray cluster; this process' environment lets `ray.init()` and job submission find it."""
    with local_stack.ray_head(tmp_path_factory.mktemp("ray")) as head, pytest.MonkeyPatch.context() as patch:
        for name, value in head.client_environment.items():
            patch.setenv(name, value)
        reset_auth_token_state()  # Ray read the environment when it was imported
        yield head.address
    reset_auth_token_state()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of an S3 server."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    log = tmp_path_factory.mktemp("s3") / "moto.log"
    with LocalProcess("S3", address, port, command, log, lambda: _answers(f"{address}/moto-api/")) as server:
        yield server.address


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except OSError:
        return False
    return True


@pytest.fixture
def s3_bucket(s3_server: str) -> str:
    """Return the URI of a fresh bucket on the S3 server: key and secret before the bucket, settings behind it."""
    name = f"bucket-{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{name}", method="PUT"), timeout=10).close()
    host = s3_server.removeprefix("http://")
    return f"s3://key:secret@{name}?endpoint_override={host}&scheme=http&region=us-east-1"
