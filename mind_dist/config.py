"""Settings: frozen dataclasses, their checks, and how they are read and written.

One declaration has three readers: `tyro` for command lines, pydantic for JSON and Serve arguments (`load`,
`parse`), plain attributes for code. A function takes its own section, never the whole.
Addresses and secrets come from the environment, in `Addresses` alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from mind_dist.errors import ConfigError

C = TypeVar("C")

_STRICT = ConfigDict(extra="forbid")


def _check(ok: bool, setting: str, allowed: str) -> None:
    """Raise ValueError naming a setting and what is allowed; `parse` and `run` turn it into a ConfigError."""
    if not ok:
        raise ValueError(f"{setting} must be {allowed}")


ModelKind = Literal["two_tower", "mind", "comirec_dr", "comirec_sa", "causal"]
"""How interests are extracted: see `mind_dist.model.multi_interest`."""


RoutingStart = Literal["content_keyed", "farthest_point", "zeros"]
"""Where dynamic routing starts."""


@with_config(_STRICT)
@dataclass(frozen=True)
class ModelConfig:
    """The multi-interest model: what stands before, in and behind the extraction of interests."""

    kind: ModelKind = "mind"
    """`two_tower`: one pooled vector; `mind`: B2I routing (arXiv 1904.08030); `comirec_dr`: routing with a map per
    position and interest, `comirec_sa`: self-attention (both arXiv 2005.09347); `causal`: from the sequence encoder's
    state at the newest behavior, so that every position of a history is trained in one pass."""
    dim: int = 64
    """Width D of item and interest vectors."""
    num_interests: int = 4
    """Largest number of interests K of a user."""
    adaptive_interests: bool = True
    """Give a user with n behaviors max(1, min(K, floor(log2 n))) interests instead of K."""
    separate_item_vectors: bool = False
    """Give items one vector as behaviors and another one to be scored and searched by."""
    recency: bool = False
    """Add a learned vector for how many behaviors ago it was to each behavior (but for `causal`, whose one state is
    that of the newest)."""
    max_recency: int = 200
    """Older behaviors share what is learned for the oldest of so many: these vectors, `comirec_dr`'s maps, lags."""
    sequence_encoder: Literal["none", "lag_kernels", "gru", "transformer"] = "none"
    """A causal encoder that behaviors go through before extraction."""
    encoder_dim: int = 256
    """Width of the encoder's hidden layer."""
    encoder_layers: int = 1
    """Layers of the encoders `gru` and `transformer`."""
    num_lag_kernels: int = 4
    """Weighted means of the past, each with its own learned weight per lag, that `lag_kernels` sees."""
    pooling: Literal["mean", "attention"] = "mean"
    """How `two_tower` pools behaviors."""
    routing_iterations: int = 3
    """Iterations of the dynamic routing."""
    routing_start: RoutingStart = "content_keyed"
    """Where routing starts: numbers keyed by (item, interest), behaviors far from each other (Pinterest DCM, arXiv
    2506.23060), or zeros (`comirec_dr`, whose maps differ by interest)."""
    attention_dim: int = 0
    """Hidden width of `comirec_sa`; 0 for 4 · D, as in the paper."""
    hidden_dims: tuple[int, ...] = (128,)
    """Widths of the layers between [capsule ; profile] and what is added to the capsule to make the interest; none
    leaves the capsule as it is, but for a profile or context."""
    dropout: float = 0.0
    """Share of the values dropped, in training, before and in the layers."""
    num_profile_features: int = 0
    """Profile features P joined to each capsule; set from the dataset by the train job."""
    context_dim: int = 0
    """Width C of a query or context vector joined to each capsule; 0 for none."""
    label_attention_power: float = float("inf")
    """Power p of label-aware attention; `inf` picks the best interest. On MovieLens-100K a finite power lost recall:
    below 4 the interests become one, from 4 on the mix that is trained is not the best interest that is searched by."""
    normalize: bool = True
    """Scale interest and item vectors to length 1; scores are then cosines."""

    @property
    def row_dim(self) -> int:
        """Width of a table row: D, or 2 · D with separate item vectors."""
        return self.dim * (2 if self.separate_item_vectors else 1)

    def __post_init__(self) -> None:
        for name in (
            "dim",
            "num_interests",
            "max_recency",
            "encoder_layers",
            "routing_iterations",
            "num_lag_kernels",
            "encoder_dim",
        ):
            _check(getattr(self, name) >= 1, name, "at least 1")
        _check(self.label_attention_power > 0, "label_attention_power", "above 0")
        _check(all(width >= 1 for width in self.hidden_dims), "hidden_dims", "at least 1 each")
        _check(0 <= self.dropout < 1, "dropout", "0 or more and below 1")
        for name in ("attention_dim", "num_profile_features", "context_dim"):
            _check(getattr(self, name) >= 0, name, "0 or more")
        _check(self.kind != "two_tower" or self.num_interests == 1, "num_interests", "1 for a two_tower")
        learned = self.hidden_dims or self.num_profile_features or self.context_dim or self.recency
        learned = learned or self.kind != "two_tower" or self.pooling == "attention" or self.sequence_encoder != "none"
        _check(bool(learned), "hidden_dims", "at least one layer for a two_tower that learns nothing else")
        differ = self.kind == "comirec_dr" or self.routing_start != "zeros" or self.num_interests == 1
        _check(differ, "routing_start", "other than zeros but for comirec_dr: equal starts stay equal")


