import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from mind_dist.config import Addresses, KafkaConfig, ModelConfig, PrepareConfig, TrainingConfig, dump, load, parse
from mind_dist.errors import ConfigError
from mind_dist.training.settings import TrainSettings


@pytest.mark.parametrize(
    "config", [ModelConfig(dim=8, label_attention_power=math.inf), TrainingConfig(), KafkaConfig()]
)
def test_a_dumped_config_reads_back_the_same(config: object, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dump(config)))
    assert load(type(config), path) == config


def test_an_unknown_setting_is_named_with_what_is_known() -> None:
    with pytest.raises(ConfigError, match=r"model\.width: unknown setting; known here: kind, dim, num_interests"):
        parse(ModelConfig, {"width": 3}, where="model")
    with pytest.raises(ConfigError, match=r"log\.user_colum: unknown setting; known here: paths, format, delimiter"):
        parse(PrepareConfig, {"output": "x", "log": {"user_colum": "u"}})
    features = [{"name": "genre", "knid": "category"}]
    with pytest.raises(ConfigError, match=r"items\.features\.0\.knid: unknown setting; known here: name, kind, column"):
        parse(PrepareConfig, {"output": "x", "items": {"features": features}})


def test_a_value_out_of_range_says_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="dim must be at least 1"):
        parse(ModelConfig, {"dim": 0})


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"num_interests": 0}, "num_interests must be at least 1"),
        ({"max_recency": 0}, "max_recency must be at least 1"),
        ({"encoder_layers": 0}, "encoder_layers must be at least 1"),
        ({"encoder_dim": 0}, "encoder_dim must be at least 1"),
        ({"num_lag_kernels": 0}, "num_lag_kernels must be at least 1"),
        ({"routing_iterations": 0}, "routing_iterations must be at least 1"),
        ({"hidden_dims": [8, 0]}, "hidden_dims must be at least 1 each"),
        ({"attention_dim": -1}, "attention_dim must be 0 or more"),
        ({"context_dim": -1}, "context_dim must be 0 or more"),
        ({"dropout": 1.0}, "dropout must be 0 or more and below 1"),
        ({"label_attention_power": 0}, "label_attention_power must be above 0"),
        ({"kind": "two_tower"}, "num_interests must be 1 for a two_tower"),
        ({"kind": "two_tower", "num_interests": 1, "hidden_dims": []}, "hidden_dims must be at least one layer"),
        ({"routing_start": "zeros"}, "routing_start must be other than zeros but for comirec_dr"),
    ],
)
def test_a_model_that_cannot_be_is_refused_by_the_setting_at_fault(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^settings.model: {problem}"):
        parse(TrainSettings, {"dataset": "data", "storage": "runs", "model": values}, where="settings")


@pytest.mark.parametrize("kind", ["sequence_encoder", "pooling", "routing_start", "kind"])
def test_an_unknown_choice_has_its_dotted_path(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"^settings\.model\.{kind}: Input should be "):
        parse(TrainSettings, {"dataset": "data", "storage": "runs", "model": {kind: "other"}}, where="settings")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"max_behaviors": 0}, "max_behaviors must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_targets": 0}, "num_targets must be at least 1"),
        ({"window_stride": 0}, "window_stride must be at least 1"),
        ({"num_negatives": -1}, "num_negatives must be 0 or more"),
        ({"negative_power": -0.5}, "negative_power must be 0 or more"),
        ({"hard_negative_beta": -1}, "hard_negative_beta must be 0 or more"),
        ({"routing_weight": -1}, "routing_weight must be 0 or more"),
        ({"spread_weight": -1}, "spread_weight must be 0 or more"),
        ({"balance_weight": -1}, "balance_weight must be 0 or more"),
        ({"id_dropout": 1}, "id_dropout must be 0 or more and below 1"),
        ({"in_batch_negatives": False, "num_negatives": 0}, "num_negatives must be above 0 without in_batch_negatives"),
        (
            {"in_batch_negatives": False, "cross_worker_negatives": True},
            "cross_worker_negatives must be off without in_batch_negatives",
        ),
        ({"spread_margin": 2}, "spread_margin must be between -1 and 1"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"admission_count": 0}, "admission_count must be at least 1"),
    ],
)
def test_training_that_cannot_be_is_refused_by_the_setting_at_fault(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^settings.training: {problem}"):
        parse(TrainSettings, {"dataset": "data", "storage": "runs", "training": values}, where="settings")


def test_one_interest_may_start_at_zero_and_a_pooled_one_needs_no_layers_where_it_learns_to_attend() -> None:
    ModelConfig(num_interests=1, routing_start="zeros")
    ModelConfig(kind="two_tower", num_interests=1, hidden_dims=(), pooling="attention")


def test_a_mistyped_value_has_its_dotted_path() -> None:
    with pytest.raises(ConfigError, match=r"config\.hidden_dims\.1"):
        parse(ModelConfig, {"hidden_dims": [4, "x"]})


def test_a_config_file_that_is_missing_or_torn_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json"):
        load(ModelConfig, tmp_path / "absent.json")
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(ConfigError, match=r"torn\.json"):
        load(ModelConfig, tmp_path / "torn.json")


def test_parse_reads_more_than_dataclasses() -> None:
    assert parse(dict[str, int], {"a": 1}) == {"a": 1}
    with pytest.raises(ConfigError, match="config"):
        parse(int, "many")


def test_addresses_come_from_the_environment_and_hide_the_token() -> None:
    addresses = Addresses.from_environment({"MIND_DIST_KAFKA": "broker:9092", "MIND_DIST_MILVUS_TOKEN": "root:secret"})
    assert addresses.kafka == "broker:9092"
    assert addresses.milvus == Addresses().milvus
    assert addresses.milvus_token == "root:secret"
    assert "secret" not in repr(addresses)
    assert addresses.deployment == ""


@pytest.mark.parametrize("name", ["shop", "Shop_EU_2", "a", "x" * 64])
def test_a_deployment_has_a_name(name: str) -> None:
    addresses = Addresses.from_environment({"MIND_DIST_DEPLOYMENT": name})
    assert addresses.deployment == name
    assert parse(Addresses, dataclasses.asdict(addresses)) == addresses
    kafka = KafkaConfig().of_deployment(name)
    assert kafka.group("v1") == f"{name}__mind-dist-users-v1"
    assert (kafka.topic, kafka.dead_letter_topic) == (
        f"{name}__behavior-events",
        f"{name}__behavior-events-dead-letters",
    )
    assert KafkaConfig("clicks").of_deployment(name).topic == "clicks"
    assert KafkaConfig().of_deployment("") == KafkaConfig()
    assert KafkaConfig().group("v1") == "mind-dist-users-v1"


@pytest.mark.parametrize(
    "name", ["shop-eu", "a b", "2nd", "_a", "a_", "a__b", "users", "items", "é", "x" * 65, "a\n", 'a"', "a.b", " "]
)
def test_a_name_that_servers_or_other_deployments_could_misread_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"MIND_DIST_DEPLOYMENT: .* must be letters, digits and single _"):
        Addresses.from_environment({"MIND_DIST_DEPLOYMENT": name})
    with pytest.raises(ConfigError, match="deployment must be letters"):
        parse(Addresses, {"deployment": name})
