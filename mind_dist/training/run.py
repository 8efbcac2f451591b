"""Settings and data → a run that can be stopped and gone on with: what one rank holds, and how it is saved.

State is saved per partition and per shard, never per rank, so that any number of ranks can take over.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mind_dist.checkpoint import Manifest, ModelVersion, VersionWriter, seal
from mind_dist.config import ModelConfig, TrainingConfig, dump
from mind_dist.data.batches import Batch, batches
from mind_dist.data.parquet import PreparedDataset
from mind_dist.data.sequences import Examples, ExampleSource
from mind_dist.errors import ConfigError
from mind_dist.model.item_bag import COLD_KEY
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.storage import Directory
from mind_dist.training.collectives import Collectives, SingleRank, failing_together
from mind_dist.training.item_table import ItemTable, ReplicatedItemTable
from mind_dist.training.loop import StepReport, dense_optimizer, linear_decay, train
from mind_dist.training.resuming import check_resume
from mind_dist.training.warm_start import FirstVectors, first_vectors

NUM_IGNORED = "num_ignored_events"
"""Metric of a version: events of types that are no behaviors, passed over up to its positions."""


class TrainingRun:
    """One rank's model, item table, examples and progress.

    Args:
        examples: This rank's share.
        dataset: The catalog, profiles and features behind the examples.
        model_config: The model.
        config: How to train it.
        source: What the version will say it was trained on.
        observe: Count items as they are seen, for an event log; else the catalog's counts stand.
        collectives: The other ranks.
        device: Where to compute.

    Raises:
        ConfigError: A step has fewer examples than there are ranks.
    """

    def __init__(
        self,
        examples: ExampleSource,
        dataset: PreparedDataset,
        model_config: ModelConfig,
        config: TrainingConfig,
        *,
        source: str,
        observe: bool = False,
        collectives: Collectives | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.examples = examples
        self.step = 0
        self.metrics: dict[str, float] = {}
        self._dataset = dataset
        self._catalog = dataset.catalog()
        self._model_config = model_config
        self._config = config
        self._source = source
        self._observe = observe
        self._ranks = collectives or SingleRank()
        # An event trains one position, whatever is asked of windows.
        self._step_size = share_of(config.batch_size if observe else config.windows_per_step, self._ranks)
        self._positions = examples.positions()
        self._watermark_ms = 0
        self._num_ignored = 0
        self._fresh = True
        torch.manual_seed(config.seed)
        self.model = MultiInterestModel(model_config).to(device)
        self._optimizer = dense_optimizer(self.model)
        self.table: ItemTable = ReplicatedItemTable(
            model_config.row_dim,
            seed=config.seed,
            admission_count=config.admission_count,
            collectives=self._ranks,
            device=device,
        )
        self._fill_table()

    def steps(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[StepReport]:
        """Train on; see `loop.train`. Whatever is raised by one rank is raised by all of them."""
        if self._fresh and not self._observe and self._config.warm_start == "cooccurrence":
            self._warm_start()
        widths = (self._config.max_behaviors, self._config.num_targets, self._model_config.num_profile_features)
        reports = train(
            self.model,
            self._optimizer,
            self.table,
            batches(self.examples, self._step_size),
            model_config=self._model_config,
            config=self._config,
            features=self._catalog,
            empty_batch=Batch(Examples.none(*widths), self._positions),
            learning_rate=linear_decay(self._config.learning_rate, self.num_steps() if self._config.lr_decay else None),
            observe=self._observe,
            first_step=self.step,
            collectives=self._ranks,
            should_stop=should_stop,
        )
        with failing_together(self._ranks):
            for report in reports:
                self.step = report.step
                self._positions = report.positions
                self._watermark_ms = max(self._watermark_ms, report.watermark_ms)
                if math.isfinite(report.loss):
                    self.metrics = {"loss": report.loss}
                yield report

    def num_steps(self) -> int | None:
        """Return the step at which the run will end, None where that is not known. Collective."""
        bound, left = self._config.max_steps or None, self.examples.num_examples
        own = None if left is None else -(-left // self._step_size)
        found: list[int | None] = self._ranks.gather_objects(own)
        known = [steps for steps in found if steps is not None]
        if len(known) < len(found):
            return bound
        end = self.step + max(known)
        return min(end, bound or end)

    def save(self, directory: Directory) -> Manifest:
        """Write a version of the state as it is: every rank its part, rank 0 the manifest. Collective.

        Args:
            directory: This rank's; the version is the files of all ranks together.
        """
        rank, num_ranks = self._ranks.rank, self._ranks.world_size
        self.examples.flush()
        writer = VersionWriter(directory)
        writer.write_item_shard(rank, num_ranks, self.table.shard(rank, num_ranks))
        writer.write_waiting(rank, num_ranks, self.table.waiting(rank, num_ranks))
        for partition in self.examples.partitions:
            history = self.examples.history(partition)
            if history:
                writer.write_history(partition, history)
        if rank == 0:
            writer.write_dense(self.model.state_dict())
            writer.write_optimizer(_optimizer_tensors(self.model, self._optimizer))
            writer.write_catalog(self._catalog)
        # Histories are as of these positions. They may lie behind the last step's: a log may end with records that are
        # no examples.
        self._positions = self.examples.positions()
        part_trained = self.examples.part_trained()
        own = (writer.files, dict(self._positions), part_trained, self._watermark_ms, self.examples.num_ignored)
        parts = self._ranks.gather_objects(own)
        manifests: list[Manifest] = self._ranks.gather_objects(self._seal(directory, parts) if rank == 0 else None)
        return manifests[0]

    def commit(self) -> None:
        """Show the positions of the last save to whoever watches the lag; call it once a version is stored."""
        self.examples.commit(self._positions)

    def resume(self, version: ModelVersion) -> None:
        """Go on from a version of this run; the examples must have been opened at its positions.

        Raises:
            ConfigError: It is of another run: see `check_resume`.
        """
        parts = (self._model_config, self._config, self._dataset, self._source)
        check_resume(version, *parts, from_log=self._observe)
        self.step = version.manifest.step
        self.metrics = dict(version.manifest.metrics)
        self._num_ignored = int(self.metrics.get(NUM_IGNORED, 0))
        self._watermark_ms = version.manifest.watermark_ms
        self._load(version)
        _load_optimizer(self.model, self._optimizer, version.optimizer())

    def start_from(self, version: ModelVersion) -> None:
        """Begin with the parameters of a version, at step 0 and with a fresh optimizer.

        Where the catalog's counts stand, an item of the version that the catalog does not have is none any more.
        """
        self._load(version, forget_absent=not self._observe)

    def _warm_start(self) -> None:
        """Begin with what the first rank finds out of the train split. Collective."""
        self._fresh = False
        separate, seed = self._model_config.separate_item_vectors, self._config.seed
        own = None
        if self._ranks.rank == 0:
            own = first_vectors(self._dataset, self._model_config.dim, separate=separate, seed=seed)
        found: FirstVectors = self._ranks.gather_objects(own)[0]
        self.table.set_vectors(*found)

    def _load(self, version: ModelVersion, *, forget_absent: bool = False) -> None:
        self._fresh = False
        self.model.load_state_dict(version.dense())
        rows = version.items()
        if forget_absent:
            known = self._catalog.rows(rows.keys) >= 0
            rows = dataclasses.replace(rows, counts=np.where(known, rows.counts, 0))
        self.table.load(rows)
        if not forget_absent:
            self.table.load_waiting(version.waiting())
        self._fill_table()

    def _fill_table(self) -> None:
        """Give features a row, and items theirs where the catalog's counts stand."""
        profiles = np.concatenate([*self._dataset.profiles().values(), self._dataset.no_profile])
        self.table.add_features(np.concatenate([self._catalog.feature_keys, [COLD_KEY], profiles[profiles != 0]]))
        if not self._observe:
            seen = self._catalog.counts > 0
            last_ms = self._dataset.manifest.last_ms
            self.table.set_counts(self._catalog.keys[seen], self._catalog.counts[seen], last_ms)

    def _seal(self, directory: Directory, parts: list[Any]) -> Manifest:
        files, positions, part_trained, watermarks, ignored = zip(*parts, strict=True)
        num_ignored = self._num_ignored + sum(ignored)
        about = self._dataset.manifest
        return seal(
            directory,
            _joined(files),
            config={
                "model": dump(self._model_config),
                "training": dump(self._config),
                "item_features": [dataclasses.asdict(feature) for feature in about.item_features],
                "item_columns": list(about.item_columns),
                "profile_features": [dataclasses.asdict(feature) for feature in about.profile_features],
                "event_types": list(about.event_types),
            },
            id_type=about.id_type,
            step=self.step,
            watermark_ms=max(watermarks),
            positions=_joined(positions),
            metrics=self.metrics | ({NUM_IGNORED: num_ignored} if num_ignored else {}),
            source=self._source,
            part_trained=_joined(part_trained),
            dataset_digest=self._dataset.digest,
        )


