import json
import math
from pathlib import Path
from typing import Any

import pytest

from mind_dist.config import (
    Addresses,
    ComirecDrConfig,
    FullSoftmaxConfig,
    GruConfig,
    KafkaConfig,
    LabelAwareConfig,
    ModelConfig,
    PenaltiesConfig,
    PrepareConfig,
    TrainingConfig,
    TwoTowerConfig,
    dump,
    load,
    parse,
)
from mind_dist.errors import ConfigError
from mind_dist.training.settings import TrainSettings


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(ComirecDrConfig(positions=3), GruConfig(layers=2), dim=8),
        TrainingConfig(LabelAwareConfig(power=3), FullSoftmaxConfig(hard_beta=1), PenaltiesConfig(1.0, 0.2)),
        KafkaConfig(),
    ],
)
def test_a_dumped_config_reads_back_the_same(config: object, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dump(config)))
    assert load(type(config), path) == config


def test_an_unknown_setting_is_named_with_what_is_known() -> None:
    with pytest.raises(ConfigError, match=r"model\.width: unknown setting; known here: extraction, encoder, dim"):
        parse(ModelConfig, {"width": 3}, where="model")
    with pytest.raises(ConfigError, match=r"log\.user_colum: unknown setting; known here: paths, format, delimiter"):
        parse(PrepareConfig, {"output": "x", "log": {"user_colum": "u"}})
    features = [{"name": "genre", "knid": "category"}]
    with pytest.raises(ConfigError, match=r"items\.features\.0\.knid: unknown setting; known here: name, kind, column"):
        parse(PrepareConfig, {"output": "x", "items": {"features": features}})


def test_a_value_out_of_range_says_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="dim must be at least 1"):
        parse(ModelConfig, {"dim": 0})