@with_config(_STRICT)
@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained."""

    batch_size: int = 128
    """History windows per worker and step."""
    max_behaviors: int = 50
    """Longest history L the model sees."""
    num_targets: int = 4
    """Items after each window that are targets (a Kafka event is always one)."""
    every_position: bool = False
    """Train the interests after every behavior of a window, each told one of the `num_targets` items that come next,
    instead of those after the whole window (a Kafka event always trains the whole history before it)."""
    window_stride: int = 1
    """One window for so many behaviors of a user and epoch. 1 takes each behavior but the first as a window's first
    target once; above, windows lie anywhere, as full as the history allows."""
    num_negatives: int = 512
    """Negatives per worker and step drawn from the items."""
    negative_power: float = 0.0
    """They are drawn in proportion to count ** this: 0 evenly, 1 as often as they are seen."""
    in_batch_negatives: bool = True
    """Let the batch's targets be negatives of each other, too."""
    cross_worker_negatives: bool = False
    """Let the targets of all workers be negatives of each other, not only those of a worker's own batch."""
    full_softmax: bool = False
    """Tell targets from all items instead of negatives."""
    interest_choice: Literal["label_aware", "best"] = "label_aware"
    """`label_aware`: the interests as a target weighs them score it and its negatives (MIND, ComiRec); `best`: every
    item, target or negative, is scored by its best interest, as it is when served."""
    warm_start: Literal["none", "cooccurrence"] = "none"
    """`cooccurrence`: begin with item vectors made of which items follow which in the dataset's train split (Parquet
    only)."""
    id_dropout: float = 0.0
    """Share of the items that are made of their side features alone in a step, as an item is that was never seen."""
    hard_negative_beta: float = 0.0
    """Weigh negatives by exp(beta · logit), so that the hard ones count more (REMI, arXiv 2302.14532)."""
    routing_weight: float = 0.0
    """Weight of REMI's regulariser, the variance of how each interest attends to behaviors; it moves attention alone
    (`comirec_sa`, a `two_tower` with attention), as no gradient flows into the coupling that routing finds."""
    spread_weight: float = 0.0
    """Weight of the penalty for interests of a user whose cosine is above `spread_margin`."""
    spread_margin: float = 0.5
    """Cosine up to which interests may be alike."""
    balance_weight: float = 0.0
    """Weight of the penalty for interests that win unequal shares of the targets."""
    temperature: float = 0.1
    """Divides the scores in the softmax."""
    logq_correction: bool = True
    """Correct the sampled softmax for how likely each negative was drawn."""
    learning_rate: float = 0.01
    """Learning rate of dense parameters and item rows."""
    lr_decay: bool = True
    """Decay the learning rate linearly to a tenth over the run (where its length is known)."""
    epochs: int = 1
    """Passes over the prepared dataset (Parquet only)."""
    max_steps: int = 0
    """Stop after this many steps; 0 for no bound."""
    checkpoint_every_steps: int = 0
    """Save every so many steps; 0 saves at the end alone."""
    admission_count: int = 1
    """An item gets its own row when it was seen this often."""
    seed: int = 17
    """Seed of everything random."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the model under autocast; parameters stay float32."""

    def __post_init__(self) -> None:
        _check(self.batch_size >= 1, "batch_size", "at least 1")
        _check(self.max_behaviors >= 1, "max_behaviors", "at least 1")
        _check(self.num_targets >= 1, "num_targets", "at least 1")
        _check(self.window_stride >= 1, "window_stride", "at least 1")
        _check(self.num_negatives >= 0, "num_negatives", "0 or more")
        for name in ("negative_power", "hard_negative_beta", "routing_weight", "spread_weight", "balance_weight"):
            _check(getattr(self, name) >= 0, name, "0 or more")
        _check(0 <= self.id_dropout < 1, "id_dropout", "0 or more and below 1")
        _check(
            self.in_batch_negatives or not self.cross_worker_negatives,
            "cross_worker_negatives",
            "off without in_batch_negatives",
        )
        _check(-1 <= self.spread_margin <= 1, "spread_margin", "between -1 and 1")
        _check(self.temperature > 0, "temperature", "above 0")
        _check(self.learning_rate > 0, "learning_rate", "above 0")
        _check(self.epochs >= 1, "epochs", "at least 1")
        _check(self.max_steps >= 0, "max_steps", "0 or more")
        _check(self.checkpoint_every_steps >= 0, "checkpoint_every_steps", "0 or more")
        _check(self.admission_count >= 1, "admission_count", "at least 1")


