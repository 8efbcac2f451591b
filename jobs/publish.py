"""Model version → Milvus: create, fill, have its users' rows made, verify, switch readers, retire.

python -m jobs.publish --version-uri versions/v00000400_1a2b3c4d
python -m jobs.publish --version-uri runs/live --every-s 600    # follows a run that is trained without end, until SIGTERM
python -m jobs.publish --list
python -m jobs.publish --rollback
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydantic import ConfigDict, with_config
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jobs.cli import check_output, connect_ray, interactive, run, stop_requested
from jobs.tables import print_whole
from mind_dist.checkpoint import MANIFEST, ModelVersion
from mind_dist.config import Addresses, KafkaConfig, MilvusConfig, PublishConfig, load
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import ConfigError, without_secrets
from mind_dist.evaluation import EvaluationReport
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import VectorStore
from mind_dist.observability import InMemoryMetrics, Metrics
from mind_dist.publishing import (
    CatchUp,
    FollowedRun,
    PublishedCopies,
    PublishReport,
    ScheduledPublisher,
    publish,
    publish_from_run,
    rollback,
)
from mind_dist.storage import Directory
from mind_dist.training.run_versions import RunVersions, version_at
from mind_dist.views.caught_up import CaughtUp

logger = logging.getLogger("mind_dist.publish")

_PATIENCE_S = 30.0
"""So long updaters may take to notice the first version there is, to load it and to join their group."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class PublishJob:
    """Bring a model version to readers, or put them back on an earlier one."""

    version_uri: str = ""
    """URI of the model version to publish, or of a run, whose best version it then is (its newest where no valid users watched)."""
    evaluation: Path | None = None
    """What `jobs.evaluate --output` wrote of this version: its recall is judged, and shown by --list."""
    rollback: tuple[str, ...] | None = None
    """Put readers back: on the version named, or without a name on the one published before."""
    list: bool = False
    """Show the versions there are."""
    every_s: float = 0.0
    """Go on until SIGTERM: look so often, in seconds, at the run that `version_uri` names, and publish its version where
    readers are on another one. 0: publish once."""
    keep_in: str = ""
    """URI of a directory for copies of the versions published from a run, which itself deletes older ones: each stays as
    long as the index has the version. Empty: `published` in the run's directory. A version given by its own URI is
    left where it is."""
    publishing: PublishConfig = field(default_factory=PublishConfig)
    """What a version must show."""
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    """The event log."""
    milvus: MilvusConfig = field(default_factory=MilvusConfig)
    """The vector store."""


def main(job: PublishJob) -> None:
    """Do the one thing asked for.

    Raises:
        ConfigError: Nothing, or more than one thing, is asked for.
    """
    if (bool(job.version_uri), job.rollback is not None, job.list).count(True) != 1:
        raise ConfigError("command line", "give one of --version-uri, --rollback, --list")
    if job.every_s < 0 or (job.every_s and not job.version_uri) or (job.every_s and job.evaluation):
        raise ConfigError("every_s", "at least 0, and goes with --version-uri, without --evaluation")
    if len(job.rollback or ()) > 1:
        raise ConfigError("rollback", "takes at most one version")
    addresses = Addresses.from_environment()
    if job.every_s:
        _follow(job, addresses)
        return
    with closing(MilvusVectorStore.at(addresses, job.milvus)) as store:
        if job.version_uri:
            Console().print(_summary(_publish(job, store, addresses)))
        elif job.rollback is not None:
            to = job.rollback[0] if job.rollback else None
            version = rollback(store, to, job.publishing, catch_up=_caught_up(job, addresses))
            Console().print(f"readers are on {version}")
        else:
            print_whole(versions_table(store))


def _publish(job: PublishJob, store: VectorStore, addresses: Addresses) -> PublishReport:
    version_uri = version_at(job.version_uri)
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not interactive()) as progress:
        tasks = {step: progress.add_task(step, total=None) for step in ("items",)}

        def advance(step: str, done: int) -> None:
            progress.update(tasks[step], completed=done)

        version = ModelVersion.open(version_uri, verify=False)
        catch_up = _caught_up(job, addresses)
        metrics = _metrics(job.evaluation, version.manifest.model_version) if job.evaluation else None
        if version_uri == Directory.at(job.version_uri).uri:
            encoder = InterestEncoder.load(version_uri)
            bring = partial(publish, store, encoder, version_uri, job.publishing)
        else:
            bring = partial(publish_from_run, store, version, _copies(job, addresses), job.publishing)
        return bring(metrics=metrics, catch_up=catch_up, advance=advance)


