"""A saved version and today's settings → whether the run can go on from it.

A position says how far a run is in the examples of its dataset, in an order that several settings decide. With others, or
with other data, what was trained would be trained again and the rest never, without a word.
"""

from __future__ import annotations

from collections.abc import Iterator

from mind_dist.checkpoint import ModelVersion
from mind_dist.config import ModelConfig, TrainingConfig, dump
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.errors import ConfigError
from mind_dist.log.identity import LogIdentity

_OF_EVERY_RUN = ("seed",)
"""Settings of training that may never change; the first values of item rows follow from the seed."""

_OF_POSITIONS = {
    "max_behaviors": "max_behaviors",
    "num_targets": "num_targets",
    "window_stride": "stride",  # what it is where it is not set
    "batch_size": "batch_size",
    "epochs": "epochs",
}
"""Those that decide what the positions in a dataset stand for, and how many there are, and where their values are. The number
of workers does not: a position belongs to a bucket, whoever reads it."""

_ADVICE = "give a new run another --name; --init-from begins it with the parameters of that version"


def check_resume(
    version: ModelVersion,
    model: ModelConfig,
    training: TrainingConfig,
    dataset: PreparedDataset,
    source: str,
    *,
    from_log: bool,
    log: LogIdentity | None = None,
) -> None:
    """Refuse to go on from a version of another run.

    Args:
        version: Where the run would go on.
        model: Its model, today.
        training: How it is trained, today.
        dataset: The dataset behind it; that of a log may change, it only tells of items and users.
        source: What is trained on.
        from_log: Whether that is an event log, whose positions depend on nothing else.
        log: Which one, where it has a lasting identity.

    Raises:
        AnotherLog: The version's positions are of a topic that was made anew, or of another cluster's.
        ConfigError: Something differs; the message names the first of it, with both values.
    """
    manifest, before = version.manifest, version.training_config()
    pairs: list[tuple[str, object, object]] = [
        ("source", manifest.source, source),
        ("the dataset's event types", manifest.event_types, dataset.manifest.event_types),
        *differences("model", dump(version.model_config()), dump(model)),
        *((f"training.{name}", getattr(before, name), getattr(training, name)) for name in _OF_EVERY_RUN),
    ]
    if not from_log:
        pairs.append(("the digest of the dataset's manifest", manifest.dataset_digest, dataset.digest))
        pairs += [
            (f"training.{name}", getattr(before, at), getattr(training, at)) for name, at in _OF_POSITIONS.items()
        ]
    for setting, saved, now in pairs:
        if saved != now:
            problem = f"{version.directory.uri} was saved with {saved!r}, and now it is {now!r}"
            raise ConfigError(setting, f"{problem}: {_ADVICE}")
    if log is not None:
        log.check(manifest.log, owner=version.directory.uri, advice=_ADVICE)


def differences(path: str, saved: object, now: object) -> Iterator[tuple[str, object, object]]:
    """Yield the dotted path and both values of each setting that differs between two sections as plain values."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*saved, *now]):
            yield from differences(f"{path}.{name}", saved.get(name), now.get(name))
    elif saved != now:
        yield path, saved, now
