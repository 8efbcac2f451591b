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

from mind_dist.checkpoint import FORMAT_VERSION, Manifest, ModelVersion, UnsavedVersion, VersionWriter, WatchState, seal
from mind_dist.config import ModelConfig, TrainingConfig, dump
from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.dataset.profile_keys import distinct_profile_keys
from mind_dist.examples.batches import Batch, batches
from mind_dist.examples.source import Examples, ExampleSource
from mind_dist.keys import EventFeatures
from mind_dist.log.identity import LogIdentity
from mind_dist.model.item_bag import COLD_KEY
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.storage import Directory
from mind_dist.training.collectives import Collectives, SingleRank, failing_together
from mind_dist.training.dense_optimizer import dense_optimizer, load_optimizer, optimizer_tensors
from mind_dist.training.item_table import ItemTable
from mind_dist.training.live_catalog import LiveCatalog
from mind_dist.training.loop import StepReport, train
from mind_dist.training.resuming import check_resume
from mind_dist.training.schedule import Cycles, LearningRate, constant, linear_decay
from mind_dist.training.shares import share_of
from mind_dist.training.warm_start import FirstVectors, first_vectors

_LONGEST_FIRST_CYCLE = 10_000
"""Steps of the first cycle where an epoch has more: a large log may need no whole one."""

_DAY_MS = 86_400_000

NUM_IGNORED = "num_ignored_events"
"""Metric of a version: events of types that are no behaviors, passed over up to its positions."""

NUM_KNOWN = "num_known_events"
"""Metric of a version: events up to its positions that are history alone, since what it began with was trained on them."""


