"""`jobs.publish` against Milvus Lite and a Kafka-protocol broker, with a model version on disk."""

from __future__ import annotations

import dataclasses
import json
import shutil
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.cli import run
from jobs.load_users import LoadUsers
from jobs.load_users import main as load_users
from jobs.publish import PublishJob, _metrics, main
from mind_dist import local_stack
from mind_dist.checkpoint import TableRows, VersionWriter, seal
from mind_dist.config import Addresses, KafkaConfig, MilvusConfig, ModelConfig, TrainingConfig, dump
from mind_dist.dataset.item_catalog import ITEM_SCHEMA, ItemCatalog
from mind_dist.dataset.parquet import DatasetManifest, sequences_table, write_manifest
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import ConfigError
from mind_dist.evaluation import EvaluationReport
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.keys import IdType
from mind_dist.log.kafka import EventProducer, ensure_event_topics
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.records import BehaviorSequence
from mind_dist.retrieval import retrieve
from mind_dist.storage import Directory
from mind_dist.training.run_versions import RunVersions
from tests.replicas import eventually, kafka_arguments, kafka_config, updating

NUM_ITEMS, NUM_USERS, DIM = 50, 12, 8
CONFIG = ModelConfig(dim=DIM, num_interests=2, hidden_dims=(8,))


def write_version(path: Path, seed: int) -> str:
    """Write an untrained version; returns its URI."""
    torch.manual_seed(seed)
    keys = np.arange(NUM_ITEMS)
    vectors = torch.randn(NUM_ITEMS, DIM).numpy()
    catalog = pa.table([keys, [str(key) for key in keys], [1] * NUM_ITEMS, [[]] * NUM_ITEMS], schema=ITEM_SCHEMA)
    writer = VersionWriter(Directory.at(path))
    writer.write_dense(MultiInterestModel(CONFIG).state_dict())
    writer.write_optimizer({})
    writer.write_item_shard(0, 1, [TableRows(keys, vectors, vectors, vectors, keys, keys + 1, keys)])
    genres = pa.array([["war", "comedy"][key % 2] for key in keys])
    writer.write_catalog(ItemCatalog(catalog.append_column("genre", genres)))
    config = {"model": dump(CONFIG), "training": dump(TrainingConfig(max_behaviors=5))}
    described: dict[str, Any] = {"watermark_ms": 0, "positions": {}, "metrics": {"recall@50": 0.5}, "source": ""}
    seal(writer.directory, writer.files, config=config, id_type="int64", step=seed, **described)
    return str(path)


def write_dataset(path: Path, id_type: IdType = "int64") -> str:
    """Write the users as the test split, where the last fifth of a history is to be found."""
    directory = Directory.at(path)
    users = [
        BehaviorSequence(key, np.arange(key, key + 10, dtype=np.int64), np.arange(10, dtype=np.int64))
        for key in range(NUM_USERS)
    ]
    for split in ("train", "valid", "test"):
        table = sequences_table(users if split == "test" else [])
        directory.write_table(f"sequences/{split}/bucket-00000.parquet", table)
    counts = {"train": 0, "valid": 0, "test": NUM_USERS}
    how = {"by": "user", "input_fraction": 0.8}
    write_manifest(directory, DatasetManifest(id_type, 1, counts, counts, NUM_ITEMS, 0, 10, split=how))
    return directory.uri


