import json
import math
from pathlib import Path

import pytest

from mind_dist.config import Addresses, KafkaConfig, ModelConfig, TrainingConfig, dump, load, parse
from mind_dist.errors import ConfigError


@pytest.mark.parametrize(
    "config", [ModelConfig(dim=8, label_attention_power=math.inf), TrainingConfig(), KafkaConfig()]
)
def test_a_dumped_config_reads_back_the_same(config: object, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dump(config)))
    assert load(type(config), path) == config


def test_an_unknown_setting_is_named_with_what_is_known() -> None:
    with pytest.raises(ConfigError, match=r"model\.width: unknown setting; known here: dim, num_interests"):
        parse(ModelConfig, {"width": 3}, where="model")


def test_a_value_out_of_range_says_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="dim must be at least 1"):
        parse(ModelConfig, {"dim": 0})


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
