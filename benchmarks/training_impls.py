"""One training step as several systems take it: ours, dense Adam, SparseAdam, TorchRec, torch-rechub.

Each of them is a generator that takes a step whenever it is asked for one. The peers other than torch-rechub train our network:
what differs is what holds the items' rows, looks them up, sends them about and updates them.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.training_load import Network, TrainingLoad, drawn
from mind_dist.dataset.item_catalog import ITEM_SCHEMA, ItemCatalog
from mind_dist.examples.batches import Batch
from mind_dist.examples.source import Examples
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.records import Keys
from mind_dist.training import loop, negatives
from mind_dist.training.collectives import Collectives, ProcessGroup, SingleRank
from mind_dist.training.dense_optimizer import dense_optimizer
from mind_dist.training.item_table import ItemTable

LEARNING_RATE = 0.001
Phases = dict[str, float]
"""Processor seconds of this worker by what they were used for."""


class _Clock:
    """Adds up the processor time of calls; what is called within another one counts for itself alone."""

    def __init__(self) -> None:
        self.phases: Phases = defaultdict(float)
        self._within = [0.0]

    def timed(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call whose time counts for a phase."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._within.append(0.0)
            started = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                took = time.process_time() - started
                self.phases[phase] += took - self._within.pop()
                self._within[-1] += took

        return timed


def mind_dist(load: TrainingLoad, rank: int, clock: _Clock) -> Iterator[None]:
    """Train as `jobs.train` does, without a checkpoint."""
    ranks: Collectives = ProcessGroup(torch.device("cpu")) if load.workers > 1 else SingleRank()
    for name in ("meet", "gather", "exchange", "average"):
        setattr(ranks, name, clock.timed("exchange", getattr(ranks, name)))
    config, model_config = load.training_config(), load.model_config()
    model = MultiInterestModel(model_config)
    table = ItemTable(model_config.row_dim, seed=1, collectives=ranks)
    keys = np.arange(1, load.items + 1)
    table.set_counts(keys, load.counts(), seen_ms=0)
    lists = pa.ListArray.from_arrays(pa.array(np.zeros(load.items + 1, np.int32)), pa.array([], pa.int64()))
    columns = [pa.array(keys), pa.array(keys.astype(str)), pa.array(load.counts()), lists]
    catalog = ItemCatalog(pa.Table.from_arrays(columns, schema=ITEM_SCHEMA))
    table.lookup = clock.timed("lookup", table.lookup)  # type: ignore[method-assign]
    table.apply_gradients = clock.timed("update", table.apply_gradients)  # type: ignore[method-assign]
    loop.step_inputs = clock.timed("data", negatives.step_inputs)  # type: ignore[attr-defined]
    loop._loss = clock.timed("forward", loop._loss)  # noqa: SLF001 - it is the forward pass
    Tensor.backward = clock.timed("backward", Tensor.backward)  # type: ignore[method-assign]
    optimizer = dense_optimizer(model)
    optimizer.step = clock.timed("update", optimizer.step)  # type: ignore[method-assign]
    for _ in loop.train(
        model,
        optimizer,
        table,
        (Batch(examples, {}) for examples in load.windows(rank)),
        model_config=model_config,
        config=config,
        features=catalog,
        empty_batch=Batch(Examples.none(load.length, 1, 0), {}),
        learning_rate=lambda _step: LEARNING_RATE,
        collectives=ranks,
    ):
        yield


def _inputs(load: TrainingLoad, rank: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield what a peer looks up in a step: history [B, L], targets [B], pool [P], places of targets in it [B]."""
    random = np.random.default_rng([7, rank])
    for examples in load.windows(rank):
        targets: Keys = examples.targets[:, 0]
        pool, places = drawn(random, load, targets)
        history = torch.from_numpy(examples.history)
        yield history, torch.from_numpy(targets), torch.from_numpy(pool), torch.from_numpy(places)