class TrainingRun:
    """One rank's model, item table, examples and progress.

    Attributes:
        examples: This rank's share.
        step: Steps done.
        metrics: What the next version will say of itself.
        watch: What the valid users have said of the run so far; saved with it.

    Args:
        examples: This rank's share.
        dataset: The catalog, profiles and features behind the examples.
        model_config: The model.
        config: How to train it.
        source: What the version will say it was trained on.
        observe: Count items as they are seen, for an event log; else the catalog's counts stand.
        log: The event log whose positions the examples have, where it has a lasting identity.
        known_until_ms: Up to when events of the log are none of the examples.
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
        log: LogIdentity | None = None,
        known_until_ms: int = -1,
        collectives: Collectives | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.examples = examples
        self.step = 0
        self.metrics: dict[str, float] = {}
        self.watch = WatchState()
        self._dataset = dataset
        self._catalog = LiveCatalog(dataset.catalog())
        self._model_config = model_config
        self._config = config
        self._source = source
        self._log = log
        self._known_until_ms = known_until_ms
        self._observe = observe
        self._ranks = collectives or SingleRank()
        # An event trains one position, whatever is asked of windows.
        self._step_size = share_of(config.batch_size if observe else config.windows_per_step, self._ranks)
        self._positions = examples.positions()
        self._watermark_ms = 0
        self._passed_over = {NUM_IGNORED: 0, NUM_KNOWN: 0}
        self._fresh = True
        torch.manual_seed(config.seed)
        self.model = MultiInterestModel(model_config).to(device)
        self._optimizer = dense_optimizer(self.model)
        self.table = ItemTable(
            model_config.row_dim,
            seed=config.seed,
            admission_count=config.admission_count,
            keep_ms=round(config.keep_items_days * _DAY_MS),
            one_second_moment=config.second_moment == "row",
            collectives=self._ranks,
            device=device,
        )
        self._fill_table()

    def steps(
        self,
        should_stop: Callable[[], bool] = lambda: False,
        should_save: Callable[[], bool] = lambda: False,
        before_step: Callable[[int, Batch], None] = lambda _step, _batch: None,
    ) -> Iterator[StepReport]:
        """Train on; see `loop.train`. Whatever is raised by one rank is raised by all of them."""
        if self._fresh and not self._observe and self._config.warm_start == "cooccurrence":
            self._warm_start()
        model = self._model_config
        widths = (
            self._config.max_behaviors,
            self._config.num_targets,
            model.num_profile_features,
            EventFeatures.of(model),
        )
        reports = train(
            self.model,
            self._optimizer,
            self.table,
            batches(self.examples, self._step_size),
            model_config=self._model_config,
            config=self._config,
            features=self._catalog.of_dataset,
            empty_batch=Batch(Examples.none(*widths), self._positions),
            learning_rate=self._learning_rate(),
            observe=self._observe,
            first_step=self.step,
            collectives=self._ranks,
            should_stop=should_stop,
            should_save=should_save,
            before_step=before_step,
        )
        with failing_together(self._ranks):
            for report in reports:
                self.step = report.step
                self._positions = report.positions
                self._watermark_ms = max(self._watermark_ms, report.watermark_ms)
                if math.isfinite(report.loss):
                    self.metrics = {"loss": report.loss}
                yield report

    @property
    def cycles(self) -> Cycles | None:
        """Cycles of the learning rate; None where the run's length is set."""
        bound = self._config.max_steps or None
        return Cycles(self.watch.first_cycle, bound) if self.watch.first_cycle else None

    def choose_length(self, num_epochs: int) -> None:
        """Train in cycles, until whoever iterates `steps` has seen enough; call it before the first step. Collective.

        Args:
            num_epochs: Passes over the dataset that the examples hold, more than will be trained.
        """
        left = self.examples.num_examples
        assert left is not None, "a log has no epochs"
        steps = max(self._ranks.gather_objects(left / self._step_size)) / num_epochs
        self.watch = dataclasses.replace(self.watch, first_cycle=min(_LONGEST_FIRST_CYCLE, max(1, math.ceil(steps))))

    def _learning_rate(self) -> LearningRate:
        peak, cycles = self._config.learning_rate, self.cycles
        if not self._config.lr_decay:
            return constant(peak)
        if cycles is not None:
            return cycles.learning_rate(peak)
        end = self.num_steps()
        return constant(peak) if end is None else linear_decay(peak, end)

    def num_steps(self) -> int | None:
        """Return the step at which the run, or its cycle, will end; None where that is not known. Collective."""
        if self.cycles is not None:
            return self.cycles.of(self.step).end
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
        for names in self._ranks.gather_objects(self.examples.new_item_ids()):
            self._catalog.add_names(names)
        self._catalog.keep_names(self.table.all_items())  # one that waits for a row is met again when it gets it
        writer = VersionWriter(directory)
        writer.write_item_shard(rank, num_ranks, self.table.own_rows())
        writer.write_waiting(rank, num_ranks, self.table.waiting())
        for partition in self.examples.partitions:
            history = self.examples.history(partition)
            if history:
                writer.write_history(partition, history)
        if rank == 0:
            writer.write_dense(self.model.state_dict())
            writer.write_optimizer(optimizer_tensors(self.model, self._optimizer))
            writer.write_catalog(self._saved_catalog())
        # Histories are as of these positions. They may lie behind the last step's: a log may end with records that are
        # no examples.
        self._positions = self.examples.positions()
        part_trained = self.examples.part_trained()
        passed_over = {NUM_IGNORED: self.examples.num_ignored, NUM_KNOWN: self.examples.num_known}
        own = (writer.files, dict(self._positions), part_trained, self._watermark_ms, passed_over)
        parts = self._ranks.gather_objects(own)
        manifests: list[Manifest] = self._ranks.gather_objects(self._seal(directory, parts) if rank == 0 else None)
        return manifests[0]

    def unsaved(self) -> UnsavedVersion:
        """Return the state as it is as a version that was not written: what `save` would write, all rows. Collective."""
        about = Manifest(
            FORMAT_VERSION,
            f"step {self.step}",
            created_ms=0,
            config=self._settings(),
            id_type=self._dataset.manifest.id_type,
            step=self.step,
            watermark_ms=self._watermark_ms,
            positions={},
            metrics=self.metrics,
            source=self._source,
            files={},
        )
        state = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
        return UnsavedVersion(
            about, self._model_config, self._config, state, self.table.all_rows(), self._saved_catalog()
        )

    def commit(self) -> None:
        """Show the positions of the last save to whoever watches the lag; call it once a version is stored."""
        self.examples.commit(self._positions)

    def resume(self, version: ModelVersion) -> None:
        """Go on from a version of this run; the examples must have been opened at its positions.

        Raises:
            AnotherLog: Its positions are of another log.
            ConfigError: It is of another run: see `check_resume`.
        """
        parts = (self._model_config, self._config, self._dataset, self._source)
        check_resume(version, *parts, from_log=self._observe, log=self._log)
        self.step = version.manifest.step
        self.watch = version.manifest.watch
        self.metrics = dict(version.manifest.metrics)
        self._passed_over = {name: int(self.metrics.get(name, 0)) for name in self._passed_over}
        self._watermark_ms = version.manifest.watermark_ms
        self._load(version)
        load_optimizer(self.model, self._optimizer, version.optimizer())

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
        for rows in version.item_parts():
            known = self._catalog.of_dataset.rows(rows.keys) >= 0 if forget_absent else True
            self.table.load(dataclasses.replace(rows, counts=np.where(known, rows.counts, 0)))
        if not forget_absent:
            self.table.load_waiting(version.waiting())
        if self._observe:
            self._catalog.add_names_of(version.catalog())
        self._fill_table()

    def _fill_table(self) -> None:
        """Give features a row, and items theirs where the catalog's counts stand."""
        of_events = self._dataset.value_keys(EventFeatures.of(self._model_config))
        catalog = self._catalog.of_dataset
        known = (catalog.feature_keys, np.array([COLD_KEY]), distinct_profile_keys(self._dataset), of_events)
        self.table.add_features(np.concatenate(known))
        if not self._observe:
            seen = catalog.counts > 0
            self.table.set_counts(catalog.keys[seen], catalog.counts[seen], self._dataset.manifest.last_ms)

    def _saved_catalog(self) -> ItemCatalog:
        """Return the items as a version tells of them: with those of the log, without those that are out of date."""
        if not self._observe:
            return self._catalog.of_dataset
        keys = self.table.all_items()
        is_old = self.table.is_forgotten(self._dataset.manifest.last_ms)
        return self._catalog.of(keys, self.table.counts(keys), without_others=is_old)

    def _settings(self) -> dict[str, Any]:
        """Return what a version says of how it was made."""
        about = self._dataset.manifest
        return {
            "model": dump(self._model_config),
            "training": dump(self._config),
            "item_features": [dataclasses.asdict(feature) for feature in about.item_features],
            "item_columns": list(about.item_columns),
            "profile_features": [dataclasses.asdict(feature) for feature in about.profile_features],
            "event_types": list(about.event_types),
        }

    def _seal(self, directory: Directory, parts: list[Any]) -> Manifest:
        files, positions, part_trained, watermarks, passed_over = zip(*parts, strict=True)
        counts = {name: sum(part[name] for part in (self._passed_over, *passed_over)) for name in self._passed_over}
        return seal(
            directory,
            _joined(files),
            config=self._settings(),
            id_type=self._dataset.manifest.id_type,
            step=self.step,
            watermark_ms=max(watermarks),
            positions=_joined(positions),
            metrics=self.metrics | {name: count for name, count in counts.items() if count},
            source=self._source,
            part_trained=_joined(part_trained),
            dataset_digest=self._dataset.digest,
            watch=self.watch,
            log=self._log,
            known_until_ms=self._known_until_ms,
        )


def _joined(parts: tuple[Mapping[Any, Any], ...]) -> dict[Any, Any]:
    return {name: value for part in parts for name, value in part.items()}
