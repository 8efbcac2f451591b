"""A model version measured by exact search, and the job around it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.evaluate import EvaluateJob, main
from mind_dist.checkpoint import TableRows, VersionWriter, seal
from mind_dist.config import ModelConfig, TrainingConfig, dump, load
from mind_dist.dataset.activity import activity_of
from mind_dist.dataset.item_catalog import IS_COLD, ITEM_SCHEMA, ItemCatalog
from mind_dist.dataset.parquet import DatasetManifest, FeatureInfo, PreparedDataset, sequences_table, write_manifest
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import VersionError
from mind_dist.evaluation import EvaluationReport, evaluate_version, held_out, of_model
from mind_dist.evaluation.floors import Effort
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.records import BehaviorSequence, no_keys
from mind_dist.storage import Directory

NUM_ITEMS, DIM, FEATURE = 30, 8, 5000
HOUR_MS = 3_600_000
CONFIG = ModelConfig(dim=DIM, num_interests=3, hidden_dims=(8,))


def catalog() -> ItemCatalog:
    keys = list(range(NUM_ITEMS))
    table = pa.table([keys, [str(key) for key in keys], [1] * NUM_ITEMS, [[]] * NUM_ITEMS], schema=ITEM_SCHEMA)
    return ItemCatalog(table.append_column("genre", pa.array(["abc"[key % 3] for key in keys])))


def with_cold_items() -> ItemCatalog:
    """Return the catalog with items that no log has, one of them of no feature that training has seen."""
    table = catalog().table.append_column(IS_COLD, pa.array([False] * NUM_ITEMS))
    cold = [
        [100, 101, 102],
        ["100", "101", "102"],
        [0] * 3,
        [[FEATURE], [FEATURE], [999]],
        ["a", "b", "new"],
        [True] * 3,
    ]
    return ItemCatalog(pa.concat_tables([table, pa.table(cold, schema=table.schema)]))


def write_dataset(path: Path, items: ItemCatalog) -> str:
    directory = Directory.at(path)
    generator = np.random.default_rng(0)
    users = [BehaviorSequence(user, generator.integers(0, NUM_ITEMS, 15), np.arange(15)) for user in range(20)]
    for split, part in (("train", users[:12]), ("valid", users[12:15]), ("test", users[15:])):
        directory.write_table(f"sequences/{split}/bucket-00000.parquet", sequences_table(part))
    directory.write_table("items.parquet", items.table)
    split_by = {"by": "user", "input_fraction": 0.8}
    features = (FeatureInfo("year", "buckets"), FeatureInfo("genre"))
    write_manifest(
        directory, DatasetManifest("int64", 1, {}, {}, NUM_ITEMS, 0, 14, item_features=features, split=split_by)
    )
    return directory.uri


@pytest.fixture(scope="module")
def dataset_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("dataset"), catalog())


def write_by_time(path: Path) -> str:
    """Write users of 15 hours, of which the last five are to be found; items live six hours from their number on."""
    directory, generator = Directory.at(path), np.random.default_rng(1)
    hours = np.arange(15)
    users = [
        BehaviorSequence(user, np.maximum(0, hours - generator.integers(0, 6, 15)), hours * HOUR_MS)
        for user in range(9)
    ]
    for split, end in (("train", 5), ("valid", 10), ("test", 15)):
        directory.write_table(
            f"sequences/{split}/bucket-00000.parquet", sequences_table([u.slice(0, end) for u in users])
        )
    directory.write_table("activity/bucket-00000.parquet", activity_of(sequences_table(users)))
    table = with_cold_items().table
    start = np.arange(len(table)) * HOUR_MS
    table = table.append_column("available_from", pa.array(start))
    directory.write_table("items.parquet", table.append_column("available_until", pa.array(start + 6 * HOUR_MS)))
    split_by = {"by": "time", "train_before_ms": 5 * HOUR_MS, "valid_before_ms": 10 * HOUR_MS}
    write_manifest(directory, DatasetManifest("int64", 1, {}, {}, NUM_ITEMS, 0, 14, split=split_by))
    return directory.uri


def save_version(path: Path, id_type: str = "int64", items: ItemCatalog | None = None) -> str:
    torch.manual_seed(3)
    keys, vectors = np.append(np.arange(NUM_ITEMS), FEATURE), torch.randn(NUM_ITEMS + 1, DIM).numpy()
    counts = np.append(np.arange(NUM_ITEMS) + 1, 0)
    writer = VersionWriter(Directory.at(path))
    writer.write_dense(MultiInterestModel(CONFIG).state_dict())
    writer.write_optimizer({})
    writer.write_catalog(items or catalog())
    writer.write_item_shard(0, 1, [TableRows(keys, vectors, vectors, vectors, keys, counts, keys)])
    config = {"model": dump(CONFIG), "training": dump(TrainingConfig())}
    facts = {"step": 1, "watermark_ms": 0, "positions": {}, "metrics": {}, "source": ""}
    seal(writer.directory, writer.files, config=config, id_type=id_type, **facts)  # type: ignore[arg-type]
    return str(path)


@pytest.fixture(scope="module")
def version_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_version(tmp_path_factory.mktemp("version"))


def test_the_model_ranks_by_the_best_of_its_interests(version_uri: str) -> None:
    encoder = InterestEncoder.load(version_uri)
    history = BehaviorSequence(1, np.array([1, 2, 3, 4, 5]), np.arange(5))
    (ranked,) = of_model(encoder).recommend([history], 10, exclude_seen=True)
    (interests,) = encoder.encode([history])
    best = {
        int(key): max(float(np.dot(interest, vector)) for interest in interests.vectors)
        for key, vector in zip(encoder.item_keys, encoder.item_vectors, strict=True)
        if key not in history.item_keys
    }
    assert ranked.tolist() == sorted(best, key=lambda key: -best[key])[:10]


def test_a_user_of_unknown_items_gets_nothing(version_uri: str) -> None:
    recommender = of_model(InterestEncoder.load(version_uri))
    unknown = BehaviorSequence(1, np.array([999]), np.arange(1))
    assert [
        len(r) for r in recommender.recommend([unknown, BehaviorSequence(2, no_keys())], 5, exclude_seen=False)
    ] == [
        0,
        0,
    ]


def test_the_job_reports_the_model_beside_the_baselines(
    tmp_path: Path, dataset_uri: str, version_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.json"
    main(EvaluateJob(dataset_uri, version_uri, str(output)))
    report = json.loads(output.read_text())
    assert set(report["metrics"]) == {"model", "popularity", "transitions"}
    assert report["metrics"]["model"]["recall@50"] > 0
    assert {"diversity@50", "category_coverage@50"} <= report["metrics"]["popularity"].keys()
    assert report["split"] == "test"
    table = capsys.readouterr().out
    of_interests = ("best_single_recall@50", "least_interest_share@50", "largest_interest_share@50")
    for name in ("recall@50", "category_coverage@50", *of_interests, "interest_cosine"):
        assert -1 <= report["metrics"]["model"][name] <= 1
        assert name in table


def test_the_job_shows_its_table_without_an_output(
    dataset_uri: str, version_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(EvaluateJob(dataset_uri, version_uri, split="valid"))
    assert "transitions" in capsys.readouterr().out


def test_floors_are_tuned_beside_the_model_and_the_verdict_says_which_it_is_to_beat(
    tmp_path: Path, dataset_uri: str, version_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.json"
    main(EvaluateJob(dataset_uri, version_uri, str(output), floors=True))
    report = json.loads(output.read_text())
    floors = ["popularity", "transition graph", "recent popularity", "EASE", "ItemKNN"]
    assert set(report["metrics"]) == {"model", *floors}
    assert set(report["floors"]) == set(floors)
    assert all(each["num_trials"] >= 1 and each["finished"] for each in report["floors"].values())
    means = {
        name: (values["recall@50"] + values["recall@50_removed"]) / 2 for name, values in report["metrics"].items()
    }
    verdict = report["verdict"]
    assert verdict["best"] == pytest.approx(max(means[name] for name in floors))
    assert verdict["model"] == pytest.approx(means["model"])
    assert verdict["worth_deploying"] is False  # fifty of thirty items: all find all that can be found
    shown = capsys.readouterr().out
    assert f"NOT worth deploying: its recall@50 of {verdict['model']:.4f} " in shown.replace("\n", " ")
    assert "recall@500" in shown
    assert "interests, mean cosine" in shown
    assert len(report["interests"]) == CONFIG.num_interests
    assert sum(each["hit_share"] for each in report["interests"]) == pytest.approx(1)
    assert (
        load(EvaluationReport, output).verdict
        == evaluate_version(
            PreparedDataset.open(dataset_uri), InterestEncoder.load(version_uri), floors=Effort()
        ).verdict
    )


def test_floors_that_run_out_of_time_say_so(
    dataset_uri: str, version_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(EvaluateJob(dataset_uri, version_uri, split="valid", floors=True, floors_cpu_s=1e-9))
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "the time was up before all settings of popularity, " in shown
    assert "the verdict that counts is that of --split test" in shown


def test_without_valid_users_floors_have_their_defaults(
    tmp_path: Path, version_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset_uri = write_dataset(tmp_path, catalog())
    Directory.at(tmp_path).write_table("sequences/valid/bucket-00000.parquet", sequences_table([]))
    main(EvaluateJob(dataset_uri, version_uri, floors=True, cut="last"))
    shown = capsys.readouterr().out
    assert "the floors are not tuned but have their defaults" in shown
    assert "5 users with 5 events to be found" in shown


def test_two_evaluations_agree_to_the_last_bit(dataset_uri: str, version_uri: str) -> None:
    dataset, encoder = PreparedDataset.open(dataset_uri), InterestEncoder.load(version_uri)
    assert evaluate_version(dataset, encoder) == evaluate_version(dataset, encoder)


def test_cold_items_move_no_figure_of_the_split_by_user(tmp_path: Path, dataset_uri: str, version_uri: str) -> None:
    wider = write_dataset(tmp_path / "dataset", with_cold_items())
    encoder = InterestEncoder.load(save_version(tmp_path / "version", items=with_cold_items()))
    assert encoder.knows(np.array([100, 101, 102])).tolist() == [True, True, False]
    before = evaluate_version(PreparedDataset.open(dataset_uri), InterestEncoder.load(version_uri))
    after = evaluate_version(PreparedDataset.open(wider), encoder).metrics
    beside = {name: after["model"].pop(name) for name in ("recall@50_with_cold", "cold_share@50")}
    assert after == before.metrics
    everything = of_model(encoder).recommend(
        [user.history for user in held_out(PreparedDataset.open(wider))], 50, exclude_seen=False
    )
    shares = [len({100, 101} & set(keys.tolist())) / len(keys) for keys in everything]
    assert beside["cold_share@50"] == pytest.approx(np.mean(shares))
    assert 0 < beside["cold_share@50"] < 1
    assert 0 < beside["recall@50_with_cold"] <= before.metrics["model"]["recall@50"]


def test_by_time_recent_popularity_and_chance_stand_beside_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset_uri = write_by_time(tmp_path / "dataset")
    version_uri = save_version(tmp_path / "version", items=with_cold_items())
    output = tmp_path / "report.json"
    main(EvaluateJob(dataset_uri, version_uri, str(output)))
    report = json.loads(output.read_text())
    found = report["metrics"]
    assert set(found) == {"model", "popularity", "recent popularity", "transitions", "chance"}
    # six items are available at hour ten, so all find all of them; what is short of 1 are repeats
    assert all(values["hit_rate@50"] == 1.0 for values in found.values())
    assert np.ptp([values["recall@50"] for values in found.values()]) < 1e-9
    assert found["chance"]["candidates"] == 6
    assert found["model"]["coverage@50"] == 1.0
    assert found["recent popularity"]["window_h"] == 1
    assert 0 <= found["chance"]["recall@20_removed"] < 1
    dataset = PreparedDataset.open(dataset_uri)
    events = sum(len(user.future) for user in held_out(dataset))
    assert report["num_targets"] + report["num_unavailable_targets"] == events == 9 * 5
    assert report["num_users"] + report["num_unavailable_users"] == 9
    shown = capsys.readouterr().out
    assert f"{report['num_users']} users with {report['num_targets']} events to be found" in shown
    assert f"left out: {report['num_unavailable_targets']} events" in shown
    assert "1 items have no vector" in shown
    assert load(EvaluationReport, output) == evaluate_version(dataset, InterestEncoder.load(version_uri))


def test_a_version_of_other_ids_is_refused(tmp_path: Path, dataset_uri: str) -> None:
    encoder = InterestEncoder.load(save_version(tmp_path, "string"))
    with pytest.raises(VersionError, match="has string ids, the dataset int64"):
        evaluate_version(PreparedDataset.open(dataset_uri), encoder)
