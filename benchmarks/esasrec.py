"""eSASRec (RecSys 2025, arXiv 2508.06450): a neural opponent, at its best.

    python -m benchmarks.esasrec --dataset ml1m --data ../shared/data
    python -m benchmarks.esasrec --dataset ml1m --data ../shared/data --split 1231 --num-trials 0   # with what was found

SASRec's shifted targets with LiGR's blocks and a sampled softmax; negatives are drawn evenly or mixed with the targets of
the step, corrected by logQ or not, as in its section on negatives. All states of a step share their negatives, which are
more than the paper's 256 for that. The result is stored in `benchmarks/stored/esasrec.json` with all curves.
"""

from __future__ import annotations

from types import MappingProxyType

from benchmarks.neural.model import Settings
from benchmarks.neural.opponent import OpponentJob, run_opponent
from benchmarks.neural.search import Space
from jobs.cli import run

BASE = Settings(
    layers="ligr", widening=4, last_norm=False, dropout=0.2, num_heads=1, num_negatives=1024, in_batch_share=0.5
)
"""What begins the search: the paper's on MovieLens-1M, with mixed negatives and corrected logQ."""

SPACE: Space = MappingProxyType(
    {
        "length": (50, 100, 200),
        "num_layers": (1, 2, 3),
        "num_heads": (1, 2, 4),
        "widening": (1, 4),
        "last_norm": (False, True),
        "dropout": (0.1, 0.2, 0.3, 0.5),
        "learning_rate": (5e-4, 1e-3, 2e-3, 4e-3),
        "weight_decay": (0.0, 0.01, 0.1),
        "positions": (1600, 3200),
        "num_negatives": (512, 1024),
        "in_batch_share": (0.0, 0.5),
        "correct_log_q": (True, True, False),
    }
)
"""What else is tried."""


def main(job: OpponentJob) -> None:
    """Search, train, measure, store."""
    run_opponent("esasrec", BASE, SPACE, job)


if __name__ == "__main__":
    run(OpponentJob, main)
