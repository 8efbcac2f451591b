"""Model version × prepared dataset → metrics, beside popularity and transitions.

Of a dataset split by time each user is asked about the items that were available at that moment, and recent popularity and
chance stand beside the model.

python -m jobs.evaluate --dataset data/ml-100k --version-uri versions/v00000400_1a2b3c4d --output report.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, with_config
from rich.console import Console
from rich.table import Table

from jobs.cli import check_output, run, write_output
from mind_dist.config import dump
from mind_dist.data.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import without_secrets
from mind_dist.evaluation import EvaluationReport, Report, evaluate_version
from mind_dist.training.run_versions import version_at

_SHOWN = (
    "recall@20",
    "recall@50",
    "hit_rate@50",
    "ndcg@50",
    "coverage@50",
    "diversity@50",
    "category_coverage@50",
    "recall@50_removed",
    "recall@50_with_cold",
    "cold_share@50",
    "best_single_recall@50",
    "least_interest_share@50",
    "largest_interest_share@50",
    "interest_cosine",
    "candidates",
    "window_h",
)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class EvaluateJob:
    """Measure a model version by exact search."""

    dataset: str
    """URI of the prepared dataset."""
    version_uri: str
    """URI of the model version, or of a run, whose newest version it then is."""
    output: str = ""
    """JSON file to write all metrics to, by path or URI; empty for none."""
    split: Literal["valid", "test"] = "test"
    """Whose users: valid to choose by, test to report."""
    category: str = ""
    """Item column for diversity and category coverage; empty for the first categorical feature."""


def main(job: EvaluateJob) -> None:
    """Evaluate, show a table, write the report.

    Raises:
        ConfigError: The path to write to is relative, and this is a submitted job.
    """
    check_output("output", job.output)
    dataset = PreparedDataset.open(job.dataset)
    encoder = InterestEncoder.load(version_at(job.version_uri))
    report = evaluate_version(dataset, encoder, job.split, job.category)
    Console().print(metrics_table(report.metrics, title=_title(job, encoder)))
    print(_about(report, encoder))
    if job.output:
        write_output(job.output, json.dumps(dump(report), indent=2) + "\n")


def _title(job: EvaluateJob, encoder: InterestEncoder) -> str:
    return f"{encoder.model_version} on {job.split} of {without_secrets(job.dataset)}"


def _about(report: EvaluationReport, encoder: InterestEncoder) -> str:
    """Return whom the metrics are of, and what was left out."""
    lines = [f"{report.num_users:,} users with {report.num_targets:,} events to be found"]
    if report.num_unavailable_targets:
        left_out = (
            f"{report.num_unavailable_targets:,} events, and {report.num_unavailable_users:,} users with no other"
        )
        lines.append(f"left out: {left_out}, on items that were not available at the user's first event after the cut")
    if share := report.metrics["model"].get("cold_share@50"):
        lines.append(
            f"cold items, left out above, take {share:.0%} of the top 50 once they are published: to train vectors of "
            "features alone set --training.id-dropout, or leave these items out by items.keep_cold = false"
        )
    if encoder.num_unknown_items:
        lines.append(
            f"{encoder.num_unknown_items:,} items have no vector: neither they nor their features were trained"
        )
    return "\n".join(lines)


def metrics_table(report: Report, title: str) -> Table:
    """Return the main metrics of each recommender, side by side; those of interests are the model's alone."""
    table = Table("metric", *report, title=title)
    for name in _SHOWN:
        if any(name in values for values in report.values()):
            table.add_row(name, *(f"{values[name]:.4f}" if name in values else "-" for values in report.values()))
    return table


if __name__ == "__main__":
    run(EvaluateJob, main)
