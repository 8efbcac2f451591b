import dataclasses
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest
import ray
from ray import serve

from jobs.serve import Serve, deploy, main
from mind_dist.config import Addresses, KafkaConfig, MilvusConfig, ServingConfig
from mind_dist.errors import ConfigError, ServiceUnavailable
from mind_dist.local_process import free_ports


@pytest.fixture(scope="module", autouse=True)
def connected(ray_cluster: str) -> Iterator[None]:
    ray.init(address=ray_cluster, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def config() -> ServingConfig:
    [port] = free_ports(1)
    return ServingConfig(
        kafka=KafkaConfig(connect_timeout_s=1), milvus=MilvusConfig(retry_s=1), port=port, cpus_per_replica=0.1
    )


@pytest.fixture
def environment(tansu_broker: str, milvus_lite: str, monkeypatch: pytest.MonkeyPatch) -> Addresses:
    monkeypatch.setenv("MIND_DIST_KAFKA", tansu_broker)
    monkeypatch.setenv("MIND_DIST_MILVUS", milvus_lite)
    return Addresses(tansu_broker, milvus_lite)


@pytest.mark.usefixtures("environment")
def test_it_serves_until_sigterm_and_leaves_nothing_deployed(
    config: ServingConfig, capsys: pytest.CaptureFixture[str]
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
        serve.shutdown()  # type: ignore[no-untyped-call]


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
