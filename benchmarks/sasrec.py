"""SASRec (arXiv 1808.09781) with full softmax: the neural opponent. Trains for as long as it is given, chooses on valid.

    python -m benchmarks.sasrec --dataset ml1m --data ../shared/data --limit-s 900

The result is stored in `benchmarks/stored/sasrec.json` with the command that made it, for `benchmarks.quality` to show.
By leave-one-out, too, the model that is reported is the one that was chosen: trained without the last two items.
"""

from __future__ import annotations

import copy
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import ConfigDict, with_config
from torch import Tensor, nn

from benchmarks.cells import Bench, Cell, Outcome, open_task, outcome_of
from benchmarks.measuring import measure
from benchmarks.tasks import Protocol, Task
from jobs.cli import run
from mind_dist.data.parquet import ItemCatalog
from mind_dist.evaluation import ExactRecommender
from mind_dist.records import BehaviorSequence, Keys

STORED = Path(__file__).parent / "stored" / "sasrec.json"
"""Results by dataset and protocol, each a list of rows, their command and metrics of each user."""

_SCORED_AT_ONCE = 256
_PADDING = -1
_STORED_METRICS = ("recall@50", "hr@10")


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class SASRecJob:
    """Train SASRec on a benchmark dataset, measure it, and store the result."""

    dataset: str = "movielens_100k"
    """What to train on."""
    data: str = ""
    """Folder of the Parquet files; MovieLens-100K needs none."""
    protocol: Protocol = "user-split"
    """How users are cut."""
    limit_s: float = 900.0
    """Seconds of training."""
    dim: int = 64
    """Width."""
    num_layers: int = 2
    """Transformer blocks."""
    num_heads: int = 2
    """Attention heads of a block."""
    dropout: float = 0.2
    """Share of activations left out in training."""
    max_behaviors: int = 0
    """Longest history L; 0 for the dataset's own."""
    batch_size: int = 32
    """Windows of a step."""
    learning_rate: float = 1e-3
    """Adam's."""
    num_choices: int = 20
    """How often the valid users are looked at."""
    seed: int = 17
    """Seed of everything random."""
    cache: Path = Path(".mind_dist/quality")
    """Where datasets are kept."""
    output: Path = STORED
    """Where to add the result."""