def share_of(step_size: int, ranks: Collectives) -> int:
    """Return how many examples of a step are this rank's.

    Raises:
        ConfigError: There are more ranks than examples.
    """
    check_share(step_size, ranks.world_size)
    return step_size // ranks.world_size + (ranks.rank < step_size % ranks.world_size)


def check_share(step_size: int, num_workers: int) -> None:
    """Raise ConfigError where a step has fewer examples than there are workers to share them."""
    if step_size < num_workers:
        examples = f"a step has {step_size} examples (windows, or events) for {num_workers} workers"
        raise ConfigError("training.batch_size", f"is too small: {examples}: raise it, or take fewer workers")


def _joined(parts: tuple[Mapping[Any, Any], ...]) -> dict[Any, Any]:
    return {name: value for part in parts for name, value in part.items()}


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return Adam's state as tensors named `parameter/moment`."""
    return {
        f"{name}/{moment}": value
        for name, parameter in model.named_parameters()
        for moment, value in optimizer.state[parameter].items()
    }


def _load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take over what `_optimizer_tensors` returned."""
    states: dict[int, dict[str, Tensor]] = {}
    places = {name: place for place, (name, _) in enumerate(model.named_parameters())}
    for full_name, tensor in tensors.items():
        name, _, moment = full_name.rpartition("/")
        states.setdefault(places[name], {})[moment] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
