"""What a drill has shown: a row of `reports/drills.json`, and a line for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from mind_dist.strict_json import from_json, to_json
from tests.findings import NOTHING, Findings

BROKER = "Apache Kafka"
"""What all drills are done on."""

Figures = dict[str, float | int | str]


@dataclass(frozen=True)
class Run:
    """What one run of a drill has shown.

    Attributes:
        findings: What is not as the log says.
        figures: What was measured, by name.
        problems: What else is not as it must be.
    """

    findings: Findings = NOTHING
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What all runs of a drill have shown on one broker and one store."""

    drill: str
    broker: str
    store: str
    runs: int
    findings: Findings
    figures: Figures
    problems: tuple[str, ...]

    @classmethod
    def of(cls, drill: str, broker: str, store: str, runs: Sequence[Run]) -> Outcome:
        """Return runs together: of a figure that several have, the largest, and counts of `num_…` added up."""
        findings, figures = NOTHING, Figures()
        for run in runs:
            findings = findings.plus(run.findings)
            for name, value in run.figures.items():
                figures[name] = _together(name, figures[name], value) if name in figures else value
        problems = tuple(problem for run in runs for problem in run.problems)
        return cls(drill, broker, store, len(runs), findings, figures, problems)

    @property
    def ok(self) -> bool:
        """Whether all is as it must be."""
        return self.findings == NOTHING and not self.problems

    def row(self) -> dict[str, Any]:
        """Return it for the report."""
        where = {"drill": self.drill, "broker": self.broker, "store": self.store, "runs": self.runs}
        shown = {"figures": self.figures, "problems": list(self.problems)}
        return {**where, **dataclasses.asdict(self.findings), "ok": self.ok, **shown}


def _together(name: str, one: float | str, other: float | str) -> float | int | str:
    if isinstance(one, str) or isinstance(other, str):
        return one
    return one + other if name.startswith("num_") else max(one, other)


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return what was shown for a terminal."""
    counts = [each.name for each in dataclasses.fields(Findings)]
    shown = Table("drill", "store", "runs", *(name.replace("_", " ") for name in counts), "ok", "figures")
    for row in rows:
        figures = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in row["figures"].items())
        told = [str(row[name]) for name in ("drill", "store", "runs", *counts)]
        shown.add_row(*told, "yes" if row["ok"] else "NO", figures)
    return shown


def keep(row: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Put a row in place of the one of the same drill, broker and store, and return all rows there are then."""
    rows: list[dict[str, Any]] = from_json(path.read_bytes()) if path.exists() else []
    place = ("drill", "broker", "store")
    others = [each for each in rows if any(each[name] != row[name] for name in place)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json([*others, row], indent=1) + "\n")
    return [*others, row]
