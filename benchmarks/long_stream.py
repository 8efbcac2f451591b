"""A stream of a million events that never stops bringing new items: is memory flat, is anything skipped, does it learn?

KAFKA_HOME=DIR python -m benchmarks.long_stream                   # a quarter of an hour of one core
python -m benchmarks.long_stream --events 50000                   # a look at it; Tansu, a laptop's broker, without KAFKA_HOME

A generated shop: items of 100 topics, of which one comes out with every twentieth event and draws buyers for some days,
most while it is new; users have three topics each. The recipe `stream` is trained on the events from a broker, from
nothing, forgets items that no event was about for a while, is asked for events before it learns them, and saves on the way.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.planted_dataset import PlantedUser, write_planted
from jobs.cli import run
from mind_dist import local_stack
from mind_dist.checkpoint import ModelVersion
from mind_dist.config import KafkaConfig, PublishConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation.ahead import ask_ahead
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.keys import NO_FEATURES
from mind_dist.log.kafka import EventProducer, ensure_topics
from mind_dist.log.kafka_groups import end_positions
from mind_dist.publishing import publish
from mind_dist.recipes import stream
from mind_dist.records import BehaviorSequence
from mind_dist.strict_json import to_json
from mind_dist.training.collectives import SingleRank
from mind_dist.training.open_run import open_run
from mind_dist.training.progressive import ProgressiveValidation
from mind_dist.training.run_monitor import Look
from mind_dist.training.settings import TrainSettings

_START_MS, _DAY_MS = 1_704_067_200_000, 86_400_000
_NUM_TOPICS, _TOPICS_OF_A_USER = 100, 3
_LIVES_DAYS = 8.0
"""So long an item is bought; it draws e times less after each third of it."""
_FIRST_ITEM = 1_000
_SHOWN = Console()


@dataclass(frozen=True)
class LongStream:
    """Train on a long stream, and see what becomes of memory, recall and positions."""

    events: int = 1_000_000
    """Events of the stream."""
    users: int = 5_000
    """Users."""
    days: float = 60.0
    """How long the stream is, in its own time."""
    new_share: float = 0.05
    """Share of the events with which a new item comes out."""
    keep_items_days: float = 12.0
    """See `training.keep_items_days`."""
    save_every: int = 500
    """Steps between two saves."""
    seed: int = 5
    """Of the shop."""
    output: Path = Path("reports/long_stream.json")
    """The figures; the plot lies beside it."""


@dataclass
class Course:
    """What was seen on the way, one value a step or look.

    Attributes:
        steps: Steps at which memory and items were looked at.
        memory_mb: Resident memory of the process.
        num_items: Items that have a row.
        looks: What was found of the events to come.
    """

    steps: list[int] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    num_items: list[int] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)


def shop(job: LongStream) -> Iterator[tuple[int, int, int]]:
    """Yield (user, item, time): each user and item at most once at a time."""
    draw = np.random.default_rng(job.seed)
    topics_of = draw.integers(_NUM_TOPICS, size=(job.users, _TOPICS_OF_A_USER))
    gap_ms = job.days * _DAY_MS / job.events
    born_ms: list[float] = []
    by_topic: list[list[int]] = [[] for _ in range(_NUM_TOPICS)]
    users, kinds = draw.integers(job.users, size=job.events), draw.random(job.events)
    places = draw.integers(_TOPICS_OF_A_USER, size=job.events)
    ages = draw.exponential(_LIVES_DAYS / 3, size=job.events)
    for at in range(job.events):
        now_ms = _START_MS + at * gap_ms
        user = int(users[at])
        topic = int(topics_of[user, places[at]])
        items = by_topic[topic]
        if not items or kinds[at] < job.new_share:
            items.append(len(born_ms))
            born_ms.append(now_ms)
            item = items[-1]
        else:
            wanted_ms = now_ms - min(ages[at], _LIVES_DAYS) * _DAY_MS
            item = items[_nearest(born_ms, items, wanted_ms)]
        yield user + 1, _FIRST_ITEM + item, int(now_ms)


def _nearest(born_ms: list[float], items: list[int], wanted_ms: float) -> int:
    """Return the place of the last item that was there at a moment, or of the oldest one."""
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        if born_ms[items[middle]] <= wanted_ms:
            low = middle + 1
        else:
            high = middle
    return max(0, low - 1)


def main(job: LongStream) -> None:
    """Generate, send, train, and say how it was."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        home = os.environ.get("KAFKA_HOME")
        log = local_stack.apache_kafka(scratch / "kafka", Path(home)) if home else local_stack.tansu(scratch / "tansu")
        bootstrap = stack.enter_context(log).address
        kafka = KafkaConfig(topic="long-stream")
        ensure_topics(bootstrap, {kafka.topic: 4, kafka.dead_letter_topic: 1})
        expected, newest = _send(job, bootstrap, kafka)
        settings = _settings(job, kafka, scratch)
        started_s, started_cpu_s = time.monotonic(), time.process_time()
        course, num_examples, version = _train(job, settings, bootstrap)
        found = {
            "broker": "Apache Kafka" if home else "Tansu",
            "events": job.events,
            "expected_examples": expected,
            "trained_examples": num_examples,
            "at_the_end": version.manifest.positions == end_positions(bootstrap, kafka),
            "wall_s": round(time.monotonic() - started_s, 1),
            "cpu_s": round(time.process_time() - started_cpu_s, 1),
            **_of_memory(course),
            **_of_recall(course),
            **_published(version, newest),
        }
    job.output.parent.mkdir(parents=True, exist_ok=True)
    job.output.write_text(to_json(found | {"course": _plain(course)}, indent=2))
    _draw(course, job.output.with_suffix(".png"))
    table = Table("", "")
    for name, value in found.items():
        table.add_row(name, f"{value}")
    _SHOWN.print(table)


