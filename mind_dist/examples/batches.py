"""Examples → `Batch`: a fixed number of them, shared fairly over the partitions, with the positions behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mind_dist.examples.source import Examples, ExampleSource
from mind_dist.records import Positions


@dataclass(frozen=True, slots=True)
class Batch:
    """What a worker trains on in one step.

    Attributes:
        examples: At most a batch's worth; none when a live log was silent, or this worker has run dry.
        positions: For every partition of the worker, the position after its last example: what a checkpoint
            taken after this step goes on from.
    """

    examples: Examples
    positions: Positions

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def watermark_ms(self) -> int:
        """Time of the newest example, 0 without one."""
        return int(self.examples.timestamps_ms.max(initial=0))


def next_batch(source: ExampleSource, size: int) -> Batch:
    """Take a batch: the same share from every partition, and what one of them lacks from the others.

    It depends on the source's positions alone: which partition comes first turns with them, so that none starves
    when there are more partitions than examples in a batch.
    """
    partitions = source.partitions
    turn = sum(source.positions().values()) % len(partitions)
    open_partitions = [*partitions[turn:], *partitions[:turn]]
    chunks = []
    room = size
    while room and open_partitions:
        still_open = []
        shares = [room // len(open_partitions)] * len(open_partitions)
        for i in range(room % len(open_partitions)):
            shares[i] += 1
        for partition, share in zip(open_partitions, shares, strict=True):
            taken = share  # with more partitions than room, most have no share
            if share:
                chunks.append(source.take(partition, share))
                taken = len(chunks[-1])
                room -= taken
            if taken == share:
                still_open.append(partition)
        open_partitions = still_open
    return Batch(Examples.concatenate(chunks), source.positions())


def batches(source: ExampleSource, size: int) -> Iterator[Batch]:
    """Yield batches until the source has finished; a live source never does, and has empty ones when silent."""
    while not source.finished():
        batch = next_batch(source, size)
        if len(batch) or not source.finished():
            yield batch
