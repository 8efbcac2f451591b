"""User or behaviors → candidates, the core: requests in outside ids, answered from one model version.

A user's row is read through the active version, and names it; items are searched in that version alone, so interests
and items never mix. Bare behaviors are encoded here with the same version. Several requests are one read of rows, one
call of the encoder, and as few searches as there are different filters.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa

from mind_dist.config import ServingConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import InvalidRequest, NotReady, PoisonEvent, UnknownItem, VectorStoreError
from mind_dist.index.vector_store import Vectors, VectorStore
from mind_dist.keys import IdType, id_key
from mind_dist.observability import Metrics
from mind_dist.records import Candidate, Keys
from mind_dist.retrieval import Search, Wanted, check_merging, merge, prepared, search_together
from mind_dist.serving.recall_audit import RecallAudit
from mind_dist.serving.requests import (
    Id,
    RetrieveRequest,
    RetrieveResponse,
    ScoredItem,
    SimilarUser,
    SimilarUsers,
    UserView,
)
from mind_dist.serving.searchers import Refused, Searcher, Several, row_of, searchers, user_key

A = TypeVar("A")

_ACTIVE_VERSION_KEPT_S = 1.0


class Recommender:
    """Answers requests; safe to call from many threads.

    Args:
        store: Users and items.
        encoders: The loaded model versions, by name; it may change at any time.
        config: Bounds.
        metrics: Where numbers go.
        clock: Seconds that never go back.
        audit: Searches some requests once more, exactly; None for none.
    """

    def __init__(
        self,
        store: VectorStore,
        encoders: Mapping[str, InterestEncoder],
        config: ServingConfig,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        audit: RecallAudit | None = None,
    ) -> None:
        self._store = store
        self._encoders = encoders
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._audit = audit
        self._active: InterestEncoder | None = None
        self._active_until = -math.inf
        self._looking = threading.Lock()

    def encoder(self, *, sure: bool = False) -> InterestEncoder:
        """Return the active version, or the one active before while the new one is being loaded.

        Once a second one thread looks which that is; the others go on with what they know, but for those that must be
        sure that the store answers.

        Args:
            sure: Look even though another thread does, where the last look was a second ago.

        Raises:
            NotReady: No version is active, or it is not loaded yet.
            ServiceUnavailable: The store did not answer.
        """
        is_old = self._clock() >= self._active_until
        if self._active is None or (is_old and sure):
            return self._look_again()
        if is_old and self._looking.acquire(blocking=False):
            try:
                return self._look_again()
            finally:
                self._looking.release()
        return self._active

    def id_type(self) -> IdType:
        """Return what ids are outside, which never changes in a deployment: the store is asked once, and may be away then.

        Raises:
            NotReady: As `encoder`.
            ServiceUnavailable: As `encoder`.
        """
        known = next(iter(list(self._encoders.values())), None)
        return (known or self.encoder()).manifest.id_type

    def _look_again(self) -> InterestEncoder:
        self._active = found = self._look_up()
        self._active_until = self._clock() + _ACTIVE_VERSION_KEPT_S
        return found

    def interests(self, user_id: Id) -> UserView:
        """Return what is kept of a user.

        Raises:
            UnknownUser: There is no row of the user.
            InvalidRequest: The id is not of the deployment's type.
            NotReady: As `encoder`.
            ServiceUnavailable: As `encoder`.
        """

        def view(encoder: InterestEncoder) -> UserView:
            key = user_key(encoder, user_id)
            found = self._store.get_users(encoder.model_version, [key], strong=False)
            row = row_of(encoder, user_id, found.get(key))
            return UserView(
                user_id,
                row.model_version,
                row.interests.tolist(),
                row.weights.tolist(),
                _original_ids(encoder, row.behaviors),
                row.timestamps_ms.tolist(),
                row.updated_ms,
            )

        return self._in_one_version(view)

    def retrieve(self, request: RetrieveRequest) -> RetrieveResponse:
        """Return candidates; those whose outside id is not known (a string that the catalog lacks) are left out.

        Raises:
            UnknownUser: There is no row of the user, or the version knows no item of the history or `behaviors`.
            InvalidRequest: The request is malformed.
            NotReady: As `encoder`.
            ServiceUnavailable: As `encoder`.
        """
        [answer] = self.retrieve_all([request])
        if not isinstance(answer, RetrieveResponse):
            raise answer
        return answer

    def retrieve_all(self, requests: Sequence[RetrieveRequest]) -> list[RetrieveResponse | Refused]:
        """Return the answer to each request, or why it has none; all from one model version, as each alone has it.

        Raises:
            NotReady: As `encoder`.
            ServiceUnavailable: As `encoder`.
        """
        started = self._clock()
        answers = self._in_one_version(lambda encoder: self._answers(encoder, requests))
        unknown = sum(answer.unknown_items for answer in answers if isinstance(answer, RetrieveResponse))
        self._metrics.add("mind_dist_retrieve_unknown_items", unknown)
        self._metrics.observe("mind_dist_retrieve_seconds", self._clock() - started)
        return answers

    def _answers(
        self, encoder: InterestEncoder, requests: Sequence[RetrieveRequest]
    ) -> list[RetrieveResponse | Refused]:
        several, now_ms = Several(), time.time_ns() // 1_000_000
        checked = several.each(dict(enumerate(requests)), self._checked)
        found = searchers(self._store, encoder, checked, several)
        searches = several.each(
            {place: (checked[place], who) for place, who in found.items()},
            lambda pair: self._search(encoder, *pair, now_ms),
        )
        candidates = search_together(self._store, encoder.model_version, list(searches.values()))
        if self._audit is not None:
            self._audit.offer(encoder, [search.wanted.interests for search in searches.values()])
        answers = {
            place: _response(encoder, found[place], chosen) for place, chosen in zip(searches, candidates, strict=True)
        }
        return [answers.get(place) or several.refused[place] for place in range(len(requests))]

    def _search(self, encoder: InterestEncoder, request: RetrieveRequest, who: Searcher, now_ms: int) -> Search:
        wanted = Wanted(
            who.user.vectors,
            request.limit,
            weights=who.user.weights.tolist(),
            merging=request.merging,
            exclude=who.seen.tolist() if request.exclude_seen else (),
            filter=request.filter,
            available_only=request.available_only,
            at_ms=request.at_ms,
            diversity_weight=request.diversity_weight,
            category_column=self._config.category_column or None,
        )
        return prepared(self._store, encoder.model_version, wanted, now_ms)

    def _checked(self, request: RetrieveRequest) -> RetrieveRequest:
        if (request.user_id is None) == (request.behaviors is None):
            raise InvalidRequest("give either user_id or behaviors")
        self._check_limit(request.limit)
        check_merging(request.merging, request.diversity_weight)
        if request.diversity_weight > 0 and not self._config.category_column:
            raise InvalidRequest("diversity_weight needs a category: this deployment has no category_column")
        return request

    def _check_limit(self, limit: int) -> None:
        if not 1 <= limit <= self._config.max_limit:
            raise InvalidRequest(f"limit {limit} must be between 1 and {self._config.max_limit}")

    def similar_users(self, item_id: Id, limit: int) -> SimilarUsers:
        """Return the users who have an interest nearest to an item; none whose interests all point away from it.

        Raises:
            UnknownItem: The version has no vector of the item.
            InvalidRequest: The id is not of the deployment's type, or the limit is out of range.
            NotReady: As `encoder`.
            ServiceUnavailable: As `encoder`.
        """
        self._check_limit(limit)

        def near(encoder: InterestEncoder) -> SimilarUsers:
            version = encoder.model_version
            vector = _item_vector(encoder, item_id)
            hits = self._store.search_users(version, vector, limit)
            is_int = encoder.manifest.id_type == "int64"
            users = [
                SimilarUser(each.item_key if is_int else None, each.item_key, each.score, each.interest)
                for each in merge(hits, limit)
                if each.score > 0
            ]
            return SimilarUsers(version, users)

        return self._in_one_version(near)

    def _in_one_version(self, answer: Callable[[InterestEncoder], A]) -> A:
        """Answer from the active version; once more when that one was dropped since it was looked up."""
        encoder = self.encoder()
        try:
            return answer(encoder)
        except VectorStoreError:
            renewed = self._look_again()
            if renewed is encoder:
                raise
            return answer(renewed)

    def _look_up(self) -> InterestEncoder:
        active = self._store.active_version()
        if active is None:
            raise NotReady("no model version is active: publish one")
        if active in self._encoders:
            return self._encoders[active]
        if self._active is not None and self._active.model_version in self._encoders:
            return self._active
        raise NotReady(f"version {active} is active, but not loaded here yet")


def _response(encoder: InterestEncoder, who: Searcher, candidates: Sequence[Candidate]) -> RetrieveResponse:
    return RetrieveResponse(encoder.model_version, len(who.user.vectors), who.num_unknown, _named(encoder, candidates))


def _item_vector(encoder: InterestEncoder, item_id: Id) -> Vectors:
    """Return an item's vector, [D]."""
    try:
        key = id_key(item_id, encoder.manifest.id_type)
    except PoisonEvent as error:
        raise InvalidRequest(f"item_id: {error}") from error
    at = int(np.searchsorted(encoder.item_keys, key))
    if at == len(encoder.item_keys) or encoder.item_keys[at] != key:
        raise UnknownItem(f"version {encoder.model_version} has no vector of item {item_id}")
    return np.asarray(encoder.item_vectors[at], dtype=np.float32)


def _named(encoder: InterestEncoder, candidates: Sequence[Candidate]) -> list[ScoredItem]:
    if encoder.manifest.id_type == "int64":
        return [ScoredItem(*candidate) for candidate in candidates]
    keys = np.array([candidate.item_key for candidate in candidates], dtype=np.int64)
    return [
        ScoredItem(item_id, candidate.score, candidate.interest)
        for item_id, candidate in zip(_original_ids(encoder, keys), candidates, strict=True)
        if item_id is not None
    ]


def _original_ids(encoder: InterestEncoder, keys: Keys) -> list[Id | None]:
    """Return items' outside ids; None for a string id that the catalog lacks."""
    if encoder.manifest.id_type == "int64":
        return list(keys.tolist())
    rows = encoder.catalog.rows(keys)
    return list(encoder.catalog.table["original_id"].take(pa.array(rows, mask=rows < 0)).to_pylist())
