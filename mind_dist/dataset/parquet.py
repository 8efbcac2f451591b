"""The prepared dataset of design 4.3: what `jobs/prepare` writes and training, evaluation and publishing read.

    manifest.json                        what is in it; written last, so a dataset with one is whole
    sequences/{train,valid,test}/bucket-00000.parquet …   one row a user, in time order
    items.parquet                        the item catalog
    users.parquet                        profiles (optional); with string ids every user, for the outside id
    event_values.parquet                 values of the features of events in train (where there are any)
    activity/bucket-00000.parquet …      when each item had how many events (split by time only)
    rejected/part-*.parquet              unusable rows of the raw log with reasons (where there were any)

Ids in it are keys (`mind_dist.keys`); the catalog keeps the outside ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import xxhash

from mind_dist.config import ModelConfig, parse
from mind_dist.dataset.bucket_file import BucketFile
from mind_dist.dataset.event_values import VALUE_SCHEMA, VALUES, event_keys, value_keys
from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.dataset.provenance import Coverage, FilterStep
from mind_dist.errors import ConfigError, DatasetError
from mind_dist.keys import NO_FEATURES, EventFeatures, IdType
from mind_dist.records import BehaviorSequence, Keys
from mind_dist.storage import Directory
from mind_dist.strict_json import from_json, to_json

FORMAT_VERSION = 1

Split = Literal["train", "valid", "test"]

SEQUENCE_SCHEMA = pa.schema(
    [("user_id", pa.int64()), ("item_ids", pa.list_(pa.int64())), ("timestamps_ms", pa.list_(pa.int64()))]
)
"""A user's behaviors; ids are keys. For each feature of events a list of texts follows (`values_column`)."""

USER_SCHEMA = pa.schema([("user_id", pa.int64()), ("original_id", pa.string()), ("profile_keys", pa.list_(pa.int64()))])
"""First columns of the profiles: one key per profile feature in the manifest's order, 0 where missing."""


RAW_PROFILE = "profile"
"""Column of the profiles: what the features were made of, as a JSON object; it is what users are imported with."""


@dataclass(frozen=True)
class FeatureInfo:
    """A side feature of items or users.

    Attributes:
        name: Column it came from, and its name.
        kind: `category`, `categories` (several an item), `words` (of a text), `buckets` (a number, cut at the boundaries) or
            `continuous` (a number, standardised).
        boundaries: Upper bounds of all buckets but the last, for `buckets` and what is `continuous` and bucketed.
        scale: Whether a continuous number itself is standardised or its logarithm.
        mean: What is subtracted then.
        deviation: What it is divided by then.
    """

    name: str
    kind: Literal["category", "categories", "words", "buckets", "continuous"] = "category"
    boundaries: tuple[float, ...] = ()
    scale: Literal["linear", "log"] = "linear"
    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True)