@with_config(_STRICT)
@dataclass(frozen=True)
class KafkaConfig:
    """Topics and limits of the event log; its address comes from the environment."""

    topic: str = "behavior-events"
    """Topic of the behavior events."""
    dead_letter_topic: str = "behavior-events-dead-letters"
    """Topic of the records that cannot be decoded."""
    max_poison_fraction: float = 0.1
    """Stop when more than this share of a window's records is poison."""
    poison_window: int = 1000
    """Records in that window; no judgement before it is full."""
    max_poll_records: int = 500
    """Most records of one poll, and so of one micro-batch."""
    connect_timeout_s: float = 30.0
    """How long to try to reach the broker."""
    session_timeout_s: float = 8.0
    """A consumer that died loses its partitions after so long."""
    max_poll_interval_s: float = 90.0
    """A consumer that polls less often loses its partitions; a batch older than half of it is not written."""

    def __post_init__(self) -> None:
        _check(0 <= self.max_poison_fraction <= 1, "max_poison_fraction", "between 0 and 1")
        _check(self.poison_window >= 1, "poison_window", "at least 1")
        _check(self.max_poll_records >= 1, "max_poll_records", "at least 1")
        _check(self.connect_timeout_s > 0, "connect_timeout_s", "above 0")
        _check(self.session_timeout_s >= 6, "session_timeout_s", "at least 6, the brokers' own limit")  # noqa: PLR2004
        _check(self.max_poll_interval_s >= 1, "max_poll_interval_s", "at least 1")

    def group(self, model_version: str) -> str:
        """Return the consumer group that keeps a version's users fresh: each version has its own positions."""
        return f"mind-dist-users-{model_version}"


