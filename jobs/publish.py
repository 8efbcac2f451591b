"""Model version → Milvus: create, fill, have its users' rows made, verify, switch readers, retire.

python -m jobs.publish --version-uri versions/v00000400_1a2b3c4d
python -m jobs.publish --list
python -m jobs.publish --rollback
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ConfigDict, with_config
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jobs.cli import interactive, run
from jobs.tables import print_whole
from mind_dist.config import Addresses, KafkaConfig, MilvusConfig, PublishConfig, load
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import ConfigError, without_secrets
from mind_dist.evaluation import EvaluationReport
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import VectorStore
from mind_dist.publishing import CatchUp, PublishReport, publish, rollback
from mind_dist.training.run_versions import version_at
from mind_dist.views.caught_up import CaughtUp

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
    if len(job.rollback or ()) > 1:
        raise ConfigError("rollback", "takes at most one version")
    addresses = Addresses.from_environment()
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
    encoder = InterestEncoder.load(version_uri)
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not interactive()) as progress:
        tasks = {step: progress.add_task(step, total=None) for step in ("items",)}
        return publish(
            store,
            encoder,
            version_uri,
            job.publishing,
            metrics=_metrics(job.evaluation, encoder.model_version) if job.evaluation else None,
            catch_up=_caught_up(job, addresses),
            advance=lambda step, done: progress.update(tasks[step], completed=done),
        )


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