class DatasetManifest:
    """What a prepared dataset holds.

    Attributes:
        id_type: What ids were outside.
        num_buckets: Buckets per split; a user's is `partition_of(user_key, num_buckets)`.
        num_users: Users per split.
        num_events: Events per split.
        num_items: Items of the log that were kept.
        first_ms: Time of the oldest event.
        last_ms: Time of the newest event.
        item_features: Side features of items, whose keys are in `feature_keys`; of continuous ones, in this order, the
            values in `feature_values`.
        item_columns: Further columns kept for display (titles).
        profile_features: Profile features of users, in the order of `profile_keys`.
        split: How users were split, in words and numbers.
        num_rejected: Rows left out by reason.
        rejected_examples: A value of a row left out, by reason; none where the value is missing.
        num_cut_users: Users of whom only the newest `max_user_events` events are kept.
        time_unit: `ms` where times are milliseconds since the epoch, `order` where they are positions and no times.
        steps: What was left of the log after each step, in their order.
        item_coverage: How many kept items have a value in each column of the metadata.
        user_coverage: The same of users and their profiles.
        event_types: Types of the events that count as behaviors; empty where events of every type do.
        behavior_features: Features of events that say what kind of behavior each is.
        context_features: Features of events that say in what moment each happened.
        num_duplicates: Events left out because one of the same user, item and time came before in the log.
        num_cold_items: Items that are in the catalog beside them, known from the metadata alone.
        num_bad_availability: Items with a value for when they are available that is no time; it counts as no bound.
        format_version: Version of this layout.
    """

    id_type: IdType
    num_buckets: int
    num_users: dict[str, int]
    num_events: dict[str, int]
    num_items: int
    first_ms: int
    last_ms: int
    item_features: tuple[FeatureInfo, ...] = ()
    item_columns: tuple[str, ...] = ()
    profile_features: tuple[FeatureInfo, ...] = ()
    split: dict[str, Any] = field(default_factory=dict)
    num_rejected: dict[str, int] = field(default_factory=dict)
    rejected_examples: dict[str, str] = field(default_factory=dict)
    num_cut_users: int = 0
    time_unit: Literal["ms", "order"] = "ms"
    steps: tuple[FilterStep, ...] = ()
    item_coverage: tuple[Coverage, ...] = ()
    user_coverage: tuple[Coverage, ...] = ()
    event_types: tuple[str, ...] = ()
    behavior_features: tuple[str, ...] = ()
    context_features: tuple[str, ...] = ()
    num_duplicates: int = 0
    num_cold_items: int = 0
    num_bad_availability: int = 0
    format_version: int = FORMAT_VERSION

    def fit(self, model: ModelConfig) -> ModelConfig:
        """Return a model with the inputs that the dataset has: profile features of users, continuous features of items."""
        num_continuous = sum(feature.kind == "continuous" for feature in self.item_features)
        tower = dataclasses.replace(model.item_tower, num_continuous=num_continuous)
        return dataclasses.replace(model, num_profile_features=len(self.profile_features), item_tower=tower)

    def num_inputs(self, sequence: BehaviorSequence, split: Split) -> int:
        """Return how many behaviors of a user are input to the model; in valid and test, the others are to be found."""
        if split == "train":
            return len(sequence)
        if self.split["by"] == "user":
            return int(len(sequence) * self.split["input_fraction"])
        if self.split["by"] == "leave-one-out":
            return max(0, len(sequence) - 1)
        cut_ms = self.split["train_before_ms" if split == "valid" else "valid_before_ms"]
        return int(np.searchsorted(sequence.timestamps_ms, cut_ms))


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset that has been checked to be there and readable.

    Attributes:
        directory: Where it is.
        manifest: What it holds.
        digest: xxh3-128 of the manifest as it is written, in hex: other data has another one.
    """

    directory: Directory
    manifest: DatasetManifest
    digest: str

    @classmethod
    def open(cls, uri: str) -> PreparedDataset:
        """Open a dataset.

        Raises:
            DatasetError: There is no manifest, it is of another format, or files it promises are missing.
        """
        directory = Directory.at(uri)
        try:
            content = directory.read_bytes("manifest.json")
            manifest = parse(DatasetManifest, from_json(content), where="manifest.json")
        except FileNotFoundError as error:
            raise DatasetError(directory.uri, "no manifest.json: run `python -m jobs.prepare` first") from error
        except (ValueError, ConfigError) as error:
            raise DatasetError(directory.uri, f"manifest.json is torn or of another format: {error}") from error
        if manifest.format_version != FORMAT_VERSION:
            problem = f"format version {manifest.format_version}, this release reads {FORMAT_VERSION}: prepare it again"
            raise DatasetError(directory.uri, problem)
        return cls(directory, manifest, xxhash.xxh3_128_hexdigest(content))

    def read_bucket(self, split: Split, bucket: int) -> pa.Table:
        """Return one bucket of a split, `SEQUENCE_SCHEMA`, in ascending order of `user_id`.

        Raises:
            DatasetError: The file is missing or torn.
        """
        return self._read(_bucket_name(split, bucket))

    def open_bucket(self, split: Split, bucket: int) -> BucketFile:
        """Open one bucket of a split to read it piece by piece; as `read_bucket`."""
        return BucketFile(self.directory, _bucket_name(split, bucket))

    @property
    def features(self) -> EventFeatures:
        """The features of events that the dataset has."""
        return EventFeatures(self.manifest.behavior_features, self.manifest.context_features)

    def sequences(
        self, split: Split, every: int = 1, features: EventFeatures | None = None
    ) -> Iterator[BehaviorSequence]:
        """Yield the users of a split with their profiles, bucket by bucket.

        Args:
            split: Which users.
            every: Of so many users of a bucket, yield one.
            features: What is read of each event; None for all that the dataset has.
        """
        profiles, features = self.profiles(), self.features if features is None else features
        for bucket in range(self.manifest.num_buckets):
            table = self.read_bucket(split, bucket)
            table = table.take(np.arange(bucket % every, table.num_rows, every)) if every > 1 else table
            behavior, moments = event_keys(table, features)
            start = 0
            for user_key, *lists in zip(*(table[name].to_pylist() for name in SEQUENCE_SCHEMA.names), strict=True):
                items, times = (np.array(values, dtype=np.int64) for values in lists)
                stop = start + len(items)
                yield BehaviorSequence(
                    user_key,
                    items,
                    times,
                    profiles.get(user_key, self.no_profile),
                    behavior[start:stop],
                    moments[start:stop],
                )
                start = stop

    def value_keys(self, features: EventFeatures) -> Keys:
        """Return the key of every value that these features have in train, and of every context that is not given."""
        has_values = self.features != NO_FEATURES and self.directory.exists(VALUES)
        return value_keys(self._read(VALUES) if has_values else VALUE_SCHEMA.empty_table(), features)

    @cached_property
    def no_profile(self) -> Keys:
        """Profile keys of a user without a profile: all missing."""
        return np.zeros(len(self.manifest.profile_features), dtype=np.int64)

    def catalog(self) -> ItemCatalog:
        """Return the item catalog."""
        return ItemCatalog(self._read("items.parquet"))

    def profiles(self) -> dict[int, Keys]:
        """Return each user's profile keys; empty when the dataset has no profiles."""
        if not self.manifest.profile_features:
            return {}
        table = self._read("users.parquet")
        keys = [np.array(profile, dtype=np.int64) for profile in table["profile_keys"].to_pylist()]
        return dict(zip(table["user_id"].to_pylist(), keys, strict=True))

    def raw_profiles(self) -> dict[int, dict[str, Any]]:
        """Return what is known of each user by the features' names; empty where the dataset does not tell."""
        if not self.manifest.profile_features:
            return {}
        table = self._read("users.parquet")
        if RAW_PROFILE not in table.column_names:
            return {}
        return dict(zip(table["user_id"].to_pylist(), map(from_json, table[RAW_PROFILE].to_pylist()), strict=True))

    def _read(self, name: str) -> pa.Table:
        try:
            return self.directory.read_table(name)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError((self.directory / name).uri, f"missing or torn: {error}; prepare it again") from error


def _bucket_name(split: Split, bucket: int) -> str:
    return f"sequences/{split}/bucket-{bucket:05d}.parquet"


def write_manifest(directory: Directory, manifest: DatasetManifest) -> None:
    """Write the manifest, which makes the dataset whole: call it last."""
    directory.write_bytes("manifest.json", to_json(dataclasses.asdict(manifest), indent=2).encode())


def sequences_table(sequences: Sequence[BehaviorSequence]) -> pa.Table:
    """Return users as a table of `SEQUENCE_SCHEMA`, in ascending order of `user_id`."""
    ordered = sorted(sequences, key=lambda sequence: sequence.user_key)
    columns = [
        pa.array([s.user_key for s in ordered], pa.int64()),
        pa.array([s.item_keys for s in ordered], pa.list_(pa.int64())),
        pa.array([s.timestamps_ms for s in ordered], pa.list_(pa.int64())),
    ]
    return pa.Table.from_arrays(columns, schema=SEQUENCE_SCHEMA)