@with_config(_STRICT)
@dataclass(frozen=True)
class PublishConfig:
    """What a version must show before readers are switched to it, and what is kept behind it."""

    ann_sample: int = 200
    """Users whose interests are searched by index and exactly, to compare."""
    ann_limit: int = 50
    """Items asked for in that comparison."""
    min_ann_recall: float = 0.95
    """Least share of the exact items that the index must find."""
    min_recall: float = 0.0
    """Least recall@50 the version must have been evaluated with; 0 asks for none."""
    max_recall_drop: float = 0.1
    """Largest share of the active version's recall@50 that may be lost."""
    catch_up_s: float = 300.0
    """How long updaters may take to bring the new version's users up to date."""
    keep: int = 2
    """Versions kept behind the active one, for rollback."""
    batch_size: int = 1000
    """Users encoded and written at a time."""

    def __post_init__(self) -> None:
        _check(self.ann_sample >= 1, "ann_sample", "at least 1")
        _check(self.ann_limit >= 1, "ann_limit", "at least 1")
        _check(0 <= self.min_ann_recall <= 1, "min_ann_recall", "between 0 and 1")
        _check(0 <= self.min_recall <= 1, "min_recall", "between 0 and 1")
        _check(0 <= self.max_recall_drop <= 1, "max_recall_drop", "between 0 and 1")
        _check(self.catch_up_s >= 0, "catch_up_s", "0 or more")
        _check(self.keep >= 0, "keep", "0 or more")
        _check(self.batch_size >= 1, "batch_size", "at least 1")


@with_config(_STRICT)
@dataclass(frozen=True)
class MilvusConfig:
    """How the Milvus adapter behaves; its address comes from the environment."""

    timeout_s: float = 10.0
    """Bound of one call: without one a frozen server blocks for ever."""
    retry_s: float = 30.0
    """How long a call that failed for a passing reason is tried again."""
    index: Literal["HNSW", "FLAT"] = "HNSW"
    """Index of the item vectors; FLAT is exact, slower for many items, and what Milvus Lite always gets."""
    flat_below: int = 20_000
    """Versions of fewer items get FLAT: it is about as fast there, and a small HNSW finds less."""
    hnsw_m: int = 16
    """Links per node."""
    hnsw_ef_construction: int = 200
    """Candidates looked at while building."""
    search_ef: int = 256
    """Candidates looked at while searching; raised to the limit where that is larger, and under a filter."""
    settle_s: float = 1800.0
    """How long a publish waits for the index of its items to be built and loaded; 0 does not wait."""

    def __post_init__(self) -> None:
        _check(self.timeout_s > 0, "timeout_s", "above 0")
        _check(self.retry_s >= 0, "retry_s", "0 or more")
        _check(self.flat_below >= 0, "flat_below", "0 or more")
        _check(self.settle_s >= 0, "settle_s", "0 or more")


@with_config(_STRICT)
@dataclass(frozen=True)
class ServingConfig:
    """The replicas that keep user vectors fresh and those that answer requests."""

    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    """The event log."""
    milvus: MilvusConfig = field(default_factory=MilvusConfig)
    """The vector store."""
    host: str = "127.0.0.1"
    """Where HTTP listens; 0.0.0.0 for all interfaces."""
    port: int = 8000
    """Port of HTTP."""
    num_updaters: int = 1
    """Replicas of the updater; the topic's partitions are spread over them."""
    num_recommenders: int = 1
    """Replicas that answer requests."""
    cpus_per_replica: float = 0.5
    """CPUs that Ray sets aside for each replica."""
    version_poll_s: float = 1.0
    """How often to look for a new active or staged model version."""
    poll_timeout_s: float = 0.1
    """How long an updater waits for events before it looks round."""
    visibility_s: float = 10.0
    """Bound within which a write shows in a bounded read; rows written in it are kept in memory."""
    row_cache_bytes: int = 256 * 1024 * 1024
    """Memory of an updater for user rows; rows within `visibility_s` stay whatever it says."""
    max_backoff_s: float = 5.0
    """Longest pause before a batch that failed is tried again."""
    unhealthy_after_s: float = 60.0
    """An updater that has failed for so long is unhealthy and replaced."""
    stuck_after_s: float = 90.0
    """An updater that has spent so long in one step is stuck and replaced."""
    max_limit: int = 1000
    """Most candidates of one request."""
    category_column: str = ""
    """Item column that `diversity_weight` spreads candidates over; empty for none."""

    def __post_init__(self) -> None:
        _check(0 <= self.port < 1 << 16, "port", "between 0 and 65535")
        for name in ("num_updaters", "num_recommenders", "max_limit"):
            _check(getattr(self, name) >= 1, name, "at least 1")
        for name in ("version_poll_s", "poll_timeout_s", "max_backoff_s", "unhealthy_after_s", "stuck_after_s"):
            _check(getattr(self, name) > 0, name, "above 0")
        _check(self.cpus_per_replica >= 0, "cpus_per_replica", "0 or more")
        _check(self.visibility_s >= 0, "visibility_s", "0 or more")
        _check(self.row_cache_bytes >= 0, "row_cache_bytes", "0 or more")
        longest_write_s = self.milvus.retry_s + self.milvus.timeout_s
        _check(
            self.kafka.max_poll_interval_s >= 2 * longest_write_s,
            "kafka.max_poll_interval_s",
            f"at least {2 * longest_write_s:g}, twice milvus.retry_s + milvus.timeout_s, "
            "so that no batch is written after its partitions moved",
        )


