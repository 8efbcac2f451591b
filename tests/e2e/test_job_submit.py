"""Jobs by `ray job submit`, as on a cluster: the working directory travels, the command line is the user's."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.ray_jobs import run_job

ROOT = Path(__file__).parents[2]


def submit(*command: str, expected: str = "SUCCEEDED") -> str:
    """Submit a job with this directory as its own, wait for it, and return its output."""
    status, output = run_job(os.environ, sys.executable, "-m", *command, options=("--working-dir", str(ROOT)))
    assert status == expected, output
    return output


@pytest.mark.usefixtures("ray_cluster")
def test_prepare_train_and_evaluate_run_as_submitted_jobs(tmp_path: Path) -> None:
    dataset, result, report = tmp_path / "dataset", tmp_path / "train.json", tmp_path / "report.json"
    submit("jobs.prepare", "--output", str(dataset), "--run", "movielens_100k")
    submit(
        *("jobs.train", "--dataset", str(dataset), "--storage", str(tmp_path / "runs"), "--output", str(result)),
        *("--training.max-steps", "20", "--training.batch-size", "3200"),
    )
    trained = json.loads(result.read_text())
    submit("jobs.evaluate", "--dataset", str(dataset), "--version-uri", trained["version_uri"], "--output", str(report))
    assert json.loads(report.read_text())["model_version"] == trained["model_version"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_submitted_job_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    output = submit("jobs.evaluate", "--dataset", str(tmp_path), "--version-uri", str(tmp_path), expected="FAILED")
    assert f"error: {tmp_path}: no manifest.json: run `python -m jobs.prepare` first" in output


REFUSED = {
    "output of prepare": ("jobs.prepare", "--output", "data/mine", "--run", "movielens_100k"),
    "storage": ("jobs.train", "--dataset", "/data", "--storage", "runs"),
    "output of train": ("jobs.train", "--dataset", "/data", "--storage", "/runs", "--output", "train.json"),
    "output of evaluate": ("jobs.evaluate", "--dataset", "/data", "--version-uri", "/v", "--output", "report.json"),
}
"""Commands by the setting that they are refused for."""


@pytest.mark.usefixtures("ray_cluster")
def test_a_submitted_job_refuses_to_write_into_rays_copy_of_the_directory() -> None:
    commands = [f"{sys.executable} -m {' '.join(command)} && exit 0" for command in REFUSED.values()]
    line = "; ".join([*commands, "exit 1"])  # one job, since to start one takes longer; a command that succeeds ends it
    status, output = run_job(os.environ, "sh", "-c", line, options=("--working-dir", str(ROOT)))
    assert status == "FAILED", output
    refused = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(refused) == len(REFUSED), output
    for said, setting in zip(refused, REFUSED, strict=True):
        assert said.startswith(f"error: {setting.partition(' ')[0]}: ")
        assert "is relative to " in said
        assert said.endswith(
            ", a directory of the cluster that may be deleted with the job: give an absolute path or a URI"
        )
