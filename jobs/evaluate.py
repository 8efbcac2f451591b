"""Model version × prepared dataset → metrics, beside what the model has to beat.

python -m jobs.evaluate --dataset data/shop --version-uri runs/shop --output shop.json
python -m jobs.evaluate --dataset data/shop --version-uri runs/shop --floors     # is it worth deploying?
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, with_config
from rich.table import Column, Table

from jobs.cli import check_output, run, write_output
from jobs.tables import print_readable
from mind_dist.config import dump
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import without_secrets
from mind_dist.evaluation import Cut, EvaluationReport, Report, evaluate_version
from mind_dist.evaluation.floors import Effort
from mind_dist.evaluation.measuring import CURVE_CUTOFFS
from mind_dist.strict_json import to_json
from mind_dist.training.run_versions import version_at

logger = logging.getLogger(__name__)

_SHOWN = (
    *(f"recall@{limit}" for limit in CURVE_CUTOFFS),
    "hit_rate@50",
    "ndcg@20",
    "ndcg@50",
    "coverage@50",
    "diversity@50",
    "category_coverage@50",
    "recall@50_removed",
    "recall@50_in_context",
    "recall@50_in_none",
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
    """Measure a model version by exact search, on users or events that it was not trained on.

    How a dataset was split is `[split] by` of `jobs.prepare`, and the evaluation follows it. `user`: valid and test users are
    others than those trained on; the first 80 % of their events are shown, the rest is to be found among all items of the log.
    `time`: what came after a point in time is to be found, among the items that were available at the user's first event
    after it; chance stands beside the model. `leave-one-out`: the last event of every user is to be found. With `--cut last` the
    last event alone is to be found of a dataset of any split.
    """

    dataset: str
    """URI of the prepared dataset."""
    version_uri: str
    """URI of the model version, or of a run, whose best version it then is (its newest where no valid users watched)."""
    output: str = ""
    """JSON file to write all metrics to, by path or URI; empty for none."""
    split: Literal["valid", "test"] = "test"
    """Whose users: valid to choose by, test to report."""
    category: str = ""
    """Item column for diversity and category coverage; empty for the first categorical feature that tells items apart.
    Categories that nearly all items have, as the root of a tree, are left out."""
    cut: Cut = "share"
    """Where users of a dataset split by user are cut: after the share of events that the split says, at the border nearest to it
    between two different times (the items of a basket share one), or before the last event."""
    floors: bool = False
    """Tune popularity, recent popularity, ItemKNN, EASE and a transition graph on the valid users, show them beside the
    model in place of untuned transitions, and say whether the model is worth deploying: whether it finds significantly more
    than the best of them."""
    floors_cpu_s: float = 240.0
    """Processor seconds that tuning all of them may take together; what has not been tried by then is not tried. Fitting what
    was chosen comes on top: of EASE with 12,288 items, about half a minute."""

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if not self.floors_cpu_s > 0:
            raise ValueError("floors_cpu_s must be above 0")


def main(job: EvaluateJob) -> None:
    """Evaluate, show tables and the verdict, write the report.

    Raises:
        ConfigError: The path to write to is relative, and this is a submitted job.
    """
    check_output("output", job.output)
    dataset = PreparedDataset.open(job.dataset)
    encoder = InterestEncoder.load(version_at(job.version_uri))
    effort = Effort(job.floors_cpu_s, logger.info) if job.floors else None
    report = evaluate_version(dataset, encoder, job.split, job.category, cut=job.cut, floors=effort)
    print_readable(metrics_table(report.metrics, title=_title(job, encoder)))
    if report.interests:
        print_readable(interests_table(report))
    if report.floors:
        print_readable(floors_table(report))
    print(_about(report, encoder))
    if job.output:
        write_output(job.output, to_json(dump(report), indent=2) + "\n")


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
    if report.category:
        common = ", ".join(repr(each) for each in report.common_categories)
        but = f" without {common}, which nearly all items have" if common else ""
        lines.append(f"diversity and category coverage are over the categories in {report.category!r}{but}")
    if encoder.num_unknown_items:
        lines.append(
            f"{encoder.num_unknown_items:,} items have no vector: neither they nor their features were trained"
        )
    if report.verdict is None:
        lines.append(
            "what stands beside the model is not tuned: --floors tunes more, and says whether to deploy the model"
        )
    else:
        lines += _verdict(report)
    return "\n".join(lines)


def _verdict(report: EvaluationReport) -> list[str]:
    """Return the verdict, after what weakens it."""
    lines = []
    if not any(each.num_trials for each in report.floors.values()):
        lines.append("the floors are not tuned but have their defaults: the dataset has no valid users")
    elif report.split == "valid":
        lines.append("the floors were tuned on these very users: the verdict that counts is that of --split test")
    unfinished = [name for name, each in report.floors.items() if not each.finished]
    if unfinished:
        names = ", ".join(unfinished)
        lines.append(f"the time was up before all settings of {names} were tried (--floors-cpu-s): they may be better")
    return [*lines, report.verdict.sentence] if report.verdict else lines


def metrics_table(report: Report, title: str) -> Table:
    """Return the main metrics of each recommender, side by side; those of interests are the model's alone."""
    table = Table(Column("metric", no_wrap=True), *report, title=title)
    for name in _SHOWN:
        if any(name in values for values in report.values()):
            table.add_row(name, *(f"{values[name]:.4f}" if name in values else "-" for values in report.values()))
    return table


def interests_table(report: EvaluationReport) -> Table:
    """Return what each interest of the model is good for."""
    columns = ("interest", "wins of the top 50", "of what was found", "recall@50 alone")
    table = Table(*columns, title=f"interests, mean cosine {report.metrics['model']['interest_cosine']:.2f}")
    for number, each in enumerate(report.interests):
        table.add_row(str(number), f"{each.share:.0%}", f"{each.hit_share:.0%}", f"{each.recall:.4f}")
    return table


def floors_table(report: EvaluationReport) -> Table:
    """Return how the floors were tuned."""
    columns = ("floor", "recall@50 on valid", "settings tried", "processor s", "chosen")
    table = Table(
        *columns, title="floors, chosen on the valid users by recall@50, the history kept and removed half each"
    )
    for name, each in report.floors.items():
        chosen = ", ".join(f"{setting} {value}" for setting, value in each.settings.items())
        table.add_row(name, f"{each.valid_recall:.4f}", str(each.num_trials), f"{each.cpu_s:.0f}", chosen)
    return table


if __name__ == "__main__":
    run(EvaluateJob, main)
