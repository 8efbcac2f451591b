"""A run whose dataset and versions are in an object store with settings in its URI: trained, resumed, loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import ray

from jobs.cli import connect_ray
from jobs.train import Train, main
from mind_dist.config import ModelConfig, TrainingConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.storage import Directory
from tests.toy_training import write_dataset


@pytest.fixture(scope="module", autouse=True)
def _connected(ray_cluster: str) -> Iterator[None]:
    assert ray_cluster
    connect_ray()
    yield
    ray.shutdown()


def test_versions_are_saved_and_read_below_a_uri_with_settings(
    s3_bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = Directory.at(s3_bucket)
    dataset = write_dataset((bucket / "dataset").uri)
    model = ModelConfig(dim=8, num_interests=2)
    for max_steps in (2, 4):
        training = TrainingConfig(batch_size=4, max_steps=max_steps, max_behaviors=5, id_dropout=0.0)
        output = (bucket / f"result {max_steps}.json").uri
        main(Train(dataset, (bucket / "runs").uri, "toy", workers=0, model=model, training=training, output=output))
        result = json.loads(Directory.at(output).read_bytes(""))
        assert result["step"] == max_steps
    shown = capsys.readouterr()
    assert "secret" not in shown.out + shown.err
    version = Directory.at(result["version_uri"])
    assert version.path.startswith(f"{bucket.path}/runs/toy/")
    assert InterestEncoder.load(version.uri).model_version == result["model_version"]
