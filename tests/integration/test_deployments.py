"""Two products on one Milvus and one Kafka, from publishing to updating, and back."""

import dataclasses
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

import pytest
import ray

from jobs.cli import run
from jobs.publish import PublishJob, main
from mind_dist import local_stack
from mind_dist.config import Addresses, KafkaConfig, MilvusConfig
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.keys import IdType, id_key
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_event_topics, ensure_topics
from mind_dist.serving.ray_app import UpdaterReplica, application_name
from mind_dist.training.ray_trainer import train_on_ray
from mind_dist.training.settings import TrainSettings
from tests.replicas import eventually, kafka_arguments, kafka_config, updating
from tests.services import BROKERS
from tests.toy_training import FROM_LOG, MODEL, write_dataset
from tests.versions import original_id, tiny_version

PARTITIONS = 2
USER: dict[IdType, int | str] = {"int64": 7, "string": "user-7"}


class Product:
    """A deployment with topics of its own."""

    def __init__(self, addresses: Addresses, id_type: IdType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses, self.id_type, self._folder, self._patch = addresses, id_type, folder, monkeypatch
        topics = kafka_config(f"events-of-{addresses.deployment or 'nobody'}-{uuid.uuid4().hex}")
        self._kafka = dataclasses.replace(topics, max_poison_fraction=1.0)
        ensure_event_topics(addresses.kafka, self.kafka, PARTITIONS)
        self.store = MilvusVectorStore.at(addresses, MilvusConfig())

    @property
    def kafka(self) -> KafkaConfig:
        return self._kafka.of_deployment(self.addresses.deployment)

    def publish(self, *arguments: str, code: int = 0) -> None:
        self._patch.setenv("MIND_DIST_KAFKA", self.addresses.kafka)
        self._patch.setenv("MIND_DIST_MILVUS", self.addresses.milvus)
        self._patch.setenv("MIND_DIST_DEPLOYMENT", self.addresses.deployment)
        with pytest.raises(SystemExit) as ended:
            run(PublishJob, main, [*kafka_arguments(self._kafka), *arguments])
        assert ended.value.code == code

    def send(self, num_events: int) -> None:
        with closing(EventProducer(self.addresses.kafka, self.kafka)) as producer:
            for at in range(num_events):
                producer.send(USER[self.id_type], original_id(at, self.id_type), 1_700_000_000_000 + at)

    def updating(self) -> AbstractContextManager[UpdaterReplica]:
        return updating(self._kafka, self.addresses, self._folder)

    def applied(self) -> int:
        """Return how far the deployment's own group has come in its events."""
        return self._committed(self.kafka, self.kafka.updaters_group)

    def written(self, version: str) -> int:
        """Return how far the rows of a version are behind the states, by the deployment's own group of that view."""
        [published_ms] = [info.published_ms for info in self.store.versions() if info.model_version == version]
        of_states = dataclasses.replace(self.kafka, topic=self.kafka.states_topic)
        return self._committed(of_states, self.kafka.view_group(version, published_ms))

    def _committed(self, config: KafkaConfig, group: str) -> int:
        with closing(KafkaSource(self.addresses.kafka, config, group, partitions=range(PARTITIONS))) as source:
            return sum(source.committed().values())

    def behaviors(self) -> list[int]:
        version = self.store.active_version()
        assert version is not None
        key = id_key(USER[self.id_type], self.id_type)
        rows = self.store.get_users(version, [key], strong=True)
        return [int(item) for item in rows[key].behaviors] if key in rows else []

    def keys(self, items: range) -> list[int]:
        return [id_key(original_id(item, self.id_type), self.id_type) for item in items]


@pytest.fixture(params=BROKERS)
def products(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Product]]:
    """Yield deployments without a name, and of names of which one begins with the other."""
    kafka = request.getfixturevalue(request.param)
    with local_stack.milvus_lite(tmp_path / "milvus") as server, ExitStack() as at_end:
        kinds: tuple[tuple[str, IdType], ...] = (("", "int64"), ("shop", "string"), ("shop_eu", "int64"))
        made = [
            Product(
                Addresses(kafka, server.address, deployment=name), id_type, tmp_path / f"states {name}", monkeypatch
            )
            for name, id_type in kinds
        ]
        for product in made:
            at_end.callback(product.store.close)
        yield made


