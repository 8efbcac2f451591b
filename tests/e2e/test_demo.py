"""The demo in this process, on the session's Ray and a broker and Milvus of its own; few steps, all parts real."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from jobs.demo import Demo, main
from mind_dist.config import ServingConfig, TrainingConfig
from mind_dist.errors import PortInUse
from mind_dist.local_process import free_ports


@pytest.fixture
def alone(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no connection, handler or variable of the demo behind."""
    assert ray_cluster
    for name in ("MIND_DIST_KAFKA", "MIND_DIST_MILVUS"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    before = signal.getsignal(signal.SIGTERM)
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("alone")
def test_the_demo_runs_the_whole_line_and_reports_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [port] = free_ports(1)
    job = Demo(
        exit=True,
        directory=tmp_path / "demo",
        report=tmp_path / "report.json",
        rate=2000,
        training=TrainingConfig(max_steps=30, batch_size=64),
        serving=ServingConfig(category_column="genres", port=port, cpus_per_replica=0.1),
    )
    main(job)
    report = json.loads(job.report.read_text())
    floors = {"popularity", "recent popularity", "transition graph", "EASE", "ItemKNN"}
    assert set(report["metrics"]) == {"model", *floors}
    assert "worth deploying" in report["verdict"]
    assert all(0 < metrics["recall@50"] < 1 for metrics in report["metrics"].values())
    stream = report["stream"]
    assert stream["events_applied"] == stream["events_replayed"] > 3000
    assert stream["poison"] == 0
    assert 0 < stream["freshness_ms"]["p50"] <= stream["freshness_ms"]["p99"]
    assert report["version_mismatches"] == 0
    shown = report["user"]["titles_per_interest"]
    assert shown["before"] != shown["after"]
    shown = capsys.readouterr().out
    assert "recall@50, model" in shown
    assert "recall@50, ItemKNN" in shown


def test_a_demo_whose_port_somebody_has_ends_before_it_empties_anything(tmp_path: Path) -> None:
    (tmp_path / "earlier").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} .* choose another with --serving.port"):
            main(Demo(directory=tmp_path, serving=ServingConfig(port=port)))
    assert (tmp_path / "earlier").exists()
