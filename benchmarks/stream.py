"""What a version gains by training on as events come: beside none of it, and beside training anew on everything.

python -m benchmarks.stream                                               # MovieLens-100K, minutes
python -m benchmarks.stream --datasets ml1m online_retail_ii --data DIR

The events of the train users are cut in time: 72 % are what `best` is trained on, the next 8 %, a tenth of both, come as a stream that `stream` goes
on with, and what follows is to be found: up to 90 % by the valid users, the last tenth by the test users, who are asked once.
Where a set knows no times but the order of each user's events, that order is cut by the same shares.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cells import train_cell
from benchmarks.dataset_info import MOVIELENS_100K
from benchmarks.datasets import open_dataset, with_train
from benchmarks.folders import info_of
from jobs.cli import run
from mind_dist.checkpoint import MANIFEST, ModelVersion
from mind_dist.config import TrainingConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import ConfigError
from mind_dist.evaluation import HeldOut, measure, of_model
from mind_dist.examples.events import EventExamples
from mind_dist.log.codec import PoisonGate, encode_event, encode_key
from mind_dist.log.partitioner import key_hash
from mind_dist.log.source import InMemoryDeadLetters, InMemoryLog, InMemorySource
from mind_dist.recipes import Recipe, best, stream
from mind_dist.records import BehaviorSequence, UserHistory
from mind_dist.storage import Directory
from mind_dist.strict_json import to_json
from mind_dist.training.run import TrainingRun

_OLD, _STREAM, _VALID = 0.72, 0.8, 0.9
"""Shares of the events: what is old, what comes until the stream ends, what valid users are to find ends."""

_FOREVER_MS = 1 << 50
_METRICS = ("recall@50", "recall@50_removed")
_SHOWN = Console()

Figures = dict[str, float]


@dataclass(frozen=True)
class Timeline:
    """A dataset, cut in time.

    Attributes:
        old: What came before the stream.
        everything: The same and the stream.
        log: The stream.
        histories: The users' behaviors when it begins.
        valid: Users whose next events choose.
        test: Users whose last events are reported.
    """

    old: PreparedDataset
    everything: PreparedDataset
    log: InMemoryLog
    histories: list[UserHistory]
    valid: list[HeldOut]
    test: list[HeldOut]


def timeline(dataset: PreparedDataset, directory: Path, *, has_times: bool) -> Timeline:
    """Cut the behaviors of a dataset's train users."""
    users = list(dataset.sequences("train"))
    cuts = _cuts(users, has_times=has_times)
    by_key = {user.user_key: cut for user, cut in zip(users, cuts, strict=True)}
    old = with_train(dataset, directory / "old", lambda user: user.slice(0, by_key[user.user_key][0]))
    everything = with_train(dataset, directory / "everything", lambda user: user.slice(0, by_key[user.user_key][1]))
    pairs = list(zip(users, cuts, strict=True))
    return Timeline(
        old,
        everything,
        _log([(user, first, last) for user, (first, last, _) in pairs], has_times=has_times),
        [UserHistory(user.slice(0, first), key_hash(encode_key(user.user_key))) for user, (first, _, _) in pairs],
        _held_out([(user, at, end) for user, (_, at, end) in pairs]),
        _held_out([(user, at, len(user)) for user, (_, _, at) in pairs]),
    )


def _cuts(users: Sequence[BehaviorSequence], *, has_times: bool) -> list[tuple[int, int, int]]:
    """Return how many of each user's events are old, come until the stream ends, and until the valid users' end."""
    shares = (_OLD, _STREAM, _VALID)
    if not has_times:
        return [(int(len(user) * _OLD), int(len(user) * _STREAM), int(len(user) * _VALID)) for user in users]
    moments = np.quantile(np.concatenate([user.timestamps_ms for user in users]), shares)
    found = [np.searchsorted(user.timestamps_ms, moments).tolist() for user in users]
    return [(old, until, valid) for old, until, valid in found]


def _log(parts: Sequence[tuple[BehaviorSequence, int, int]], *, has_times: bool) -> InMemoryLog:
    """Return each user's events of a range in order of time, or, where there is none, of their place in the range."""
    events = []
    for user, first, last in parts:
        times = user.timestamps_ms[first:last]
        order = times if has_times else np.arange(1, len(times) + 1) / (len(times) + 1)
        keys = itertools.repeat(user.user_key)
        events += list(zip(order.tolist(), keys, user.item_keys[first:last].tolist(), times.tolist(), strict=False))
    log = InMemoryLog()
    for _, user_key, item_key, time_ms in sorted(events, key=lambda event: event[0]):
        log.append(encode_key(user_key), encode_event(user_key, item_key, time_ms))
    return log


def _held_out(parts: Sequence[tuple[BehaviorSequence, int, int]]) -> list[HeldOut]:
    return [HeldOut(user.slice(0, at), user.slice(at, end)) for user, at, end in parts if 0 < at < end]