def _plain(load: TrainingLoad, rank: int, clock: _Clock, *, sparse: bool) -> Iterator[None]:
    """Train with torch's own embedding; over several workers by DistributedDataParallel."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Embedding(load.items + 1, load.model_config().row_dim, sparse=sparse)
            self.network = Network(load)

        def forward(self, history: Tensor, targets: Tensor, pool: Tensor, places: Tensor) -> Tensor:
            found = [clock.timed("lookup", self.rows)(keys) for keys in (history, targets, pool)]
            loss: Tensor = self.network(found[0], history, found[1], found[2], places)
            return loss

    whole = Whole()
    forward: nn.Module = DistributedDataParallel(whole) if load.workers > 1 else whole
    optimizers: Sequence[torch.optim.Optimizer] = [torch.optim.Adam(whole.network.parameters(), LEARNING_RATE)]
    of_rows = torch.optim.SparseAdam if sparse else torch.optim.Adam
    optimizers = [*optimizers, of_rows(list(whole.rows.parameters()), LEARNING_RATE)]
    for inputs in _inputs(load, rank):
        loss = clock.timed("forward", forward)(*inputs)
        for optimizer in optimizers:
            optimizer.zero_grad()
        clock.timed("backward", loss.backward)()
        for optimizer in optimizers:
            clock.timed("update", optimizer.step)()
        yield


def dense_adam(load: TrainingLoad, rank: int, clock: _Clock) -> Iterator[None]:
    """Train with `nn.Embedding` and Adam over all rows."""
    return _plain(load, rank, clock, sparse=False)


def sparse_adam(load: TrainingLoad, rank: int, clock: _Clock) -> Iterator[None]:
    """Train with `nn.Embedding(sparse=True)` and SparseAdam over the rows that were touched."""
    return _plain(load, rank, clock, sparse=True)


def torchrec(load: TrainingLoad, rank: int, clock: _Clock) -> Iterator[None]:
    """Train with TorchRec's row-wise sharding over FBGEMM's tables, with its row-wise Adagrad fused into the backward pass."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType  # noqa: PLC0415
    from torch import distributed  # noqa: PLC0415
    from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor  # noqa: PLC0415
    from torchrec.distributed.embedding import EmbeddingCollectionSharder  # noqa: PLC0415
    from torchrec.distributed.model_parallel import DistributedModelParallel  # noqa: PLC0415
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology  # noqa: PLC0415
    from torchrec.distributed.types import ShardingType  # noqa: PLC0415

    names = ["history", "targets", "pool"]
    config = EmbeddingConfig(
        name="rows_of_items",
        embedding_dim=load.model_config().row_dim,
        num_embeddings=load.items + 1,
        feature_names=names,
    )
    rows = EmbeddingCollection(tables=[config], device=torch.device("meta"))
    fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.01}
    sharders: Any = [EmbeddingCollectionSharder(fused_params=fused)]
    constraints = {"rows_of_items": ParameterConstraints(sharding_types=[ShardingType.ROW_WISE.value])}
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=load.workers, compute_device="cpu"), constraints=constraints
    )
    plan = planner.collective_plan(rows, sharders, distributed.group.WORLD)
    sharded = DistributedModelParallel(rows, device=torch.device("cpu"), plan=plan, sharders=sharders)
    network = Network(load)
    forward: nn.Module = DistributedDataParallel(network) if load.workers > 1 else network
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)

    def looked_up(history: Tensor, targets: Tensor, pool: Tensor) -> list[Tensor]:
        parts = [history.flatten(), targets, pool]
        # a feature has one list for each window; the pool's are of a shared length, and cut to what is real afterwards
        share = len(targets)
        each = -(-len(pool) // share)
        padded = torch.cat([pool, pool[: each * share - len(pool)]])
        lengths = torch.cat([torch.full((share,), n) for n in (load.length, 1, each)])
        found = sharded(KeyedJaggedTensor(names, torch.cat([*parts[:2], padded]), lengths=lengths))
        vectors = [found[name].values() for name in names]
        return [vectors[0].view(*history.shape, -1), vectors[1], vectors[2][: len(pool)]]

    for history, targets, pool, places in _inputs(load, rank):
        found = clock.timed("lookup", looked_up)(history, targets, pool)
        loss = clock.timed("forward", forward)(found[0], history, found[1], found[2], places)
        optimizer.zero_grad()
        clock.timed("backward", loss.backward)()
        clock.timed("update", optimizer.step)()
        yield


def torch_rechub(load: TrainingLoad, rank: int, clock: _Clock) -> Iterator[None]:
    """Train torch-rechub's MIND by its own trainer: 20 negatives a window, which are looked up one by one."""
    from torch_rechub.basic.features import SequenceFeature, SparseFeature  # noqa: PLC0415
    from torch_rechub.models.matching import MIND  # noqa: PLC0415
    from torch_rechub.trainers import MatchTrainer  # noqa: PLC0415

    dim, size = load.model_config().dim, load.items + 1
    settings = {"vocab_size": size, "embed_dim": dim, "pooling": "concat", "shared_with": "item"}
    model = MIND(
        [SparseFeature("user", vocab_size=10, embed_dim=dim)],
        [SequenceFeature("history", **settings)],
        [SparseFeature("item", vocab_size=size, embed_dim=dim)],
        [SequenceFeature("negatives", **settings)],
        max_length=load.length,
        interest_num=load.model_config().num_interests,
    )
    trainer = MatchTrainer(model, mode=2, optimizer_params={"lr": LEARNING_RATE}, device="cpu")
    random, windows = np.random.default_rng([7, rank]), load.windows(rank)
    while True:
        examples = next(windows)
        share = len(examples)
        parts = {
            "user": torch.ones(share, dtype=torch.int64),
            "history": torch.from_numpy(examples.history),
            "item": torch.from_numpy(examples.targets[:, 0]),
            "negatives": torch.from_numpy(random.integers(1, load.items + 1, (share, 20))),
        }
        with contextlib.redirect_stderr(io.StringIO()):
            clock.timed("all", trainer.train_one_epoch)([(parts, torch.zeros(share, dtype=torch.int64))])
        yield


IMPLEMENTATIONS: dict[str, Callable[[TrainingLoad, int, _Clock], Iterator[None]]] = {
    each.__name__: each for each in (mind_dist, dense_adam, sparse_adam, torchrec, torch_rechub)
}


def run_steps(implementation: str, load: TrainingLoad, rank: int, num_warm: int, num_steps: int) -> dict[str, Any]:
    """Take steps, and return what a worker used for each: processor and wall seconds, and its highest memory."""
    clock = _Clock()
    steps = IMPLEMENTATIONS[implementation](load, rank, clock)
    for _ in range(num_warm):
        next(steps)
    clock.phases.clear()
    cpu, wall = time.process_time(), time.monotonic()
    for _ in range(num_steps):
        next(steps)
    used = time.process_time() - cpu
    phases = {name: seconds / num_steps for name, seconds in clock.phases.items()}
    phases["other"] = used / num_steps - sum(phases.values())
    return {
        "cpu_s": used / num_steps,
        "wall_s": (time.monotonic() - wall) / num_steps,
        "peak_bytes": peak_bytes(),
        "phases": phases,
    }


def peak_bytes() -> float:
    """Return the highest resident memory that this process had."""
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * float(peak.split()[1])