class SASRec(nn.Module):
    """A causal transformer over items; item vectors are input and output alike.

    Windows are padded at their end, so that no real position sees padding and no mask is needed.
    """

    def __init__(self, num_items: int, length: int, job: SASRecJob) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, job.dim)
        self.positions = nn.Parameter(torch.randn(length, job.dim) / math.sqrt(job.dim))
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(job.dim))
        block = nn.TransformerEncoderLayer(
            job.dim, job.num_heads, job.dim, job.dropout, batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(job.dim)
        self.blocks = nn.TransformerEncoder(block, job.num_layers, norm, enable_nested_tensor=False)
        self.dropout = nn.Dropout(job.dropout)

    def forward(self, rows: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Return the state after each item; the next one scores by its inner product with it."""
        future = torch.ones(rows.shape[1], rows.shape[1], dtype=torch.bool).triu(1)
        inputs = self.dropout(self.items(rows) + self.positions[: rows.shape[1]])
        states: Tensor = self.blocks(inputs, mask=future, is_causal=True)
        return states


def main(job: SASRecJob) -> None:
    """Train, measure, store."""
    task = open_task(Bench(job.data, job.cache, job.protocol, "test"), job.dataset)
    started = time.monotonic()
    recommender, chosen = fit(task, job, print)
    about = {"train_s": round(time.monotonic() - started, 1), "settings": {"valid": chosen}, "part": "test"}
    measured = {
        history: measure(recommender, task.reporting, task.protocol, task.info.category, history)
        for history in task.histories
    }
    outcome = outcome_of(Cell(job.dataset, "sasrec"), measured, about, task.reporting)
    store(job.output, job.protocol, outcome, shlex.join(["python", "-m", "benchmarks.sasrec", *sys.argv[1:]]))
    print(json.dumps(outcome.rows, indent=2))


def fit(task: Task, job: SASRecJob, report: Callable[[str], None]) -> tuple[ExactRecommender, float]:
    """Train for the time given; returns what was best for the valid users, and how good that was."""
    torch.manual_seed(job.seed)
    length, catalog = job.max_behaviors or task.max_behaviors, task.choosing.catalog
    model = SASRec(len(catalog), length, job)
    optimizer = torch.optim.Adam(model.parameters(), lr=job.learning_rate, betas=(0.9, 0.98))
    sequences = [catalog.rows(each.item_keys) for each in task.choosing.dataset.sequences("train") if len(each) > 1]
    recommender = recommend_by(model, catalog, length)
    best, best_state, num_choices, started = -math.inf, model.state_dict(), 0, time.monotonic()
    for step, window in enumerate(batches(sequences, length, job.batch_size, job.seed)):
        loss = _step(model, optimizer, *window)
        elapsed_s = time.monotonic() - started
        if elapsed_s >= (num_choices + 1) * job.limit_s / job.num_choices:
            num_choices += 1
            quality = task.quality(recommender)
            report(f"{elapsed_s:.0f} s  step {step}  loss {loss:.3f}  valid {quality:.4f}")
            if quality > best:
                best, best_state = quality, copy.deepcopy(model.state_dict())
        if elapsed_s >= job.limit_s:
            break
    model.load_state_dict(best_state)
    return recommender, best


def batches(sequences: Sequence[Keys], length: int, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield windows and the item after each of their positions, both [B, L], epoch after epoch without end.

    An epoch has each behavior once as a target, in windows that are cut at other places every time. Inputs are padded
    with item 0, targets with `_PADDING`.
    """
    generator = np.random.default_rng(seed)
    while True:
        cuts = [
            (number, max(0, start), min(start + length, len(rows) - 1))
            for number, rows in enumerate(sequences)
            for start in range(-int(generator.integers(length)) if len(rows) > length else 0, len(rows) - 1, length)
        ]
        order = generator.permutation(len(cuts))
        for first in range(0, len(order), batch_size):
            chosen = [cuts[place] for place in order[first : first + batch_size]]
            inputs = [sequences[number][start:stop] for number, start, stop in chosen]
            targets = [sequences[number][start + 1 : stop + 1] for number, start, stop in chosen]
            yield padded(inputs, length, 0), padded(targets, length, _PADDING)


def padded(rows: Sequence[Keys], length: int, padding: int) -> Int[Tensor, "B L"]:
    """Return sequences as one tensor, each padded at its end."""
    tensor = torch.full((len(rows), length), padding)
    for row, values in zip(tensor, rows, strict=True):
        row[: len(values)] = torch.from_numpy(values)
    return tensor


def _step(model: SASRec, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> float:
    real = targets != _PADDING
    scores = model(inputs)[real] @ model.items.weight.T
    loss = nn.functional.cross_entropy(scores, targets[real])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def recommend_by(model: SASRec, catalog: ItemCatalog, length: int) -> ExactRecommender:
    """Recommend by the state after the newest behavior, as the model is at that moment; no behaviors, no items."""

    def score(histories: Sequence[BehaviorSequence]) -> NDArray[np.float32]:
        scores = np.full((len(histories), len(catalog)), -np.inf, dtype=np.float32)
        known = [catalog.rows(history.item_keys) for history in histories]
        newest = [rows[rows >= 0][-length:] for rows in known]
        places = np.flatnonzero([len(rows) > 0 for rows in newest])
        model.eval()
        with torch.inference_mode():
            for chunk in np.array_split(places, 1 + len(places) // _SCORED_AT_ONCE):
                states = model(padded([newest[place] for place in chunk], length, 0))
                last = states[torch.arange(len(chunk)), [len(newest[place]) - 1 for place in chunk]]
                scores[chunk] = (last @ model.items.weight.T).numpy()
        model.train()
        return scores

    return ExactRecommender(catalog.keys, score)


def store(path: Path, protocol: Protocol, outcome: Outcome, command: str) -> None:
    """Add a result to a file of them, or replace the one there is of the same dataset and protocol."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    recalls = {
        history: {name: values.round(4).tolist() for name, values in found.items() if name in _STORED_METRICS}
        for history, found in outcome.per_user.items()
    }
    rows = [row | {"command": command} for row in outcome.rows]
    stored[f"{outcome.rows[0]['dataset']}/{protocol}"] = {
        "rows": rows,
        "curves": outcome.curves,
        "per_user": recalls,
        "users": outcome.users,
        "code": outcome.code,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored) + "\n")


def stored_outcome(dataset: str, protocol: Protocol, path: Path = STORED) -> Outcome | None:
    """Return the stored result on a dataset, None where there is none."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    found = stored.get(f"{dataset}/{protocol}")
    if found is None:
        return None
    per_user = {
        history: {name: np.array(values) for name, values in metrics.items()}
        for history, metrics in found["per_user"].items()
    }
    return Outcome(found["rows"], found["curves"], per_user, found["users"], found["code"])


if __name__ == "__main__":
    run(SASRecJob, main)