@with_config(_STRICT)
@dataclass(frozen=True)
class FilesConfig:
    """Table files to read: Parquet, or CSV with a header line."""

    paths: tuple[str, ...] = ()
    """Files and directories, local or by URI; of a directory all files below, but for names that start with . or _."""
    format: Literal["parquet", "csv"] = "parquet"
    """What the files are; a `name:type` header of RecBole's atomic files is read as `name`."""
    delimiter: str = ","
    """Between the values of a CSV line."""
    quote: str = '"'
    """Around values of a CSV line that hold a delimiter; empty for none."""

    def __post_init__(self) -> None:
        _check(len(self.delimiter) == 1, "delimiter", "one character")
        _check(len(self.quote) <= 1, "quote", "one character or empty")


@with_config(_STRICT)
@dataclass(frozen=True)
class LogConfig(FilesConfig):
    """A raw log of who touched what and when."""

    user_column: str = "user_id"
    """Column of the user ids."""
    item_column: str = "item_id"
    """Column of the item ids."""
    timestamp_column: str = "timestamp"
    """Column of the times."""
    time_unit: Literal["s", "ms", "us", "ns", "iso"] = "s"
    """Numbers since the epoch in this unit, or ISO 8601 texts (UTC where they name no zone)."""
    event_type_column: str = ""
    """Column of the event types; empty where there is none."""
    event_types: tuple[str, ...] = ()
    """Event types to keep; empty keeps all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(not self.event_types or bool(self.event_type_column), "event_type_column", "set to filter event types")


@with_config(_STRICT)
@dataclass(frozen=True)
class FeatureConfig:
    """A side feature of items or users."""

    name: str
    """Its name in the dataset."""
    kind: Literal["category", "categories", "buckets"] = "category"
    """One value, several in one text, or a number cut into buckets of equal size."""
    column: str = ""
    """Column it comes from; empty when that is its name."""
    separator: str = "|"
    """Between the values of `categories`."""
    num_buckets: int = 10
    """Quantile buckets of `buckets`."""

    def __post_init__(self) -> None:
        _check(bool(self.separator), "separator", "a text")
        _check(self.num_buckets > 1, "num_buckets", "at least 2")


@with_config(_STRICT)
@dataclass(frozen=True)
class MetadataConfig(FilesConfig):
    """What is known of items or users: one row each; without `paths`, nothing."""

    id_column: str = ""
    """Column of the ids; empty when it is named as in the log."""
    features: tuple[FeatureConfig, ...] = ()
    """Features the model learns from."""
    columns: tuple[str, ...] = ()
    """Further columns kept for display, such as titles (items only)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [*(feature.name for feature in self.features), *self.columns]
        _check(len(set(names)) == len(names), "features and columns", "of different names")


