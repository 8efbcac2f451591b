"""The steps of publishing a model version, in their order.

1 create · 2 fill items · 3 stage: updaters make the rows of all users · 4 verify · 5 activate · 6 retire older ones.
A failure up to 5 leaves readers where they were and removes what was made, but for items that the next try of the same
version goes on with. One publish at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

import numpy as np

from mind_dist.checkpoint import Manifest
from mind_dist.config import ModelConfig, PublishConfig
from mind_dist.dataset.item_catalog import AVAILABLE_FROM, AVAILABLE_UNTIL, ItemCatalog
from mind_dist.encoder import UserInterests
from mind_dist.errors import LeaseLost, MindDistError, PublishError
from mind_dist.index.vector_store import Column, Filter, Vectors, VectorStore, VersionInfo
from mind_dist.publishing.catching_up import CatchUp, wait_for_users
from mind_dist.publishing.compatibility import check_compatible
from mind_dist.publishing.filling import fill_items
from mind_dist.publishing.item_columns import item_columns
from mind_dist.publishing.item_map import map_columns
from mind_dist.publishing.one_at_a_time import Lease, only_publisher
from mind_dist.publishing.report import PublishReport
from mind_dist.publishing.rollback import age
from mind_dist.publishing.verification import GATE_METRIC, InterestSample, ann_recall, check_recall, skew_recall
from mind_dist.records import MAX_TIES, BehaviorSequence, Keys
from mind_dist.retrieval import available_at, has_availability

logger = logging.getLogger(__name__)

_SAMPLED = 10
"""Rows looked at for each one that the index is tried with."""

Advance = Callable[[str, int], None]
"""(step, how many are done), for progress bars."""


class Encoder(Protocol):
    """A model version at work, as `mind_dist.encoder.InterestEncoder` is."""

    @property
    def manifest(self) -> Manifest:
        """What the version is."""
        ...

    @property
    def config(self) -> ModelConfig:
        """Its model."""
        ...

    @property
    def max_behaviors(self) -> int:
        """The longest history it reads."""
        ...

    @property
    def catalog(self) -> ItemCatalog:
        """Its items' columns."""
        ...

    @property
    def item_keys(self) -> Keys:
        """Items that have a vector, ascending, [N]."""
        ...

    @property
    def item_vectors(self) -> Vectors:
        """Their vectors as searched, [N, D]."""
        ...

    def encode(self, sequences: Sequence[BehaviorSequence]) -> Sequence[UserInterests]:
        """Return each user's interests."""
        ...


def publish(
    store: VectorStore,
    encoder: Encoder,
    uri: str,
    config: PublishConfig | None = None,
    *,
    metrics: Mapping[str, float] | None = None,
    catch_up: CatchUp | None = None,
    advance: Advance = lambda _step, _done: None,
    sleep: Callable[[float], None] = time.sleep,
) -> PublishReport:
    """Bring a model version to readers.

    Its users' rows are made by the updaters, from the states, while they go on with those of the active version.

    Args:
        store: The index.
        encoder: The version.
        uri: The version's directory, for updaters to load.
        config: What it must show; None for the defaults.
        metrics: What it was evaluated with, beside its manifest's metrics.
        catch_up: Asked once a second after staging until it says yes; None where no users are waited for.
        advance: Told how far filling is.
        sleep: Waits between the questions to `catch_up`, and between looks at the lock of another publish.

    Raises:
        PublishError: The version does not pass, readers of the active one cannot go on with it, updaters did not
            catch up in time, or another publish is under way.
    """
    config = config or PublishConfig()
    with only_publisher(store.publish_lock(), config.lease_s, sleep) as lease:
        return publish_under(
            lease, store, encoder, uri, config, metrics=metrics, catch_up=catch_up, advance=advance, sleep=sleep
        )


