"""Settings of preparing raw logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import with_config

from mind_dist.config.checks import STRICT, check
from mind_dist.limits import MAX_COLUMNS, MAX_EVENT_FEATURES, MAX_PROFILE, USER_FIELDS, allowed_name, column_problem

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso", "order"]
"""Numbers since the epoch in a unit; ISO 8601 texts (UTC where they name no zone); or positions in an order, which are no
times. `auto` reads from the log which of them it is, but never takes values for positions."""


_NAMES = f"of different names, at most {MAX_EVENT_FEATURES}"

_NUM_OWN_COLUMNS = 3
"""Columns that an index may have of each item beside those named: its outside id, and its bounds of availability."""


@with_config(STRICT)
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
        check(len(self.delimiter) == 1, "delimiter", "one character")
        check(len(self.quote) <= 1, "quote", "one character or empty")


@with_config(STRICT)
@dataclass(frozen=True)
class LogConfig(FilesConfig):
    """A raw log of who touched what and when."""

    user_column: str = "user_id"
    """Column of the user ids."""
    item_column: str = "item_id"
    """Column of the item ids."""
    timestamp_column: str = "timestamp"
    """Column of the times."""
    time_unit: TimeUnit = "auto"
    """What the times are: numbers since the epoch in `s`, `ms`, `us` or `ns`; `iso` texts (UTC where they name no zone);
    `order` for positions that are no times; `auto` to decide it from the first rows of the files, or stop.
    Times before 1995 or more than a day ahead of now are rejected; positions may be any from 0 on."""
    event_type_column: str = ""
    """Column of the event types; empty where there is none."""
    event_types: tuple[str, ...] = ()
    """Event types to keep; empty keeps all."""
    behavior: tuple[str, ...] = ()
    """Columns that say what kind of behavior an event is, kept for models that read them (`model.behavior_features`):
    `event_type`, and others of texts, integers or booleans. Events of Kafka have them, but for the type, in `context`."""
    context: tuple[str, ...] = ()
    """Columns that say in what moment an event happened, kept for models that are asked in a context
    (`model.context_features`): the page, the device, the hour. Events and requests have them in `context`."""

    @property
    def value_names(self) -> tuple[str, ...]:
        """Columns whose values are kept for each behavior."""
        return tuple(dict.fromkeys((*self.behavior, *self.context)))

    def __post_init__(self) -> None:
        super().__post_init__()
        check(not self.event_types or bool(self.event_type_column), "event_type_column", "set to filter event types")
        typed = "event_type" in self.value_names
        check(not typed or bool(self.event_type_column), "event_type_column", "set where event_type is kept")
        for name in ("behavior", "context"):
            found = getattr(self, name)
            check(len(set(found)) == len(found) <= MAX_EVENT_FEATURES and all(found), name, _NAMES)


@with_config(STRICT)
@dataclass(frozen=True)
class FeatureConfig:
    """A side feature of items or users."""

    name: str
    """Its name in the dataset."""
    kind: Literal["category", "categories", "words", "buckets", "continuous"] = "category"
    """One value; several, in a list or in one text; a text, whose words count in any case of letters; a number or time, cut
    into buckets of equal size; or one that is read as it is, standardised (items only, as are `words`)."""
    column: str = ""
    """Column it comes from; empty when that is its name."""
    separator: str = "|"
    """Between the values of `categories` that stand in one text."""
    num_buckets: int = 10
    """Quantile buckets of `buckets`, and of `continuous` with `bucketed`."""
    bucketed: bool = False
    """Cut the number of `continuous` into buckets, too: what is learned of a bucket need not be a smooth function of it."""
    scale: Literal["linear", "log"] = "linear"
    """What of the number of `continuous` is standardised: itself; or the logarithm, for what spreads over powers of ten as
    prices and counts do (sign(x) · log(1 + |x|))."""

    def __post_init__(self) -> None:
        check(bool(self.separator), "separator", "a text")
        check(self.num_buckets > 1, "num_buckets", "at least 2")
        check(self.kind == "continuous" or not self.bucketed, "bucketed", "off but for continuous")
        check(self.kind == "continuous" or self.scale == "linear", "scale", "linear but for continuous")


@with_config(STRICT)
@dataclass(frozen=True)
class MetadataConfig(FilesConfig):
    """What is known of items or users: one row each; without `paths`, nothing."""

    id_column: str = ""
    """Column of the ids; empty when it is named as in the log."""
    features: tuple[FeatureConfig, ...] = ()
    """Features the model learns from."""
    columns: tuple[str, ...] = ()
    """Further columns kept for display and filters, such as titles (items only): a column of the files, or
    `name=column` to give it another name."""
    decimal: Literal[".", ","] = "."
    """Before the fraction of a number that stands as text: `,` reads `1,50` and `1.234,50`."""

    keep_cold: bool = True
    """Keep the rows of items that the log lacks or has too seldom, so that their features can find them (items only)."""
    available_from: str = ""
    """Column of the time from which an item may be recommended; empty for none (items only)."""
    available_until: str = ""
    """Column of the time from which it may no longer be; empty for none (items only)."""
    available_unit: Literal["", "s", "ms", "us", "ns", "iso", "order"] = ""
    """What the values of both are, as in `log.time_unit`; empty when they are as in the log."""

    @property
    def display_columns(self) -> dict[str, str]:
        """Name of each column kept for display → the column of the files."""
        parts = [column.partition("=") for column in self.columns]
        return {name: column or name for name, _, column in parts}

    @property
    def has_availability(self) -> bool:
        """Tell whether a column says when items are available."""
        return bool(self.available_from or self.available_until)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [*(feature.name for feature in self.features), *(each.partition("=")[0] for each in self.columns)]
        check(len(set(names)) == len(names), "features and columns", "of different names")
        check(bool(self.paths) or not self.has_availability, "available_from", "empty where there are no paths")


@with_config(STRICT)
@dataclass(frozen=True)
class SplitConfig:
    """How users or time are split into train, valid and test."""

    by: Literal["user", "time", "leave-one-out"] = "user"
    """By user: whole users, shuffled. By time: what happened before two points in time. Leave-one-out: of every user the last
    event is for testing, the one before it for validation, and the rest is trained on."""
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
        check(self.train_fraction > 0, "train_fraction", "above 0")
        check(self.valid_fraction >= 0, "valid_fraction", "0 or more")
        check(self.train_fraction + self.valid_fraction <= 1, "train_fraction + valid_fraction", "at most 1")
        check(0 < self.input_fraction < 1, "input_fraction", "between 0 and 1")
        ordered = 0 < self.train_before_ms <= self.valid_before_ms
        check(self.by != "time" or ordered, "train_before_ms", "above 0 and not above valid_before_ms")


@with_config(STRICT)
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
    """Keep items with so many events, counted after `max_user_events`: no single user makes an item frequent."""
    min_user_events: int = 5
    """Then keep users with so many events on kept items."""
    max_user_events: int = 2_000
    """Of each user keep the newest so many events, before items are counted; 0 for all. A person reaches 2,000 with five
    a day for a year, and no recipe reads more than 200 at once; above are mostly bots and shared accounts, whose
    every event would be trained on."""
    num_buckets: int = 24
    """Files per split; a bucket is read by one worker, and must fit into its memory. 24 are dealt evenly to 1, 2, 3, 4, 6, 8,
    12 or 24 workers; for others take a multiple of their number."""
    max_rejected_fraction: float = 0.01
    """Stop when more than this share of the log's rows is unusable."""
    overwrite: bool = False
    """Replace a dataset that is already there."""

    def __post_init__(self) -> None:
        check(self.min_item_events >= 1, "min_item_events", "at least 1")
        check(self.min_user_events >= 1, "min_user_events", "at least 1")
        check(self.max_user_events >= 0, "max_user_events", "0 or more")
        check(self.num_buckets >= 1, "num_buckets", "at least 1")
        check(0 <= self.max_rejected_fraction <= 1, "max_rejected_fraction", "between 0 and 1")
        check(
            all(f.kind in ("category", "buckets") for f in self.users.features), "users.features", "category or buckets"
        )
        check(len(self.users.features) <= MAX_PROFILE, "users.features", f"at most {MAX_PROFILE}")
        num_columns = len(self.items.features) + len(self.items.columns) + _NUM_OWN_COLUMNS
        check(num_columns <= MAX_COLUMNS, "items.features and columns", f"at most {MAX_COLUMNS - _NUM_OWN_COLUMNS}")
        check(not self.users.has_availability, "users.available_from", "empty: only items have availability")
        self._check_names()

    def _check_names(self) -> None:
        """Refuse names that a column of items or users cannot have, with one to take instead."""
        for feature in self.items.features:
            instead = f"give it name {allowed_name(feature.name)!r} and column {feature.column or feature.name!r}"
            _check_name("items.features", feature.name, column_problem(feature.name), instead)
        for name, column in self.items.display_columns.items():
            instead = f"write {f'{allowed_name(name)}={column}'!r}"
            _check_name("items.columns", name, column_problem(name), instead)
        for feature in self.users.features:
            problem = "is the name of a column that every user has already" if feature.name in USER_FIELDS else ""
            instead = f"give it another name, and column {feature.column or feature.name!r}"
            _check_name("users.features", feature.name, problem, instead)


def _check_name(setting: str, name: str, problem: str, instead: str) -> None:
    if problem:
        raise ValueError(f"{setting}: the name {name!r} {problem}: {instead}")