@with_config(_STRICT)
@dataclass(frozen=True)
class SplitConfig:
    """How users or time are split into train, valid and test."""

    by: Literal["user", "time"] = "user"
    """By user: whole users, shuffled. By time: what happened before two points in time."""
    seed: int = 1230
    """Seed of the shuffle (1230 is ComiRec's)."""
    train_fraction: float = 0.8
    """Share of the users to train on."""
    valid_fraction: float = 0.1
    """Share of the users to validate on; the rest is for testing."""
    input_fraction: float = 0.8
    """Share of a valid or test user's history that is shown to the model; what follows is to be found."""
    train_before_ms: int = 0
    """By time: events before it are trained on."""
    valid_before_ms: int = 0
    """By time: events from `train_before_ms` up to it are what valid users must find; later ones, test users."""

    def __post_init__(self) -> None:
        _check(self.train_fraction > 0, "train_fraction", "above 0")
        _check(self.valid_fraction >= 0, "valid_fraction", "0 or more")
        _check(self.train_fraction + self.valid_fraction <= 1, "train_fraction + valid_fraction", "at most 1")
        _check(0 < self.input_fraction < 1, "input_fraction", "between 0 and 1")
        ordered = 0 < self.train_before_ms <= self.valid_before_ms
        _check(self.by == "user" or ordered, "train_before_ms", "above 0 and not above valid_before_ms")


@with_config(_STRICT)
@dataclass(frozen=True)
class PrepareConfig:
    """How raw logs become a prepared dataset."""

    output: str
    """Directory of the dataset; every worker must reach it, so on several machines a shared one."""
    log: LogConfig = field(default_factory=LogConfig)
    """The raw log."""
    items: MetadataConfig = field(default_factory=MetadataConfig)
    """Side features and titles of items."""
    users: MetadataConfig = field(default_factory=MetadataConfig)
    """Profiles of users."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Train, valid and test."""
    id_type: Literal["int64", "string"] = "int64"
    """What user and item ids are."""
    min_item_events: int = 5
    """Keep items with so many events."""
    min_user_events: int = 5
    """Then keep users with so many events on kept items."""
    num_buckets: int = 16
    """Files per split; a bucket is read by one worker, and must fit into its memory."""
    max_rejected_fraction: float = 0.01
    """Stop when more than this share of the log's rows is unusable."""
    overwrite: bool = False
    """Replace a dataset that is already there."""

    def __post_init__(self) -> None:
        _check(self.min_item_events >= 1, "min_item_events", "at least 1")
        _check(self.min_user_events >= 1, "min_user_events", "at least 1")
        _check(self.num_buckets >= 1, "num_buckets", "at least 1")
        _check(0 <= self.max_rejected_fraction <= 1, "max_rejected_fraction", "between 0 and 1")
        _check(all(f.kind != "categories" for f in self.users.features), "users.features", "of one value each")


@with_config(_STRICT)
@dataclass(frozen=True)
class Addresses:
    """Where the services are; read from the environment by `from_environment` and nowhere else."""

    kafka: str = "127.0.0.1:9092"
    """`MIND_DIST_KAFKA`: bootstrap servers, host:port separated by commas."""
    milvus: str = "http://127.0.0.1:19530"
    """`MIND_DIST_MILVUS`: URI of the Milvus server."""
    milvus_token: str = field(default="", repr=False)
    """`MIND_DIST_MILVUS_TOKEN`: user:password, or empty."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Addresses:
        """Read the addresses."""
        names = {f.name: f"MIND_DIST_{f.name.upper()}" for f in dataclasses.fields(cls)}
        return cls(**{name: environment[variable] for name, variable in names.items() if variable in environment})


def parse(kind: type[C], values: object, *, where: str = "config") -> C:
    """Build a config from plain JSON values.

    Raises:
        ConfigError: A key is unknown or a value is not allowed; the message has the dotted path.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([where, *(str(part) for part in first["loc"])])
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
            problem = "unknown setting" + _known_settings(kind)
        raise ConfigError(path, problem) from error


def _known_settings(kind: Any) -> str:
    if not dataclasses.is_dataclass(kind):
        return ""
    return "; known here: " + ", ".join(f.name for f in dataclasses.fields(kind))


def load(kind: type[C], path: Path) -> C:
    """Read a config from a JSON file.

    Raises:
        ConfigError: The file is missing or not JSON, or its content is not allowed.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), f"cannot be read as JSON: {error}") from error
    return parse(kind, values, where=path.name)


def dump(config: object) -> dict[str, Any]:
    """Return a config as plain JSON values that `parse` reads back."""
    values = TypeAdapter(type(config)).dump_python(config, mode="json")
    assert isinstance(values, dict)
    return values