def _follow(job: PublishJob, addresses: Addresses) -> None:
    """Publish what a run saves until SIGTERM.

    Raises:
        ConfigError: The URI is that of one version, which stays the same.
    """
    directory = Directory.at(job.version_uri)
    with suppress(OSError):  # a storage that is away now is no reason not to begin
        if directory.exists(MANIFEST):
            raise ConfigError("every_s", f"{job.version_uri} is one version: give the directory of its run")
    versions = RunVersions(directory)
    metrics = _open_metrics()

    def find(verify: bool) -> tuple[ModelVersion | None, tuple[str, ...]]:
        found = versions.best_whole(verify=verify)
        return found.version, found.damaged

    copies, should_stop = _copies(job, addresses), stop_requested()  # behind Ray, which takes SIGTERM over
    fields = {"run": directory.uri, "every_s": job.every_s, "keep_in": copies.directory.uri}
    logger.info("following", extra={"fields": fields})
    ScheduledPublisher(
        FollowedRun(find, copies),
        lambda sleep: closing(MilvusVectorStore.at(addresses, job.milvus, sleep)),
        job.publishing,
        metrics,
        catch_up=lambda: _caught_up(job, addresses),
        should_stop=should_stop,
    ).run(job.every_s)


def _open_metrics() -> Metrics:
    """Return metrics that Ray exports where a cluster is named, as `ray job submit` does; else they are in log lines alone."""
    if "RAY_ADDRESS" not in os.environ:
        return InMemoryMetrics()
    from mind_dist.serving.ray_metrics import RayMetrics  # noqa: PLC0415 - seconds that jobs without Ray need not wait

    connect_ray()
    return RayMetrics()


def _copies(job: PublishJob, addresses: Addresses) -> PublishedCopies:
    """Return where copies are kept for the index: one that is shared by two would have each remove the other's.

    Raises:
        ConfigError: The path is relative, and this is a submitted job.
    """
    check_output("keep_in" if job.keep_in else "version_uri", job.keep_in or job.version_uri)
    server = re.sub(r"[^A-Za-z0-9.-]+", "_", without_user(addresses.milvus))
    index = f"{addresses.deployment}__{server}" if addresses.deployment else server
    place = Directory.at(job.keep_in) if job.keep_in else Directory.at(job.version_uri) / "published"
    return PublishedCopies(place / index)


def without_user(address: str) -> str:
    """Return an address without scheme, user and password.

    >>> without_user("https://me:secret@milvus.data:19530/")
    'milvus.data:19530'
    """
    return address.rpartition("://")[2].rpartition("@")[2].strip("/")


def _metrics(evaluation: Path, model_version: str) -> dict[str, float]:
    """Return the model's metrics from an evaluation's report.

    Raises:
        ConfigError: The file is missing, is no such report, or is one of another version.
    """
    report = load(EvaluationReport, evaluation)
    if report.model_version != model_version:
        raise ConfigError("evaluation", f"{evaluation} is of {report.model_version}, not of {model_version}")
    return report.metrics["model"]


def _caught_up(job: PublishJob, addresses: Addresses) -> CatchUp | None:
    if not job.publishing.wait_for_users:
        return None
    kafka = job.kafka.of_deployment(addresses.deployment)
    return CaughtUp(addresses.kafka, kafka, patience_s=min(_PATIENCE_S, job.publishing.catch_up_s))


def _summary(report: PublishReport) -> str:
    if report.already_active:
        return f"{report.model_version} is active already: nothing to do"
    lines = [
        f"readers are on {report.model_version}, before on {report.previous_version or 'none'}",
        f"{report.num_items:,} items, {report.num_users:,} users, in {report.wall_s:.1f} s",
        f"index finds {report.ann_recall:.1%} of the best items"
        + (f", recall@50 {report.recall:.4f}" if report.recall is not None else ""),
    ]
    if report.skew_recall is not None:
        share = f"{report.skew_recall:.1%} of the best items for a user"
        lines.append(
            f"interests of {report.previous_version} would find {share} among the new ones: never mix versions"
        )
    if report.num_available < report.num_items:
        lines.append(f"{report.num_available:,} items are available now: retrieval leaves out the others by default")
    if report.num_unknown_items:
        unknown = f"{report.num_unknown_items:,} items of the catalog are left out"
        lines.append(f"{unknown}: training has seen neither them nor their features")
    if report.retired:
        lines.append(f"dropped: {', '.join(report.retired)}")
    return "\n".join(lines)


def versions_table(store: VectorStore) -> Table:
    """Return the versions in the store, newest first."""
    active, staged = store.active_version(), store.staged_version()
    table = Table("version", "state", "published", "step", "recall@50", "items", "users", "model")
    for info in sorted(store.versions(), key=lambda info: -info.published_ms):
        states = {active: "active", staged: "staged"}
        published = datetime.fromtimestamp(info.published_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        recall = info.metrics.get("recall@50")
        released = store.is_released(info.model_version)  # counting would load it
        counts = (info.num_items, None) if released else _counts(store, info.model_version)
        table.add_row(
            info.model_version,
            states.get(info.model_version, "released" if released else ""),
            published,
            f"{info.step:,}",
            "" if recall is None else f"{recall:.4f}",
            *("" if count is None else f"{count:,}" for count in counts),
            without_secrets(info.uri),
        )
    return table


def _counts(store: VectorStore, model_version: str) -> tuple[int, int]:
    return store.count_items(model_version), store.count_users(model_version)


if __name__ == "__main__":
    run(PublishJob, main)