def settings_of(**sections: Any) -> TrainSettings:
    return parse(TrainSettings, {"dataset": "data", "storage": "runs", **sections}, where="settings")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"num_interests": 0}, "num_interests must be at least 1"),
        ({"hidden_dims": [8, 0]}, "hidden_dims must be at least 1 each"),
        ({"context_features": ["page", "page"]}, "context_features must be of different names"),
        ({"dropout": 1.0}, "dropout must be 0 or more and below 1"),
        ({"dropout": 0.5, "hidden_dims": []}, "dropout must be 0 without layers"),
        ({"extraction": {"kind": "two_tower"}}, "num_interests must be 1 for a two_tower"),
        (
            {"extraction": {"kind": "two_tower"}, "num_interests": 1, "hidden_dims": []},
            "hidden_dims must be at least one layer",
        ),
    ],
)
def test_a_model_that_cannot_be_is_refused_by_the_setting_at_fault(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^settings.model: {problem}"):
        settings_of(model=values)


@pytest.mark.parametrize(
    ("section", "values", "problem"),
    [
        ("model.encoder", {"kind": "lag_kernels", "count": 0}, "count must be at least 1"),
        ("model.encoder", {"kind": "lag_kernels", "max_lag": 0}, "max_lag must be at least 1"),
        ("model.encoder", {"kind": "gru", "layers": 0}, "layers must be at least 1"),
        ("model.encoder", {"kind": "transformer", "hidden_dim": 0}, "hidden_dim must be at least 1"),
        ("model.extraction", {"kind": "mind", "iterations": 0}, "iterations must be at least 1"),
        ("model.extraction", {"kind": "two_tower", "recency": -1}, "recency must be 0 or more"),
        ("model.extraction", {"kind": "comirec_dr", "positions": 0}, "positions must be at least 1"),
        ("model.extraction", {"kind": "comirec_dr", "iterations": 0}, "iterations must be at least 1"),
        ("model.extraction", {"kind": "comirec_sa", "hidden_dim": -1}, "hidden_dim must be 0 or more"),
        ("model.extraction", {"kind": "causal", "max_lag": 0}, "max_lag must be at least 1"),
        ("training.objective", {"kind": "label_aware", "power": 0}, "power must be above 0 and finite"),
        ("training.objective", {"kind": "label_aware", "power": math.inf}, "power must be .* the kind `hard`"),
        ("training.negatives", {"kind": "sampled", "count": -1}, "count must be 0 or more"),
        (
            "training.negatives",
            {"kind": "sampled", "count": 0, "in_batch": False},
            "count must be above 0 without in_b",
        ),
        ("training.negatives", {"kind": "sampled", "power": -0.5}, "power must be 0 or more"),
        ("training.negatives", {"kind": "sampled", "power": 1, "distribution": "log_uniform"}, "power must be 0 where"),
        ("training.negatives", {"kind": "sampled", "power": 1, "count": 0}, "power must be 0 where count is 0"),
        ("training.negatives", {"kind": "sampled", "logq": "all"}, "logq must be other than all with in_batch"),
        ("training.negatives", {"kind": "full", "hard_beta": -1}, "hard_beta must be 0 or more"),
        ("training.penalties", {"routing_weight": -1}, "routing_weight must be 0 or more"),
        ("training.penalties", {"spread_weight": 1, "spread_margin": 2}, "spread_margin must be between -1 and 1"),
        ("training.penalties", {"spread_margin": 0.2}, "spread_margin must be left out without spread_weight"),
    ],
)
def test_a_section_that_cannot_be_is_refused_by_the_setting_at_fault(
    section: str, values: dict[str, Any], problem: str
) -> None:
    outer, inner = section.split(".")
    with pytest.raises(ConfigError, match=rf"^settings\.{outer}\.{inner}: {problem}"):
        settings_of(**{outer: {inner: values}})


@pytest.mark.parametrize(
    ("section", "values", "known"),
    [
        (
            "model.encoder",
            {"kind": "gru", "count": 3},
            "count: unknown setting of kind gru; known here: kind, hidden_dim",
        ),
        (
            "training.negatives",
            {"kind": "full", "count": 3},
            "count: unknown setting of kind full; known here: kind, h",
        ),
        ("training.objective", {"kind": "best", "power": 2}, "power: unknown setting of kind best; known here: kind$"),
    ],
)
def test_a_setting_of_another_kind_is_refused_with_those_of_its_own(
    section: str, values: dict[str, Any], known: str
) -> None:
    outer, inner = section.split(".")
    with pytest.raises(ConfigError, match=rf"^settings\.{outer}\.{inner}\.{known}"):
        settings_of(**{outer: {inner: values}})


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"encoder": {"layers": 2}}, r"encoder: kind is missing: one of none, lag_kernels, gru, transformer"),
        ({"encoder": {"kind": "rnn"}}, r"encoder: kind must be one of none, lag_kernels, gru, transformer"),
        ({"extraction": {"kind": "mind", "start": "zeros"}}, r"extraction\.start: Input should be 'content_keyed'"),
        ({"extraction": {"kind": "two_tower", "pooling": "max"}}, r"extraction\.pooling: Input should be 'mean'"),
    ],
)
def test_an_unknown_choice_has_its_dotted_path(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=rf"^settings\.model\.{problem}"):
        settings_of(model=values)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"max_behaviors": 0}, "max_behaviors must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_targets": 0}, "num_targets must be at least 1"),
        ({"window_stride": -1}, "window_stride must be 0 or more"),
        ({"id_dropout": 1}, "id_dropout must be 0 or more and below 1"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"epochs": -1}, "epochs must be 0 or more"),
        ({"admission_count": 0}, "admission_count must be at least 1"),
    ],
)
def test_training_that_cannot_be_is_refused_by_the_setting_at_fault(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^settings.training: {problem}"):
        settings_of(training=values)


@pytest.mark.parametrize(
    "extraction", [{"kind": "mind"}, {"kind": "comirec_dr"}, {"kind": "two_tower", "pooling": "mean"}]
)
def test_a_routing_penalty_that_nothing_follows_is_refused_with_both_settings(extraction: dict[str, Any]) -> None:
    model = {"extraction": extraction, "num_interests": 1}
    problem = rf"training\.penalties\.routing_weight must be 0 with model\.extraction\.kind {extraction['kind']}"
    with pytest.raises(ConfigError, match=problem):
        settings_of(model=model, training={"penalties": {"routing_weight": 1}})
    for attending in ({"kind": "comirec_sa"}, {"kind": "causal"}, {"kind": "two_tower", "pooling": "attention"}):
        settings_of(model=model | {"extraction": attending}, training={"penalties": {"routing_weight": 1}})


def test_a_pooled_interest_needs_no_layers_where_it_learns_to_attend() -> None:
    ModelConfig(TwoTowerConfig(pooling="attention"), num_interests=1, hidden_dims=())


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
    assert addresses.milvus_token.get_secret_value() == "root:secret"
    assert "secret" not in repr(addresses)
    assert addresses.deployment == ""


def test_addresses_travel_without_the_token_and_every_process_has_its_own() -> None:
    secrets = {"MIND_DIST_MILVUS_TOKEN": "root:secret", "MIND_DIST_HTTP_TOKEN": "secret"}
    addresses = Addresses.from_environment({"MIND_DIST_KAFKA": "broker:9092", **secrets})
    sent = json.dumps(addresses.shareable())
    assert '"secret"' not in sent
    assert "root" not in sent
    assert Addresses.shared(json.loads(sent), secrets) == addresses
    with pytest.raises(ConfigError, match="MIND_DIST_HTTP_TOKEN: is set where this was started, and not here"):
        Addresses.shared(json.loads(sent), {"MIND_DIST_MILVUS_TOKEN": "root:secret"})


@pytest.mark.parametrize("name", ["shop", "Shop_EU_2", "a", "x" * 64])
def test_a_deployment_has_a_name(name: str) -> None:
    assert Addresses.from_environment({"MIND_DIST_DEPLOYMENT": name}).deployment == name
    kafka = KafkaConfig().of_deployment(name)
    assert kafka.updaters_group == f"{name}__mind-dist-states"
    assert kafka.view_group("v1", 7) == f"{name}__mind-dist-view-v1-7"
    assert (kafka.topic, kafka.states_topic, kafka.dead_letter_topic) == (
        f"{name}__behavior-events",
        f"{name}__user-states",
        f"{name}__behavior-events-dead-letters",
    )
    assert KafkaConfig("clicks").of_deployment(name).topic == "clicks"
    assert KafkaConfig().of_deployment("") == KafkaConfig()
    assert KafkaConfig().updaters_group == "mind-dist-states"


@pytest.mark.parametrize(
    "name", ["shop-eu", "a b", "2nd", "_a", "a_", "a__b", "users", "items", "é", "x" * 65, "a\n", 'a"', "a.b", " "]
)
def test_a_name_that_servers_or_other_deployments_could_misread_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"MIND_DIST_DEPLOYMENT: .* must be letters, digits and single _"):
        Addresses.from_environment({"MIND_DIST_DEPLOYMENT": name})
    with pytest.raises(ConfigError, match="deployment must be letters"):
        parse(Addresses, {"deployment": name})
