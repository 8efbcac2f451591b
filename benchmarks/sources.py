"""How fast examples come, by themselves: from a dataset beside a training step, from Kafka beside a bare loop that decodes.

KAFKA_HOME=DIR python -m benchmarks.sources                       # Apache Kafka; Tansu, a laptop's broker, without KAFKA_HOME
python -m benchmarks.sources --events 1000000 --log-events 50000

A generated log, in two sizes: what a worker needs of memory for the larger one is what it needs for the smaller. All rates are
by processor time of the reading process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.training_impls import peak_bytes
from jobs.cli import run
from mind_dist import local_stack
from mind_dist.config import KafkaConfig
from mind_dist.dataset.bucket_file import rows_per_block
from mind_dist.dataset.parquet import SEQUENCE_SCHEMA, DatasetManifest, PreparedDataset, write_manifest
from mind_dist.examples.batches import batches
from mind_dist.examples.events import EventExamples
from mind_dist.examples.parquet import ParquetExamples
from mind_dist.log.codec import PoisonGate, decode
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_topics
from mind_dist.log.source import InMemoryDeadLetters
from mind_dist.recipes import best, stream
from mind_dist.storage import Directory
from mind_dist.strict_json import from_json, to_json

_NUM_BUCKETS, _NUM_ITEMS, _OF_A_USER = 4, 100_000, 200
_PARTITIONS = 4
_SHOWN = Console()


@dataclass(frozen=True)
class Sources:
    """Measure how fast examples come from a dataset and from Kafka."""

    events: int = 40_000_000
    """Events of the larger dataset; the smaller one has a quarter of them."""
    log_events: int = 200_000
    """Events on Kafka."""
    output: Path = Path("reports/sources.json")
    """The figures."""
    read: str = ""
    """Read this dataset and print figures; what the process that is measured is told."""


def main(job: Sources) -> None:
    """Measure, print and write."""
    if job.read:
        sys.stdout.write(to_json(_read(job.read)))
        return
    found: dict[str, Any] = {"datasets": [], "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as directory:
        for events in (job.events // 4, job.events):
            path = Path(directory, str(events))
            _write(path, events)
            command = [sys.executable, "-m", "benchmarks.sources", "--read", str(path)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own
            found["datasets"].append({"events": events, **from_json(output)})
    found["log"] = _log(job)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    job.output.write_text(to_json(found, indent=2))
    _show(found)


def _write(path: Path, events: int) -> None:
    """Write a dataset, bucket by bucket; times are as far apart as events."""
    directory, draw = Directory.at(path), np.random.default_rng(events)
    users = events // _OF_A_USER // _NUM_BUCKETS
    for bucket in range(_NUM_BUCKETS):
        lengths = np.full(users, _OF_A_USER)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        items = pa.array(np.exp(draw.random(int(lengths.sum())) * np.log(_NUM_ITEMS)).astype(np.int64))
        times = pa.array(np.arange(int(lengths.sum())) * 1000)
        columns = [pa.array(np.arange(users) * _NUM_BUCKETS + bucket)]
        columns += [pa.ListArray.from_arrays(offsets, values) for values in (items, times)]
        table = pa.Table.from_arrays(
            [c.cast(f.type) for c, f in zip(columns, SEQUENCE_SCHEMA, strict=True)], schema=SEQUENCE_SCHEMA
        )
        blocks = rows_per_block(users, len(items))
        directory.write_table(f"sequences/train/bucket-{bucket:05d}.parquet", table, rows_at_once=blocks)
    write_manifest(
        directory,
        DatasetManifest("int64", _NUM_BUCKETS, {"train": users * _NUM_BUCKETS}, {"train": events}, _NUM_ITEMS, 0, 0),
    )


def _read(path: str) -> dict[str, float]:
    """Read one epoch as `best` does; return rate and memory."""
    dataset, recipe = PreparedDataset.open(path), best()
    before = peak_bytes()
    started = time.process_time()
    source = ParquetExamples.of(dataset, range(_NUM_BUCKETS), recipe.model, recipe.training, epochs=1)
    opened = time.process_time() - started
    started, count = time.process_time(), 0
    for batch in batches(source, 16):
        count += len(batch)
    rate = count / (time.process_time() - started)
    return {"open_cpu_s": opened, "windows_per_s": rate, "peak_mb": peak_bytes() / 1e6, "before_mb": before / 1e6}


def _log(job: Sources) -> dict[str, Any]:
    """Read the same events from a broker by a bare loop and as examples; return the rates by processor time."""
    home = os.environ.get("KAFKA_HOME")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = local_stack.apache_kafka(scratch / "kafka", Path(home)) if home else local_stack.tansu(scratch / "tansu")
        bootstrap, kafka = stack.enter_context(log).address, KafkaConfig(topic="sources")
        ensure_topics(bootstrap, {kafka.topic: _PARTITIONS, kafka.dead_letter_topic: 1})
        _send(job, bootstrap, kafka)
        rates = {"bare": [_bare(bootstrap, kafka)], "examples": [_examples(bootstrap, kafka)]}
        rates["bare"].append(_bare(bootstrap, kafka))  # in turns, since others use the machine, too
        rates["examples"].append(_examples(bootstrap, kafka))
    return {
        "broker": "Apache Kafka" if home else "Tansu",
        "bare_per_s": max(rates["bare"]),
        "examples_per_s": max(rates["examples"]),
    }


def _send(job: Sources, bootstrap: str, kafka: KafkaConfig) -> None:
    draw = np.random.default_rng(0)
    users = draw.integers(job.log_events // 50, size=job.log_events)
    items = draw.integers(_NUM_ITEMS, size=job.log_events)
    now_ms = time.time_ns() // 1_000_000 - job.log_events
    with closing(EventProducer(bootstrap, kafka)) as producer:
        for at, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
            producer.send(user, item, now_ms + at)
        producer.flush()


def _bare(bootstrap: str, kafka: KafkaConfig) -> float:
    """Return how many records are polled and decoded a second, and nothing else."""
    count, started = 0, 0.0
    with closing(KafkaSource(bootstrap, kafka, "", partitions=range(_PARTITIONS))) as source:
        ends = source.end_positions()
        source.seek(source.oldest_positions())
        started = time.process_time()
        while any(source.position()[partition] < end for partition, end in ends.items()):
            for record in source.poll(0.1):
                decode(record, "int64", max_clock_skew_ms=kafka.max_clock_skew_ms)
                count += 1
        return count / (time.process_time() - started)


def _examples(bootstrap: str, kafka: KafkaConfig) -> float:
    """Return how many events a second are read as `stream` reads them, in its batches."""
    training = stream().training
    source = EventExamples(
        lambda partition: KafkaSource(bootstrap, kafka, "", partitions=[partition]),
        range(_PARTITIONS),
        "int64",
        InMemoryDeadLetters(),
        PoisonGate(kafka.max_poison_fraction, kafka.poison_window),
        max_behaviors=training.max_behaviors,
        max_clock_skew_ms=kafka.max_clock_skew_ms,
    )
    with closing(source):
        started, count = time.process_time(), 0
        for batch in batches(source, training.batch_size):
            count += len(batch)
        return count / (time.process_time() - started)


def _show(found: dict[str, Any]) -> None:
    table = Table(title="Examples by themselves, by processor time", show_header=False)
    for each in found["datasets"]:
        opened, peak = f"opened in {each['open_cpu_s']:.1f} s", f"{each['peak_mb']:,.0f} MB at the most"
        rate = f"{each['windows_per_s']:,.0f} windows/s"
        table.add_row(
            f"dataset of {each['events']:,} events", f"{rate}, {opened}, {peak} ({each['before_mb']:,.0f} before)"
        )
    log = found["log"]
    table.add_row(f"{log['broker']}: a bare loop of polls that decodes", f"{log['bare_per_s']:,.0f} events/s")
    share = log["examples_per_s"] / log["bare_per_s"]
    table.add_row("the same events as examples", f"{log['examples_per_s']:,.0f} events/s, {share:.2f} of it")
    _SHOWN.print(table)


if __name__ == "__main__":
    run(Sources, main)
