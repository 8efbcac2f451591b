"""Two products on one Milvus and one Kafka, from publishing to updating, and back."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import ray

from jobs.cli import run
from jobs.publish import PublishJob, main
from mind_dist import local_stack
from mind_dist.config import Addresses, KafkaConfig, MilvusConfig, ServingConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.keys import IdType, id_key
from mind_dist.log.kafka import EventProducer, KafkaDeadLetters, KafkaSource, ensure_topics
from mind_dist.observability import InMemoryMetrics
from mind_dist.serving.ray_app import application_name
from mind_dist.serving.updater import UserVectorUpdater
from mind_dist.training.ray_trainer import train_on_ray
from mind_dist.training.settings import TrainSettings
from tests.services import BROKERS
from tests.toy_training import FROM_LOG, MODEL, write_dataset
from tests.versions import original_id, tiny_version

PARTITIONS = 2
USER: dict[IdType, int | str] = {"int64": 7, "string": "user-7"}


class Product:
    """A deployment with a topic of its own."""

    def __init__(self, name: str, id_type: IdType, kafka: str, milvus: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.id_type, self._patch = name, id_type, monkeypatch
        self.addresses = Addresses(kafka, milvus, deployment=name)
        topic = f"events-of-{name or 'nobody'}"
        self.kafka = KafkaConfig(topic, f"{topic}-dead", max_poison_fraction=1.0).of_deployment(name)
        ensure_topics(kafka, {self.kafka.topic: PARTITIONS, self.kafka.dead_letter_topic: 1})
        self.store = MilvusVectorStore.at(self.addresses, MilvusConfig())

    def publish(self, *arguments: str, code: int = 0) -> None:
        self._patch.setenv("MIND_DIST_KAFKA", self.addresses.kafka)
        self._patch.setenv("MIND_DIST_MILVUS", self.addresses.milvus)
        self._patch.setenv("MIND_DIST_DEPLOYMENT", self.name)
        with pytest.raises(SystemExit) as ended:
            run(PublishJob, main, ["--kafka.topic", self.kafka.topic, *arguments])
        assert ended.value.code == code

    def send(self, num_events: int) -> None:
        with closing(EventProducer(self.addresses.kafka, self.kafka)) as producer:
            for at in range(num_events):
                producer.send(USER[self.id_type], original_id(at, self.id_type), 1_700_000_000_000 + at)

    def update(self, uri: str, num_events: int) -> None:
        """Apply this many events to a version's users, in its own consumer group."""
        encoder = InterestEncoder.load(uri)
        source = KafkaSource(
            self.addresses.kafka, self.kafka, self.kafka.group(encoder.model_version), partitions=range(PARTITIONS)
        )
        config = dataclasses.replace(ServingConfig(), kafka=self.kafka)
        dead_letters = KafkaDeadLetters(self.addresses.kafka, self.kafka)
        updater = UserVectorUpdater(encoder, self.store, source, dead_letters, config=config, metrics=InMemoryMetrics())
        taken = 0
        while taken < num_events:
            report = updater.step(1.0)
            assert report.num_poison == 0
            taken += report.num_records
        updater.close()

    def committed(self, version: str) -> int:
        group = self.kafka.group(version)
        with closing(KafkaSource(self.addresses.kafka, self.kafka, group, partitions=range(PARTITIONS))) as source:
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
        made = [Product(name, id_type, kafka, server.address, monkeypatch) for name, id_type in kinds]
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

    nobody.update(uris["int64"][0], 5)
    assert nobody.behaviors() == nobody.keys(range(5))
    assert (europe.behaviors(), shop.behaviors()) == ([], [])
    assert (nobody.committed(first), europe.committed(first)) == (5, 0)
    europe.update(uris["int64"][0], 5)
    shop.update(uris["string"][0], 5)
    assert shop.behaviors() == shop.keys(range(5))

    shop.publish("--version-uri", uris["string"][1])
    assert shop.behaviors() == shop.keys(range(5))
    assert (nobody.store.active_version(), europe.store.active_version()) == (first, first)
    second = shop.store.active_version()
    assert second is not None
    assert shop.committed(second) == 5  # handed over in the deployment's own groups
    shop.publish("--rollback")
    assert shop.store.active_version() != second
    capsys.readouterr()
    nobody.publish("--rollback", code=1)
    assert "there is no version before" in capsys.readouterr().err
    europe.publish("--rollback", second, code=1)
    assert f"there is no version {second}" in capsys.readouterr().err

    europe.publish("--version-uri", uris["int64"][1], "--publishing.keep", "0")
    assert [info.model_version for info in europe.store.versions()] == [europe.store.active_version()]
    assert [info.model_version for info in nobody.store.versions()] == [first]
    assert nobody.behaviors() == nobody.keys(range(5))
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
    kafka = KafkaConfig("events-to-train-on", "events-to-train-on-dead")
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