def _send(job: LongStream, bootstrap: str, kafka: KafkaConfig) -> tuple[int, set[int]]:
    """Write the events; return how many are examples, and the items of the last day."""
    seen, last_day = set[int](), _START_MS + (job.days - 1) * _DAY_MS
    newest, num_examples = set[int](), 0
    with closing(EventProducer(bootstrap, kafka)) as producer:
        for user, item, time_ms in shop(job):
            producer.send(user, item, time_ms)
            num_examples += user in seen
            seen.add(user)
            if time_ms >= last_day:
                newest.add(item)
        producer.flush()
    return num_examples, newest


def _settings(job: LongStream, kafka: KafkaConfig, scratch: Path) -> TrainSettings:
    recipe, items = stream(), np.arange(1, 11)
    known = [PlantedUser(BehaviorSequence(-user, items, items)) for user in range(1, 11)]
    dataset = write_planted(scratch / "dataset", known, len(items), NO_FEATURES)
    training = dataclasses.replace(recipe.training, keep_items_days=job.keep_items_days)
    return TrainSettings(
        dataset=dataset.directory.uri,
        storage=str(scratch / "runs"),
        source="kafka",
        model=recipe.model,
        training=training,
        kafka=kafka,
    )


def _train(job: LongStream, settings: TrainSettings, bootstrap: str) -> tuple[Course, int, ModelVersion]:
    torch.set_num_threads(1)
    opened = open_run(settings, bootstrap, None, SingleRank(), torch.device("cpu"))
    course, num_examples = Course(), 0
    ahead = ProgressiveValidation(opened, ask_ahead, 0, SingleRank(), course.looks.append)
    for report in opened.steps(before_step=ahead.before_step):
        num_examples += report.num_examples
        if report.step % 10 == 0:
            course.steps.append(report.step)
            course.memory_mb.append(_resident_mb())
            course.num_items.append(opened.table.num_items)
        if report.step % job.save_every == 0:
            _save(opened, settings)
    _save(opened, settings)
    opened.examples.close()
    version = settings.versions.newest_whole().version
    assert version is not None
    return course, num_examples, version


def _save(opened: Any, settings: TrainSettings) -> None:
    opened.save(settings.versions.place(opened.step))
    settings.versions.keep(opened.step, settings.num_to_keep)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _of_memory(course: Course) -> dict[str, float]:
    """Return memory and items in the fifth before the middle, and in the last fifth."""
    fifth = max(1, len(course.steps) // 5)
    middle, last = slice(len(course.steps) // 2 - fifth, len(course.steps) // 2), slice(-fifth, None)
    memory, items = np.array(course.memory_mb), np.array(course.num_items)
    return {
        "memory_mb_before_the_middle": round(float(memory[middle].mean())),
        "memory_mb_at_the_end": round(float(memory[last].mean())),
        "memory_mb_at_most": round(float(memory.max())),
        "items_before_the_middle": round(float(items[middle].mean())),
        "items_at_the_end": round(float(items[last].mean())),
    }


def _of_recall(course: Course) -> dict[str, float]:
    recalls = [look.recall for look in course.looks]
    parts = np.array_split(recalls, 5) if len(recalls) > len("fifth") else [np.array(recalls)]
    return {f"progressive_recall@50_part_{at}": round(float(part.mean()), 4) for at, part in enumerate(parts, start=1)}


def _published(version: ModelVersion, newest: set[int]) -> dict[str, int]:
    """Publish once, and count which of the items of the last day readers find."""
    store, encoder = InMemoryVectorStore(), InterestEncoder(version)
    report = publish(store, encoder, version.uri, PublishConfig(wait_for_users=False))
    keys = np.array(sorted(newest), dtype=np.int64)
    vectors = encoder.item_vectors[np.isin(encoder.item_keys, keys)]
    found = {
        int(key)
        for hits in store.search_items(version.manifest.model_version, vectors, 50)
        for key in hits.keys.tolist()
    }
    return {
        "items_published": report.num_items,
        "items_of_the_last_day": len(keys),
        "of_these_found_by_their_own_vector": len(found & newest),
    }


def _plain(course: Course) -> dict[str, Any]:
    looks = [[look.step, look.recall, look.recall_removed] for look in course.looks]
    return {"steps": course.steps, "memory_mb": course.memory_mb, "num_items": course.num_items, "looks": looks}


def _draw(course: Course, path: Path) -> None:
    figure = Figure(figsize=(9, 3), layout="constrained", dpi=120)
    memory, items, recall = figure.subplots(1, 3)
    memory.plot(course.steps, course.memory_mb)
    memory.set(xlabel="step", ylabel="resident memory, MB", ylim=(0, None))
    items.plot(course.steps, course.num_items)
    items.set(xlabel="step", ylabel="items with a row", ylim=(0, None))
    recalls = [look.recall for look in course.looks]
    means = [float(np.mean(recalls[max(0, at - 9) : at + 1])) for at in range(len(recalls))]
    recall.plot([look.step for look in course.looks], means)
    recall.set(xlabel="step", ylabel="recall@50 of what comes next", ylim=(0, None))
    figure.savefig(path)


if __name__ == "__main__":
    run(LongStream, main)