def test_products_share_a_milvus_and_a_kafka_without_seeing_each_other(
    tmp_path: Path, products: list[Product], capsys: pytest.CaptureFixture[str]
) -> None:
    nobody, shop, europe = products
    uris = {kind: [tiny_version(tmp_path / f"{kind}{n}", seed=n, id_type=kind) for n in (1, 2)] for kind in USER}
    for product in products:  # two of them publish the very same version
        product.publish("--version-uri", uris[product.id_type][0])
        product.send(5)
    first = nobody.store.active_version()
    assert first is not None
    assert first == europe.store.active_version() != shop.store.active_version()
    assert [len(product.store.versions()) for product in products] == [1, 1, 1]

    with nobody.updating():
        eventually(lambda: nobody.behaviors() == nobody.keys(range(5)))
        assert (europe.behaviors(), shop.behaviors()) == ([], [])
        eventually(lambda: nobody.written(first))
    assert (nobody.applied(), europe.applied()) == (5, 0)
    assert europe.written(first) == 0

    with europe.updating(), shop.updating():
        eventually(lambda: shop.behaviors() == shop.keys(range(5)))
        shop.publish("--version-uri", uris["string"][1])
        assert shop.behaviors() == shop.keys(range(5))  # made before readers moved
        assert (nobody.store.active_version(), europe.store.active_version()) == (first, first)
        second = shop.store.active_version()
        assert second is not None
        assert shop.written(second)
        shop.publish("--rollback")
        assert shop.store.active_version() != second
        europe.publish("--version-uri", uris["int64"][1], "--publishing.keep", "0")
    capsys.readouterr()
    nobody.publish("--rollback", code=1)
    assert "there is no version before" in capsys.readouterr().err
    europe.publish("--rollback", second, code=1)
    assert f"there is no version {second}" in capsys.readouterr().err

    assert [info.model_version for info in europe.store.versions()] == [europe.store.active_version()]
    assert [info.model_version for info in nobody.store.versions()] == [first]
    assert nobody.behaviors() == nobody.keys(range(5))
    assert europe.behaviors() == europe.keys(range(5))
    assert nobody.store.count_items(first) == 60


def test_ids_of_another_type_are_refused_until_they_have_a_deployment_of_their_own(
    tmp_path: Path, products: list[Product], capsys: pytest.CaptureFixture[str]
) -> None:
    nobody, shop, _ = products
    numbers, texts = (tiny_version(tmp_path / kind, id_type=kind) for kind in USER)
    nobody.publish("--version-uri", numbers)
    before = nobody.store.active_version()
    capsys.readouterr()
    nobody.publish("--version-uri", texts, code=1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "has string ids, the active" in said
    assert "MIND_DIST_DEPLOYMENT" in said
    assert nobody.store.active_version() == before
    assert [info.id_type for info in nobody.store.versions()] == ["int64"]
    shop.publish("--version-uri", texts)
    assert [info.id_type for info in shop.store.versions()] == ["string"]


@pytest.mark.usefixtures("ray_cluster")
def test_training_of_a_deployment_shows_its_positions_in_a_group_of_its_own(tmp_path: Path, tansu_broker: str) -> None:
    kafka = KafkaConfig("events-to-train-on", dead_letter_topic="events-to-train-on-dead")
    ensure_topics(tansu_broker, {kafka.topic: PARTITIONS, kafka.dead_letter_topic: 1})
    with closing(EventProducer(tansu_broker, kafka)) as producer:
        for at in range(40):
            producer.send(at % 4, at % 7, 1_700_000_000_000 + at)
    dataset, storage = write_dataset(tmp_path / "dataset"), str(tmp_path / "runs")
    settings = TrainSettings(dataset, storage, "toy", "kafka", workers=1, model=MODEL, training=FROM_LOG, kafka=kafka)
    ray.init(log_to_driver=False)
    try:
        train_on_ray(settings, Addresses(tansu_broker, deployment="shop"))
    finally:
        ray.shutdown()
    for deployment, trained in (("shop", 40), ("", 0)):
        group = dataclasses.replace(settings, kafka=kafka.of_deployment(deployment)).group
        with closing(KafkaSource(tansu_broker, kafka, group, partitions=range(PARTITIONS))) as source:
            assert sum(source.committed().values()) == trained


def test_applications_of_two_deployments_can_be_told_apart() -> None:
    assert [application_name(name) for name in ("", "shop")] == ["mind_dist", "shop__mind_dist"]
