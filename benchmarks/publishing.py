"""How fast a version's items come into Milvus: a publish without users, of random items.

OMP_NUM_THREADS=1 python -m benchmarks.publishing --num-items 1000000                                   # Milvus Lite, started here
OMP_NUM_THREADS=1 MIND_DIST_MILVUS=http://127.0.0.1:19530 python -m benchmarks.publishing --served --num-items 1000000

Filling is from the first upsert to the last acknowledgement; the rest of a publish (item vectors, index, checks, switch) is
told apart.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks.replica_memory import write_version
from jobs.cli import run
from mind_dist import local_stack
from mind_dist.config import Addresses, MilvusConfig, PublishConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.publishing import publish


@dataclass(frozen=True)
class Publishing:
    """Measure a publish."""

    num_items: int = 100_000
    """Items of the version, of `best` with random parameters."""
    served: bool = False
    """Take the Milvus that the environment names, instead of starting Milvus Lite."""
    directory: Path | None = None
    """Where the version is written, and found again; none for a temporary one."""
    publishing: PublishConfig = field(default_factory=PublishConfig)
    """How it is published."""
    milvus: MilvusConfig = field(default_factory=MilvusConfig)
    """The vector store."""


def main(job: Publishing) -> None:
    """Measure and print."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        addresses = Addresses.from_environment()
        if not job.served:
            server = stack.enter_context(local_stack.milvus_lite(scratch / "milvus"))
            addresses = Addresses(milvus=server.address)
        encoder = InterestEncoder.load(write_version((job.directory or scratch) / f"{job.num_items}", job.num_items))
        store = stack.enter_context(closing(MilvusVectorStore.at(addresses, job.milvus)))
        times: list[tuple[int, float, float]] = []

        def note(step: str, done: int) -> None:
            if step == "items":
                times.append((done, time.monotonic(), time.process_time()))

        report = publish(store, encoder, "random", job.publishing, advance=note)
    (first, start, start_cpu), (last, end, end_cpu) = times[0], times[-1]
    rate, cpu = (last - first) / (end - start), (last - first) / (end_cpu - start_cpu)
    Console().print(f"{last:,} items: {rate:,.0f} items/s, {cpu:,.0f} items a second of this process's CPU")
    Console().print(f"the whole publish {report.wall_s:.1f} s, ANN recall {report.ann_recall:.3f}")


if __name__ == "__main__":
    run(Publishing, main)
