"""`jobs.publish --every-s` as a process, against Milvus Lite, behind a run that saves versions and deletes older ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
import ray

from jobs.cli import connect_ray
from mind_dist import local_stack
from mind_dist.checkpoint import ModelVersion
from mind_dist.config import MilvusConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import MindDistError
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.ports import free_ports
from mind_dist.storage import Directory
from mind_dist.training.run_versions import RunVersions
from tests.background import Background
from tests.replicas import eventually
from tests.versions import tiny_version

NUM_ITEMS = 300


class StartingReplicas(Background):
    """Loads the active version again and again, as a replica does that starts just then."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self.loaded: list[str] = []
        self.errors: list[str] = []

    def work(self) -> None:
        with closing(MilvusVectorStore(self._address, MilvusConfig())) as store:
            while not self.ended.is_set():
                active = store.active_version()
                if active is None:
                    continue
                try:
                    uri = store.version_info(active).uri
                    ModelVersion.open(uri)
                    self.loaded.append(InterestEncoder.load(uri).model_version)
                except MindDistError as error:
                    self.errors.append(f"{active}: {error}")


@contextmanager
def publishing(
    run: Path, milvus: str, log: Path, *settings: str, ray_address: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the job with its output in a file; one that still runs at the end is killed."""
    command = [sys.executable, "-m", "jobs.publish", "--version-uri", str(run), "--publishing.no-wait-for-users"]
    environment = {**os.environ, "MIND_DIST_MILVUS": milvus}
    environment.pop("RAY_ADDRESS", None)
    environment |= {"RAY_ADDRESS": ray_address} if ray_address else {}
    with log.open("ab") as output:
        job = subprocess.Popen([*command, *settings], stdout=output, stderr=output, env=environment)
    try:
        yield job
    finally:
        job.kill()
        job.wait()


def save(versions: RunVersions, step: int) -> str:
    """Save a version as training does, and return its name."""
    uri = tiny_version(Path(versions.place(step).path), seed=step, num_items=NUM_ITEMS)
    versions.keep(step, 2)
    return ModelVersion.open(uri, verify=False).manifest.model_version


def test_readers_follow_a_run_through_a_kill_in_a_publish_and_its_versions_can_be_loaded_at_any_time(
    tmp_path: Path,
) -> None:
    run, log = tmp_path / "run", tmp_path / "publish.log"
    versions = RunVersions(Directory.at(run))
    settings = ["--every-s", "0.5", "--publishing.lease-s", "2", "--publishing.keep", "1"]
    slowly = ["--publishing.batch-size", "1", "--publishing.fill-threads", "1"]
    with (
        local_stack.milvus_lite(tmp_path / "milvus") as server,
        closing(MilvusVectorStore(server.address, MilvusConfig())) as store,
        StartingReplicas(server.address) as replicas,
    ):
        with publishing(run, server.address, log, *settings, *slowly) as job:
            first = save(versions, 1)
            eventually(lambda: store.active_version() == first)
            save(versions, 2)
            third = save(versions, 3)
            eventually(lambda: store.active_version() == third)
            fourth = save(versions, 4)
            eventually(lambda: fourth in {info.model_version for info in store.versions()})
            job.kill()
            job.wait()
        assert store.active_version() == third, log.read_text()
        save(versions, 5)
        sixth = save(versions, 6)
        assert not (run / "checkpoint_00000004").exists()
        with publishing(run, server.address, log, *settings) as job:
            eventually(lambda: store.active_version() == sixth)
            eventually(lambda: store.staged_version() is None and "outcome=unchanged" in _lines(log)[-1])
            seen = len(replicas.loaded)
            eventually(lambda: len(replicas.loaded) > seen + 1)
            job.send_signal(signal.SIGTERM)
            assert job.wait(60) == 0, log.read_text()
        left = {info.model_version for info in store.versions()}
        uris = {info.uri for info in store.versions()}
    assert replicas.errors == []
    assert {first, third, sixth} <= set(replicas.loaded)
    assert left == {third, sixth}
    assert uris == {str(path.parent) for path in run.glob("published/*/*/manifest.json")}
    assert all(str(run / "published" / server.address.removeprefix("http://").replace(":", "_")) in uri for uri in uris)


def _lines(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if "outcome=" in line] or [""]


def test_a_store_that_is_away_is_told_and_asked_again_until_sigterm(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "publish.log"
    save(RunVersions(Directory.at(run)), 1)
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    with publishing(run, nowhere, log, "--every-s", "0.5", "--milvus.retry-s", "0") as job:
        eventually(lambda: log.read_text().count("outcome=unavailable") >= 2)
        assert job.poll() is None
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 0, log.read_text()
    assert f"Milvus at {nowhere} did not answer" in log.read_text()


def test_sigterm_ends_it_while_a_store_that_is_away_is_being_asked(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "publish.log"
    save(RunVersions(Directory.at(run)), 1)
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    with publishing(run, nowhere, log, "--every-s", "0.5", "--milvus.retry-s", "100000") as job:
        eventually(lambda: "following" in log.read_text())
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 0, log.read_text()
    assert "outcome=stopped" in log.read_text()


@pytest.fixture
def metrics_url(ray_cluster: str) -> Iterator[str]:
    """Yield where the cluster exports its metrics."""
    assert ray_cluster
    connect_ray()
    [node] = ray.nodes()  # type: ignore[no-untyped-call]
    yield f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    ray.shutdown()


def test_beside_a_ray_cluster_its_metrics_reach_prometheus_and_sigterm_ends_it_there_too(
    tmp_path: Path, metrics_url: str, ray_cluster: str
) -> None:
    run, log = tmp_path / "run", tmp_path / "publish.log"
    versions = RunVersions(Directory.at(run))
    save(versions, 1)
    (Path(versions.place(1).path) / "catalog.parquet").write_bytes(b"torn")
    wanted = ("ray_mind_dist_published_versions_total{", 'reason="version"')

    def exported() -> bool:
        lines = httpx.get(metrics_url, timeout=10).text
        return all(each in lines for each in wanted)

    with (
        local_stack.milvus_lite(tmp_path / "milvus") as server,
        publishing(run, server.address, log, "--every-s", "0.5", ray_address=ray_cluster) as job,
    ):
        eventually(lambda: "outcome=version" in log.read_text())
        save(versions, 2)
        eventually(exported, 120)
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 0, log.read_text()


@pytest.mark.parametrize("settings", [["--every-s", "-1"], ["--every-s", "5"]], ids=["below 0", "one version"])
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, settings: list[str]) -> None:
    uri, log = Path(tiny_version(tmp_path / "version")), tmp_path / "publish.log"
    with publishing(uri, "http://127.0.0.1:1", log, *settings) as job:
        assert job.wait(60) == 2
    assert "every_s" in log.read_text()