def go_on(cut: Timeline, version: ModelVersion, training: TrainingConfig, directory: Path) -> InterestEncoder:
    """Train a version on with the events of the stream, as `jobs.train --source kafka --init-from` does."""
    examples = EventExamples(
        lambda _partition: InMemorySource(cut.log, "stream", partitions=[0]),
        [0],
        cut.old.manifest.id_type,
        InMemoryDeadLetters(),
        PoisonGate(0.0, 1),
        max_behaviors=training.max_behaviors,
        max_clock_skew_ms=_FOREVER_MS,
        profiles=cut.old.profiles(),
        num_profile_features=len(cut.old.manifest.profile_features),
        positions={0: 0},
        histories={0: cut.histories},
    )
    opened = TrainingRun(examples, cut.old, version.model_config(), training, source="stream", observe=True)
    opened.start_from(version)
    for _ in opened.steps():
        pass
    opened.save(Directory.at(directory))
    return InterestEncoder.load(str(directory))


@dataclass(frozen=True)
class Stream:
    """Compare continued training with none and with training anew."""

    datasets: tuple[str, ...] = (MOVIELENS_100K,)
    """What is trained on; ids must be integers."""
    data: str = ""
    """Folder of the Parquet files."""
    cache: Path = Path(".mind_dist/quality")
    """Where datasets and versions are kept."""
    epochs: int = 3
    """Passes of `best` over what is old, and over everything."""
    batch_sizes: tuple[int, ...] = (stream().training.batch_size,)
    """Events a step that are tried on the valid users."""
    learning_rates: tuple[float, ...] = (stream().training.learning_rate,)
    """Learning rates that are tried on the valid users."""
    young_learning_rates: tuple[float, ...] = (stream().training.young_learning_rate,)
    """Those of young rows, likewise."""
    seed: int = 17
    """Seed of the trainings."""
    output: Path | None = None
    """Write the figures here as JSON, too."""


def main(job: Stream) -> None:
    """Compare and show.

    Raises:
        ConfigError: Ids of a dataset are texts.
    """
    torch.set_num_threads(1)
    found = {name: compare(name, job) for name in job.datasets}
    for name, rows in found.items():
        table = Table(f"{name}: recall@50, history kept / removed", "valid users", "test users")
        for row, figures in rows.items():
            table.add_row(row, *(_pair(figures, part) for part in ("valid", "test")))
        _SHOWN.print(table)
    if job.output is not None:
        job.output.write_text(to_json(found, indent=2) + "\n")


def _pair(figures: Figures, part: str) -> str:
    return "/".join(f"{figures[name]:.4f}" for metric in _METRICS if (name := f"{part} {metric}") in figures)


def compare(name: str, job: Stream) -> dict[str, Figures]:
    """Return the figures of all three on a dataset; the stream's settings are those that valid users find most by."""
    info = info_of(name, job.data)
    if info.id_type == "string":
        raise ConfigError("datasets", f"{name} has texts for ids: name one whose ids are integers")
    directory = job.cache / "stream" / name
    cut = timeline(open_dataset(name, job.data, job.cache), directory, has_times=info.time_unit != "order")
    old, anew = (_trained(dataset, directory, job) for dataset in (cut.old, cut.everything))
    version = ModelVersion.open(str(directory / "old-version"))
    going_on, chosen, most = old, "", -1.0
    for batch_size, rate, young in itertools.product(job.batch_sizes, job.learning_rates, job.young_learning_rates):
        training = dataclasses.replace(stream().training, batch_size=batch_size, seed=job.seed)
        training = dataclasses.replace(training, learning_rate=rate, young_learning_rate=young)
        tried = go_on(cut, version, training, directory / "stream-version")
        figures = _figures(tried, cut, "valid")
        _SHOWN.print(f"{batch_size} events a step, learning rates {rate} and {young}: {_pair(figures, 'valid')}")
        if sum(figures.values()) > most:
            going_on, chosen, most = tried, f"{batch_size} events a step, {rate} and {young}", sum(figures.values())
    rows = {"no further training": old, f"going on ({chosen})": going_on, "trained anew on everything": anew}
    return {row: _figures(encoder, cut, "valid") | _figures(encoder, cut, "test") for row, encoder in rows.items()}


def _trained(dataset: PreparedDataset, directory: Path, job: Stream) -> InterestEncoder:
    recipe = best()
    training = dataclasses.replace(recipe.training, epochs=job.epochs, seed=job.seed)
    where = directory / f"{Path(dataset.directory.uri).name}-version"
    if Directory.at(where).exists(MANIFEST):
        version = ModelVersion.open(str(where))
        if version.training_config() == training and version.manifest.dataset_digest == dataset.digest:
            return InterestEncoder.load(str(where))
    Directory.at(where).delete()
    return train_cell(dataset, Recipe(dataset.manifest.fit(recipe.model), training), where)


def _figures(encoder: InterestEncoder, cut: Timeline, part: str) -> Figures:
    users = cut.valid if part == "valid" else cut.test
    found = measure(of_model(encoder), users, cut.everything.catalog())
    return {f"{part} {metric}": found[metric] for metric in _METRICS}


if __name__ == "__main__":
    run(Stream, main)
