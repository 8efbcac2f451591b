import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator

import pytest
import ray
from ray import serve
from ray.serve.config import HTTPOptions

from jobs import serve as serve_job
from jobs.serve import Serve, deploy, main, take_down
from mind_dist.config import Addresses, KafkaConfig, MilvusConfig, ServingConfig
from mind_dist.errors import ConfigError, PortInUse, ServiceUnavailable
from mind_dist.local_process import free_ports
from mind_dist.log.kafka import ensure_topics, num_partitions
from tests.replicas import kafka_arguments


@pytest.fixture(autouse=True)
def connected(ray_cluster: str) -> Iterator[None]:
    ray.init(address=ray_cluster, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def config() -> ServingConfig:
    [port] = free_ports(1)
    topic = f"served-{uuid.uuid4().hex}"
    return ServingConfig(
        kafka=KafkaConfig(topic, f"{topic}-dead", f"{topic}-states", connect_timeout_s=2),
        milvus=MilvusConfig(retry_s=1),
        port=port,
        cpus_per_replica=0.1,
    )


@pytest.fixture
def environment(
    tansu_broker: str, milvus_lite: str, config: ServingConfig, monkeypatch: pytest.MonkeyPatch
) -> Addresses:
    ensure_topics(tansu_broker, {config.kafka.topic: 2})
    monkeypatch.setenv("MIND_DIST_KAFKA", tansu_broker)
    monkeypatch.setenv("MIND_DIST_MILVUS", milvus_lite)
    return Addresses(tansu_broker, milvus_lite)


def test_it_serves_until_sigterm_and_leaves_nothing_deployed(
    config: ServingConfig, environment: Addresses, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{config.port}"
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=_terminate_when_answering, args=(f"{url}/healthz",))
    thread.start()
    try:
        main(Serve(config))
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)
    assert num_partitions(environment.kafka, config.kafka.states_topic) == 2
    assert num_partitions(environment.kafka, config.kafka.dead_letter_topic) == 1
    assert f"serving at {url}, documented at {url}/docs\n" in capsys.readouterr().out
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{url}/healthz", timeout=5)


def _terminate_when_answering(url: str) -> None:
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            break
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_cluster_that_serves_another_deployment_is_left_as_it_is(
    config: ServingConfig, environment: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = dataclasses.replace(environment, deployment="shop")
    url = deploy(config, shop, timeout_s=120)
    try:
        with monkeypatch.context() as same:
            same.setenv("MIND_DIST_DEPLOYMENT", "shop")
            with pytest.raises(ConfigError, match="block: this Ray cluster serves the deployment already"):
                main(Serve(config))
        with pytest.raises(ConfigError, match=r"of the application shop__mind_dist already: serve each deployment on"):
            main(Serve(config))
        monkeypatch.setenv("MIND_DIST_DEPLOYMENT", "shop_eu")
        with pytest.raises(ConfigError, match=r"MIND_DIST_DEPLOYMENT: .*shop__mind_dist already"):
            main(Serve(config))
        assert serve.status().applications["shop__mind_dist"].status == "RUNNING"
        urllib.request.urlopen(f"{url}/healthz", timeout=5).close()
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]


def test_a_deployment_that_does_not_come_up_is_one_error(config: ServingConfig, environment: Addresses) -> None:
    [nowhere] = free_ports(1)
    lost = Addresses(environment.kafka, f"http://127.0.0.1:{nowhere}")
    try:
        with pytest.raises(ServiceUnavailable, match="Ray Serve at http"):
            deploy(config, lost, timeout_s=5)
    finally:
        take_down()


def test_a_missing_broker_or_store_is_named_before_anything_is_deployed(
    config: ServingConfig, environment: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    [nowhere] = free_ports(1)
    monkeypatch.setenv("MIND_DIST_MILVUS", f"http://127.0.0.1:{nowhere}")
    with pytest.raises(ServiceUnavailable, match=f"Milvus at http://127.0.0.1:{nowhere}"):
        main(Serve(config))
    monkeypatch.setenv("MIND_DIST_KAFKA", f"127.0.0.1:{nowhere}")
    with pytest.raises(ServiceUnavailable, match=f"Kafka at 127.0.0.1:{nowhere}"):
        main(Serve(config))
    assert environment.kafka


def test_leaving_a_service_running_needs_a_cluster(config: ServingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(ConfigError, match="set RAY_ADDRESS"):
        main(Serve(config, block=False))


def run_job(config: ServingConfig, **environment: str) -> subprocess.Popen[str]:
    """Start the job as a process of its own, and return it."""
    topics = [argument.replace("--kafka", "--serving.kafka") for argument in kafka_arguments(config.kafka)]
    arguments = [f"--serving.port={config.port}", *topics]
    command = [sys.executable, "-m", "jobs.serve", "--serving.cpus-per-replica=0.1", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("ray_address", ["cluster", "local"])
def test_a_port_that_somebody_has_is_one_line_before_anything_is_deployed(
    config: ServingConfig, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ray_address == "local":
        monkeypatch.delenv("RAY_ADDRESS")
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # it would share, as another stack's proxy does
        holder.bind(("127.0.0.1", config.port))
        holder.listen()
        with run_job(config) as job:
            _, said = job.communicate(timeout=120)
    expected = f"error: port {config.port} at 127.0.0.1, wanted for HTTP, is held by process {os.getpid()} ("
    [line] = said.splitlines()
    assert line.startswith(expected)
    assert line.endswith("stop it, or choose another with --serving.port")
    assert job.returncode == 1


def test_a_port_is_asked_for_on_every_machine_of_the_cluster(
    config: ServingConfig, environment: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_job, "is_local", lambda _address: False)  # as from a machine outside the cluster
    with (
        socket.create_server(("127.0.0.1", config.port)),
        pytest.raises(PortInUse, match=f"port {config.port} .* is held by process {os.getpid()}"),
    ):
        deploy(config, environment, timeout_s=5)
    assert not serve.status().proxies


def test_serve_that_runs_on_another_port_is_named_and_left_alone(config: ServingConfig, environment: Addresses) -> None:
    [other] = free_ports(1)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=other))
    try:
        with pytest.raises(
            ConfigError, match=rf"serving\.port: Ray Serve runs on this cluster at 127\.0\.0\.1:{other}"
        ):
            main(Serve(config))
        assert environment.kafka
        assert serve.status().proxies
    finally:
        take_down()


@pytest.mark.usefixtures("environment")
def test_ctrl_c_ends_it_with_130_and_without_noise(config: ServingConfig) -> None:
    with run_job(config) as job:
        assert job.stdout is not None
        lines = iter(job.stdout.readline, "")
        assert any(line.startswith("serving at ") for line in lines)
        job.send_signal(signal.SIGINT)
        rest, said = job.communicate(timeout=120)
    assert job.returncode == 130
    assert "infinite retries" not in rest + said
    assert "Traceback" not in rest + said


def test_a_missing_topic_is_one_line_with_the_command_that_makes_it(
    config: ServingConfig, tansu_broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIND_DIST_KAFKA", tansu_broker)
    command = f"kafka-topics.sh --bootstrap-server {tansu_broker} --create --topic {config.kafka.topic} --partitions 16"
    with pytest.raises(ConfigError, match=f"there is no topic .*{command} "):
        main(Serve(config))