def publish_under(
    lease: Lease,
    store: VectorStore,
    encoder: Encoder,
    uri: str,
    config: PublishConfig,
    *,
    metrics: Mapping[str, float] | None = None,
    catch_up: CatchUp | None = None,
    advance: Advance = lambda _step, _done: None,
    sleep: Callable[[float], None] = time.sleep,
) -> PublishReport:
    """Bring a model version to readers, as `publish` does, for whoever has the publishers' lock."""
    started = time.monotonic()
    active = store.active_version()
    if active == encoder.manifest.model_version:
        return PublishReport(active, already_active=True)
    known = {info.model_version: info for info in store.versions()}
    run = _Run(store, encoder, config, known[active] if active else None, advance)
    with run.withdrawn_on_failure():
        columns = item_columns(encoder.catalog, encoder.item_keys, encoder.manifest.id_type)
        columns |= map_columns(encoder.item_vectors)
        newest_ms = max((info.published_ms for info in known.values()), default=0)
        published_ms = max(newest_ms + 1, time.time_ns() // 1_000_000)
        info = _describe(encoder, uri, metrics or {}, tuple(columns), published_ms)
        run.create(info)
        run.fill_items({column.name: values for column, values in columns.items()})
        run.stage(catch_up, sleep)
        found, skew = run.verify(), run.compare()
        lease.check()
        run.activate()
    return PublishReport(
        model_version=info.model_version,
        previous_version=active,
        num_items=len(encoder.item_keys),
        num_available=int(run.available.sum()),
        num_unknown_items=len(np.setdiff1d(encoder.catalog.keys, encoder.item_keys)),
        num_users=store.count_users(info.model_version),
        ann_recall=found,
        recall=info.metrics.get(GATE_METRIC),
        skew_recall=skew,
        retired=run.retire(),
        wall_s=time.monotonic() - started,
    )


def _describe(
    encoder: Encoder, uri: str, metrics: Mapping[str, float], columns: tuple[Column, ...], published_ms: int
) -> VersionInfo:
    manifest = encoder.manifest
    return VersionInfo(
        model_version=manifest.model_version,
        dim=encoder.config.dim,
        num_interests=encoder.config.num_interests,
        similarity="cosine" if encoder.config.normalize else "inner_product",
        uri=uri,
        max_behaviors=encoder.max_behaviors + MAX_TIES,
        id_type=manifest.id_type,
        step=manifest.step,
        watermark_ms=manifest.watermark_ms,
        metrics={**manifest.metrics, **metrics},
        columns=columns,
        published_ms=published_ms,
        num_items=len(encoder.item_keys),
        behavior_features=encoder.config.behavior_features,
        event_types=manifest.event_types,
    )


class _Run:
    """One publish under way."""

    def __init__(
        self,
        store: VectorStore,
        encoder: Encoder,
        config: PublishConfig,
        previous: VersionInfo | None,
        advance: Advance,
    ) -> None:
        self.available = np.ones(len(encoder.item_keys), dtype=np.bool_)
        self._filter: Filter | None = None
        self._store = store
        self._encoder = encoder
        self._config = config
        self._version = encoder.manifest.model_version
        self._previous = previous
        self._advance = advance
        self._sample = InterestSample(config.ann_sample)
        self._info: VersionInfo | None = None
        self._goes_on = False
        self._switching = False

    def create(self, info: VersionInfo) -> None:
        """1: make its places: empty ones, but for items that an earlier try has written.

        Users that an earlier try has left may have been forgotten since.
        """
        check_compatible(info, self._previous, self._config)
        check_recall(info, self._previous, self._config)
        if self._store.staged_version() == self._version:
            self._store.stage(None)
        self._info = info
        self._goes_on = self._store.renew_version(info)

    def fill_items(self, columns: Mapping[str, list[Any]]) -> None:
        """2: write the items that are not there, and count them and those that are available now."""
        keys, vectors = self._encoder.item_keys, self._encoder.item_vectors
        if not len(keys):
            raise PublishError(f"{self._version} has no items")
        fill_items(
            self._store,
            self._version,
            (keys, vectors),
            columns,
            self._config,
            goes_on=self._goes_on,
            advance=lambda done: self._advance("items", done),
        )
        self._check_count("items", self._store.count_items(self._version), len(keys))
        if self._info is not None and has_availability(self._info):
            now_ms = time.time_ns() // 1_000_000
            from_ms, until_ms = (np.array(columns[name], dtype=np.int64) for name in (AVAILABLE_FROM, AVAILABLE_UNTIL))
            self.available = (from_ms <= now_ms) & (now_ms < until_ms)
            self._filter = available_at(now_ms)

    def _check_count(self, what: str, found: int, written: int) -> None:
        if found != written:
            raise PublishError(f"{self._version}: {written} {what} were written, the store counts {found}")

    def stage(self, catch_up: CatchUp | None, sleep: Callable[[float], None]) -> None:
        """3: let updaters make the users' rows, and wait until all are there."""
        assert self._info is not None
        self._store.stage(self._version)
        if catch_up is not None and self._config.wait_for_users:
            wait_for_users(self._info, catch_up, self._config, sleep)
        rows = islice(self._store.scan_users(self._version), _SAMPLED * self._config.ann_sample)
        for row in rows:
            self._sample.offer(row.interests)

    def verify(self) -> float:
        """4: return the share of the exact best items that the finished index finds, searched as readers search it."""
        self._store.settle_items(self._version)
        items = self._encoder.item_vectors
        queries = self._sample.queries()
        some = bool(self.available.any())  # else readers find nothing now, and what the index finds of all has to do
        all_of_them = self.available.all() or not some
        searched = slice(None) if all_of_them else self.available
        found = ann_recall(
            self._store,
            self._version,
            items[: self._config.ann_sample] if queries is None else queries,
            self._encoder.item_keys[searched],
            items[searched],
            limit=self._config.ann_limit,
            filter=self._filter if some else None,
        )
        if found < self._config.min_ann_recall:
            bound = self._config.min_ann_recall
            problem = f"the index of {self._version} finds {found:.1%} of the best items, {bound:.1%} needed"
            raise PublishError(f"{problem}: raise milvus.search_ef or milvus.hnsw_m, or set milvus.index to FLAT")
        return found

    def compare(self) -> float | None:
        """4: return the share of what users are to get which they would get if the versions were mixed."""
        if self._previous is None or self._previous.dim != self._encoder.config.dim:
            return None
        before = islice(self._store.scan_users(self._previous.model_version), self._config.ann_sample)
        others = {row.user_key: row.interests for row in before}
        own = self._store.get_users(self._version, list(others), strong=True)
        pairs = [(row.interests, others[key]) for key, row in own.items()]
        return skew_recall(pairs, self._encoder.item_vectors, limit=self._config.ann_limit)

    def activate(self) -> None:
        """5: move readers."""
        self._switching = True
        self._store.activate(self._version)

    def retire(self) -> tuple[str, ...]:
        """6: drop what is older than the versions kept, and let the server's memory go of those that stay.

        But for the version just left: requests that began on it end there, and a rollback finds it ready. What is newer than the version just left was rolled back from, or left by a publish that died: it is no
        place to go back to, and is dropped as well.
        """
        self._store.stage(None)
        others = [info for info in self._store.versions() if info.model_version != self._version]
        left_ms = self._previous.published_ms if self._previous else -1
        older = sorted((info for info in others if info.published_ms <= left_ms), key=age)
        kept = {info.model_version for info in older[len(older) - self._config.keep :]} if self._config.keep else set()
        retired = tuple(info.model_version for info in others if info.model_version not in kept)
        for version in retired:
            self._store.drop_version(version)
        for version in kept - {self._previous.model_version if self._previous else ""}:
            self._store.release_version(version)
        return retired

    @contextmanager
    def withdrawn_on_failure(self) -> Iterator[None]:
        """Put readers back and remove the version when a step fails, and let the failure out.

        Its items stay for the next try, unless the version did not pass. A version that is another publisher's by now
        is left to that one.
        """
        try:
            yield
        except LeaseLost:
            raise
        except BaseException as error:
            try:
                self._withdraw(keep_items=not isinstance(error, PublishError))
            except MindDistError as error:
                fields = {"model_version": self._version, "error": error}
                logger.warning("half-made version was left in the store", extra={"fields": fields})
            raise

    def _withdraw(self, *, keep_items: bool) -> None:
        if self._info is None:
            return
        if self._switching and self._previous is not None:
            self._store.activate(self._previous.model_version)
        if self._store.active_version() == self._version:
            return  # it passed, and there is nothing to go back to
        if self._store.staged_version() == self._version:
            self._store.stage(None)
        self._store.drop_version(self._version, keep_items=keep_items)
