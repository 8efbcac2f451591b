"""What a training run on Ray is made from, and what it results in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from mind_dist.config import KafkaConfig, ModelConfig, TrainingConfig, WatchConfig, check_from_log, check_together
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.errors import ConfigError, DatasetError
from mind_dist.recipes import best
from mind_dist.storage import Directory
from mind_dist.training.run_versions import RunVersions

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class TrainSettings:
    """Train a model on Ray; the same storage and name go on where the run stopped."""

    dataset: str
    """Directory URI of the prepared dataset: what is trained on, or, with `--source kafka`, the catalog and profiles."""
    storage: str
    """Directory URI of all runs; versions are kept in STORAGE/NAME/checkpoint_STEP."""
    name: str = "mind"
    """Name of the run."""
    source: Literal["parquet", "kafka"] = "parquet"
    """Train on the dataset's train split, or on the events of a Kafka topic from its oldest record on."""
    follow: bool = False
    """Wait for further events until stopped, instead of ending where the topic ends now (Kafka only)."""
    growth_wait_s: float = 300.0
    """After partitions were added to a topic that is followed, go on for so long before all are opened: producers learn
    of new ones late (`metadata.max.age.ms`, five minutes by default), and until then write where a user's events were."""
    init_from: str = ""
    """Directory URI of a model version whose parameters a new run begins with, on whatever data, or of a run, whose best or
    newest version it then is."""
    known_until_ms: int = -1
    """Events up to this time, in ms since the epoch, are history and are not trained (Kafka only). -1 for the newest event
    that the version of `init_from` was trained on, so that a run on a topic goes on where one on a dataset has ended;
    0 trains all."""
    workers: int = 2
    """Ray Train workers; 0 trains in this process, without Ray's recovery."""
    use_gpu: bool = False
    """Give every worker a GPU."""
    min_workers: int = 0
    """Go on with fewer workers, down to so many, where nodes are lost or not there yet, and with up to `workers` again once
    there are nodes for them. 0 waits until there is room for all `workers`. A group of workers goes on from the run's newest
    version, whatever their number was when it was saved."""
    max_failures: int = 2
    """How often workers that died or hang are replaced before the job gives up. A node that is lost without notice counts,
    too; one that Ray was told of before (a preemption, a drain) does not."""
    checkpoint_every_s: float = 600.0
    """Save, too, when the last save was so many seconds ago: so much work is lost with a worker at most. 0 saves by steps
    (`training.checkpoint_every_steps`), by what valid users say and at the end alone."""
    num_to_keep: int = 2
    """Newest versions of the run that are kept: at least 2, so that one is left where the newest is damaged."""
    model: ModelConfig = field(default_factory=lambda: best().model)
    """The model; that of the recipe `best` where none is named."""
    training: TrainingConfig = field(default_factory=lambda: best().training)
    """How it is trained; as `best` where no recipe is named, or, by `jobs.train --source kafka`, as `stream`."""
    eval_every: int = 0
    """Steps between two evaluations, -1 for none. Of a dataset its valid users are asked, whose recall says which version is
    the best, and, where `training.epochs` is 0, when to stop; 0 for four in each cycle of the learning rate. Of a topic the
    step's own events are, before they are trained on; 0 for one in 20 steps, and in more where there are more items than
    20,000."""
    watch: WatchConfig = field(default_factory=WatchConfig)
    """How valid users are asked."""
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    """Where events come from."""

    def __post_init__(self) -> None:
        for setting, least in (("workers", 0), ("max_failures", 0), ("num_to_keep", 2)):
            if getattr(self, setting) < least:
                raise ValueError(f"{setting} must be at least {least}")
        if not _NAME.fullmatch(self.name):
            raise ValueError("name must be letters, digits, '_', '.' and '-', beginning with a letter or digit")
        if self.min_workers and not 1 <= self.min_workers <= self.workers:
            raise ValueError("min_workers must be 0, or between 1 and workers")
        if self.checkpoint_every_s < 0:
            raise ValueError("checkpoint_every_s must be 0 or more")
        if self.eval_every < -1:
            raise ValueError("eval_every must be at least -1")
        if self.known_until_ms >= 0 and self.source != "kafka":
            raise ValueError("known_until_ms must be -1 unless source is kafka")
        if self.training.keep_items_days and self.source != "kafka":
            raise ValueError("training.keep_items_days must be 0 unless source is kafka")
        if self.growth_wait_s < 0:
            raise ValueError("growth_wait_s must be 0 or more")
        if self.follow and self.source != "kafka":
            raise ValueError("follow must be off unless source is kafka")
        check_together(self.model, self.training)
        if self.source == "kafka":
            check_from_log(self.training)

    @property
    def versions(self) -> RunVersions:
        """What the run has saved."""
        return RunVersions(Directory.at(self.storage) / self.name)

    @property
    def is_watched(self) -> bool:
        """Whether the dataset's valid users, if it has some, are to watch the run."""
        return self.source == "parquet" and self.eval_every >= 0

    @property
    def group(self) -> str:
        """Kafka group under which the run shows its positions."""
        return f"{self.kafka.group_prefix}mind-dist-training-{self.name}"


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with.

    Attributes:
        version_uri: Directory of the best version where valid users watched, which the run's directory then stands for;
            else of the newest.
        model_version: Its name.
        step: Its step.
        metrics: Its metrics.
        last_step: Steps done.
        fell_back_to: Directory of the version that the run went on from, where a newer one was damaged; else empty.
    """

    version_uri: str
    model_version: str
    step: int
    metrics: dict[str, float]
    last_step: int
    fell_back_to: str = ""


def source_name(settings: TrainSettings) -> str:
    """Return what a version says it was trained on; a broker may move, so its address is no part of it."""
    return f"kafka://{settings.kafka.topic}" if settings.source == "kafka" else settings.dataset


def check_dataset(settings: TrainSettings) -> PreparedDataset:
    """Open the dataset and see that there is something to train on.

    Raises:
        ConfigError: None is given, or a setting needs what it does not have.
        DatasetError: It is missing or torn, or no user of its train split has two behaviors.
    """
    if not settings.dataset:
        raise ConfigError("dataset", "must be the URI of a prepared dataset")
    dataset = PreparedDataset.open(settings.dataset)
    manifest = dataset.manifest
    if settings.source == "parquet" and manifest.num_events.get("train", 0) <= manifest.num_users.get("train", 0):
        raise DatasetError(dataset.directory.uri, "no user of the train split has two behaviors: nothing to train on")
    if settings.training.id_dropout and not manifest.item_features:
        raise ConfigError("training.id_dropout", f"must be 0: {dataset.directory.uri} has no side features of items")
    for setting, known, there in (
        ("model.behavior_features", settings.model.behavior_features, manifest.behavior_features),
        ("model.context_features", settings.model.context_features, manifest.context_features),
    ):
        if missing := [name for name in known if name not in there]:
            problem = f"{dataset.directory.uri} has no {', '.join(missing)}: prepare it with log.{setting[6:-9]}"
            raise ConfigError(setting, problem)
    return dataset
