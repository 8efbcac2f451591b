"""Results of what takes too long to train beside everything else: written by a command, read by `benchmarks.quality`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import Cell, Outcome
from benchmarks.tasks import Protocol

STORED = Path(__file__).parents[1] / "stored"
"""A file for each model: results by dataset, protocol and split, each on a line of its own."""

OPPONENTS = ("sasrec", "esasrec")
"""Models that have such a file."""

_METRICS = ("recall@20", "recall@50", "ndcg@50", "hr@10", "ndcg@10")
_DIGITS = 4


def store(directory: Path, protocol: Protocol, cell: Cell, outcome: Outcome, about: dict[str, Any]) -> Path:
    """Add a result to its model's file, or replace the one there is; returns the file.

    Args:
        directory: Of the files.
        protocol: How users were cut.
        cell: What was measured.
        outcome: What came of it.
        about: The command, and what it went through to choose.
    """
    path = directory / f"{cell.recipe}.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    per_user = {
        history: {name: values.round(_DIGITS).tolist() for name, values in found.items() if name in _METRICS}
        for history, found in outcome.per_user.items()
    }
    stored[_key(cell, protocol)] = {
        "rows": outcome.rows,
        "curves": outcome.curves,
        "per_user": per_user,
        "users": outcome.users,
        "code": outcome.code,
        **about,
    }
    lines = (f"{json.dumps(key)}: {json.dumps(stored[key])}" for key in sorted(stored))
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return path


def stored_outcome(cell: Cell, protocol: Protocol, directory: Path = STORED) -> Outcome | None:
    """Return the stored result of a cell, None where there is none."""
    found = stored_result(cell, protocol, directory)
    if not found:
        return None
    per_user = {
        history: {name: np.array(values) for name, values in metrics.items()}
        for history, metrics in found["per_user"].items()
    }
    return Outcome(found["rows"], found["curves"], per_user, found["users"], found["code"])


def stored_result(cell: Cell, protocol: Protocol, directory: Path = STORED) -> dict[str, Any]:
    """Return all that is stored of a cell, nothing where there is none."""
    path = directory / f"{cell.recipe}.json"
    stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found: dict[str, Any] = stored.get(_key(cell, protocol), {})
    return found


def _key(cell: Cell, protocol: Protocol) -> str:
    return f"{cell.dataset}/{protocol}/{cell.split}"