def run_job(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Run the job as its command line does; returns what it printed."""
    with pytest.raises(SystemExit) as ended:
        run(PublishJob, main, list(arguments))
    printed = capsys.readouterr()
    assert ended.value.code == code, printed.err
    return " ".join((printed.out + printed.err).split())


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tansu_broker: str) -> Any:
    """Yield an empty store that the job finds, on a server of its own: the test looks at all versions there are."""
    with local_stack.milvus_lite(tmp_path / "milvus") as server:
        monkeypatch.setenv("MIND_DIST_MILVUS", server.address)
        monkeypatch.setenv("MIND_DIST_KAFKA", tansu_broker)
        monkeypatch.setenv("COLUMNS", "200")
        store = MilvusVectorStore(server.address, MilvusConfig())
        yield store
        store.close()


def test_versions_are_published_listed_and_rolled_back(
    tmp_path: Path, store: MilvusVectorStore, tansu_broker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (write_version(tmp_path / f"v{seed}", seed) for seed in (1, 2))
    kafka = kafka_config(f"published-{uuid.uuid4().hex}")
    ensure_event_topics(tansu_broker, kafka, 2)
    job = (*kafka_arguments(kafka), "--version-uri")

    said = run_job(capsys, *job, first)
    old = store.active_version()
    assert old is not None
    assert f"readers are on {old}, before on none {NUM_ITEMS} items, 0 users" in said
    assert "is active already" in run_job(capsys, *job, first)

    with updating(kafka, addresses(tansu_broker), tmp_path / "states"):
        load_users(LoadUsers(write_dataset(tmp_path / "data"), part="inputs", kafka=kafka))
        eventually(lambda: store.count_users(old) == NUM_USERS)
        rows = store.get_users(old, range(NUM_USERS), strong=True)
        assert [rows[key].behaviors.tolist() for key in (0, 5)] == [[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]]
        seen = rows[3].behaviors.tolist()
        found = retrieve(store, old, rows[3].interests, 10, exclude=seen, filter={"genre": "war"})
        assert len(found) == 10
        assert all(candidate.item_key % 2 == 0 for candidate in found)

        said = run_job(capsys, *job, second)
        new = store.active_version()
        assert new is not None
        assert f"readers are on {new}, before on {old} {NUM_ITEMS} items, {NUM_USERS} users" in said
        fresh = store.get_users(new, range(NUM_USERS), strong=True)
        assert [fresh[key].behaviors.tolist() for key in range(NUM_USERS)] == [
            rows[key].behaviors.tolist() for key in range(NUM_USERS)
        ]
        row = fresh[3]
        [alone] = InterestEncoder.load(second).encode([BehaviorSequence(3, row.behaviors, row.timestamps_ms)])
        assert row.interests.tobytes() == alone.vectors.tobytes()

        said = run_job(capsys, "--list")
        assert said.index(new) < said.index("active") < said.index(old)
        send(tansu_broker, kafka, user=3, item=30)
        eventually(lambda: 30 in behaviors(store, new, 3))
        assert f"readers are on {old}" in run_job(capsys, *job[:-1], "--rollback")
        assert behaviors(store, old, 3)[-1] == 30  # it was behind while readers were elsewhere
        assert "no version before" in run_job(capsys, *job[:-1], "--rollback", code=1)
        assert f"readers are on {new}" in run_job(capsys, *job[:-1], "--rollback", new)
    assert (store.active_version(), store.staged_version()) == (new, None)


def test_users_of_whom_nobody_makes_rows_are_not_waited_for(
    tmp_path: Path, store: MilvusVectorStore, tansu_broker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (write_version(tmp_path / f"v{seed}", seed) for seed in (1, 2))
    kafka = kafka_config(f"alone-{uuid.uuid4().hex}")
    ensure_event_topics(tansu_broker, kafka, 2)
    job = (*kafka_arguments(kafka), "--version-uri")
    run_job(capsys, *job, first)
    old = store.active_version()
    assert old is not None
    with updating(kafka, addresses(tansu_broker), tmp_path / "states"):
        send(tansu_broker, kafka, user=1, item=1)
        eventually(lambda: behaviors(store, old, 1) == [1])
    said = run_job(capsys, *job, second, "--publishing.catch-up-s", "1", code=1)
    assert "there are users, and no updater makes their rows" in said
    assert "start python -m jobs.serve, or set publishing.wait_for_users to false" in said
    assert (store.active_version(), store.staged_version(), len(store.versions())) == (old, None, 1)

    assert f"before on {old}" in run_job(capsys, *job, second, "--publishing.no-wait-for-users")
    new = store.active_version()
    assert new is not None
    assert new != old
    assert store.count_users(new) == 0
    with updating(kafka, addresses(tansu_broker), tmp_path / "another disk"):
        eventually(lambda: behaviors(store, new, 1) == [1])


def test_what_is_published_from_a_run_can_be_loaded_when_the_run_has_deleted_it(
    tmp_path: Path, store: MilvusVectorStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run, copies = RunVersions(Directory.at(tmp_path / "run")), tmp_path / "copies"
    for settings in ((), ("--keep-in", str(copies))):
        step = 10 + len(store.versions())
        write_version(Path(run.place(step).path), step)
        run.keep(step, 1)
        job = ("--publishing.no-wait-for-users", "--publishing.keep", "0", *settings)
        assert "readers are on" in run_job(capsys, *job, "--version-uri", str(tmp_path / "run"))
        assert "is active already" in run_job(capsys, *job, "--version-uri", str(tmp_path / "run"))
        shutil.rmtree(run.place(step).path)
        [info] = store.versions()
        assert InterestEncoder.load(info.uri).model_version == store.active_version()
    [copy] = copies.glob("*/*/manifest.json")
    assert copy.parent == Path(info.uri)


def addresses(kafka: str) -> Addresses:
    return dataclasses.replace(Addresses.from_environment(), kafka=kafka)


def send(broker: str, kafka: KafkaConfig, user: int, item: int) -> None:
    with closing(EventProducer(broker, kafka)) as producer:
        producer.send(user, item, 1_000_000)


def behaviors(store: MilvusVectorStore, version: str, user: int) -> list[int]:
    rows = store.get_users(version, [user], strong=True)
    return [int(item) for item in rows[user].behaviors] if user in rows else []


@pytest.mark.parametrize(
    "arguments", [(), ("--list", "--version-uri", "x"), ("--rollback", "a", "b"), ("--list", "--rollback")], ids=str
)
def test_asking_for_nothing_or_for_two_things_is_a_wrong_setting(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "error:" in run_job(capsys, *arguments, code=2)


def test_a_store_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MIND_DIST_MILVUS", "http://127.0.0.1:1")
    said = run_job(capsys, "--list", "--milvus.retry-s", "0", code=1)
    assert "Milvus at http://127.0.0.1:1 did not answer" in said


def test_an_evaluation_of_another_version_is_refused(tmp_path: Path) -> None:
    uri = write_version(tmp_path / "version", seed=1)
    evaluation = tmp_path / "evaluation.json"
    report = EvaluationReport("dataset", "v00000009_00000000", "test", NUM_ITEMS, {"model": {"recall@50": 0.5}})
    evaluation.write_text(json.dumps(dump(report)))
    with pytest.raises(ConfigError, match="is of v00000009_00000000"):
        _metrics(evaluation, InterestEncoder.load(uri).model_version)
    assert _metrics(evaluation, "v00000009_00000000") == {"recall@50": 0.5}
