"""SASRec (arXiv 1808.09781) with softmax over all items: a neural opponent, at its best.

    python -m benchmarks.sasrec --dataset ml1m --data ../shared/data
    python -m benchmarks.sasrec --dataset ml1m --data ../shared/data --split 1231 --num-trials 0   # with what was found

It begins as the paper's code does: item vectors times √D, small positions; with a moving average of the weights. Where all
trials end the test users are measured once, and the result is stored in `benchmarks/stored/sasrec.json` with all curves.
"""

from __future__ import annotations

from types import MappingProxyType

from benchmarks.neural.model import Settings
from benchmarks.neural.opponent import OpponentJob, run_opponent
from benchmarks.neural.search import Space
from jobs.cli import run

BASE = Settings()
"""What begins the search: what was best of some hand-made trials on MovieLens-1M."""

SPACE: Space = MappingProxyType(
    {
        "length": (50, 100, 200),
        "num_layers": (1, 2, 3),
        "num_heads": (1, 2, 4),
        "widening": (1, 4),
        "dropout": (0.1, 0.2, 0.3, 0.5),
        "learning_rate": (5e-4, 1e-3, 2e-3, 4e-3),
        "weight_decay": (0.0, 0.01, 0.1),
        "smoothing": (0.0, 0.05),
        "positions": (1600, 3200),
    }
)
"""What else is tried."""


def main(job: OpponentJob) -> None:
    """Search, train, measure, store."""
    run_opponent("sasrec", BASE, SPACE, job)


if __name__ == "__main__":
    run(OpponentJob, main)
