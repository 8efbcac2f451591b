"""The protocol of HSTU and SASRec: everybody's last item is to be found, among all items but the 200 before it.

All events count, no item or user is filtered. Choices are made on the item before the last, by what was trained
without the last two; what is reported was trained without the last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.datasets import prepare_config, prepared, with_train
from benchmarks.folders import info_of
from benchmarks.tasks import Stage, Task
from mind_dist.config import PrepareConfig, SplitConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.evaluation import HeldOut, Recommender, metrics

MAX_INPUT = 200
"""Behaviors shown, and left out of what is recommended."""

_CHOICE_CUTOFF = 10
_EVERYBODY = SplitConfig(train_fraction=1.0, valid_fraction=0.0)


def leave_one_out(name: str, data: str, cache: Path) -> Task:
    """Return the protocol on a dataset, which is prepared if it is not there."""
    everything = prepared(cache / f"{name}-all", lambda output: _unfiltered(name, data, output))
    choosing, reporting = (_stage(everything, cache / f"{name}-without-{count}", count) for count in (2, 1))
    return Task("leave-one-out", info_of(name, data), choosing, reporting, ("removed",), hit_rate, MAX_INPUT)


def hit_rate(recommender: Recommender, users: Sequence[HeldOut]) -> float:
    """Return HR@10."""
    ranked = recommender.recommend([user.history for user in users], _CHOICE_CUTOFF, exclude_seen=True)
    return float(np.mean([metrics.hit_rate(keys, user.targets) for keys, user in zip(ranked, users, strict=True)]))


def _unfiltered(name: str, data: str, output: str) -> PrepareConfig:
    config = prepare_config(name, data, output)
    return dataclasses.replace(config, split=_EVERYBODY, min_item_events=1, min_user_events=1, max_user_events=0)


def _stage(everything: PreparedDataset, directory: Path, left_out: int) -> Stage:
    """Return what is trained without everybody's last `left_out` items, and the first of them as targets."""
    if not (directory / "manifest.json").exists():
        with_train(everything, directory, lambda user: user.slice(0, max(0, len(user) - left_out)))
    users = []
    for sequence in everything.sequences("train"):
        cut = len(sequence) - left_out
        if cut > 0:
            users.append(HeldOut(sequence.slice(0, cut).last(MAX_INPUT), sequence.slice(cut, cut + 1)))
    return Stage(PreparedDataset.open(str(directory)), users)
