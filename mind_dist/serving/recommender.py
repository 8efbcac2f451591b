"""User or behaviors → candidates, the core: requests in outside ids, answered from one model version.

A user's row is read through the active version, and names it; items are searched in that version alone, so interests
and items never mix. Bare behaviors are encoded here with the same version.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa

from mind_dist.config import ServingConfig
from mind_dist.encoder import InterestEncoder, UserInterests
from mind_dist.errors import InvalidRequest, NotReady, PoisonEvent, UnknownUser, VectorStoreError
from mind_dist.index.vector_store import Filter, UserRow, VectorStore
from mind_dist.keys import Value, context_key, id_key, value_text
from mind_dist.observability import Metrics
from mind_dist.records import BehaviorSequence, Candidate, Keys, no_keys
from mind_dist.retrieval import Merging, check_merging, retrieve

Id = int | str
"""An outside id."""

A = TypeVar("A")

_ACTIVE_VERSION_KEPT_S = 1.0


@dataclass(frozen=True)
class RetrieveRequest:
    """Whose candidates, how many, and of what kind.

    Attributes:
        user_id: A user with a row; or None, with `behaviors`.
        behaviors: Item ids, oldest first, in place of a user; unknown ones are ignored and counted.
        limit: Most candidates to return.
        merging: `max` for the best scores, whichever interest gives them; `budget` for as many items of each interest
            as its share of the behaviors says; `round_robin` for one of each interest in turn.
        diversity_weight: 0 for the best scores alone; the larger, the more categories are mixed. With `max` only.
        exclude_seen: Leave out the items in the user's history or in `behaviors`.
        filter: Column → what candidates must hold there: a value, any of several, or operators (ranges and others).
        available_only: Leave out items that are not available, where the catalog says when they are.
        at_ms: The moment at which they must be, in milliseconds since the epoch; None for now, by this server's clock.
        context: What is known of the moment, by name, for a version that is asked in a context: the user's behaviors
            are encoded anew with it. None for no context; a value that training has not seen counts as not given.
    """

    user_id: Id | None = None
    behaviors: Sequence[Id] | None = None
    limit: int = 100
    merging: Merging = "max"
    diversity_weight: float = 0.0
    exclude_seen: bool = True
    filter: Filter = field(default_factory=dict)
    available_only: bool = True
    at_ms: int | None = None
    context: Mapping[str, Value] | None = None


@dataclass(frozen=True)
class ScoredItem:
    """One candidate: the item's outside id, the index of the interest that gave it, and its score for that interest."""

    item_id: Id
    score: float
    interest: int


@dataclass(frozen=True)
class RetrieveResponse:
    """Candidates.

    Attributes:
        model_version: The version that interests and items are of.
        num_interests: How many interests were searched with.
        unknown_items: Behaviors of the request whose item the version does not know.
        candidates: Best first; in the order of the turns for `round_robin`, of the choices with a diversity_weight.
    """

    model_version: str
    num_interests: int
    unknown_items: int
    candidates: Sequence[ScoredItem]


@dataclass(frozen=True)
class UserView:
    """What is kept of a user, in outside ids.

    Attributes:
        user_id: The user.
        model_version: The version the interests are of.
        interests: Interest vectors.
        weights: Share of the history behind each.
        behaviors: Item ids, oldest first; None for a string id that the catalog lacks.
        timestamps_ms: Their times.
        updated_ms: When the row was computed.
    """

    user_id: Id
    model_version: str
    interests: Sequence[Sequence[float]]
    weights: Sequence[float]
    behaviors: Sequence[Id | None]
    timestamps_ms: Sequence[int]
    updated_ms: int


class Recommender:
    """Answers requests; safe to call from many threads.

    Args:
        store: Users and items.
        encoders: The loaded model versions, by name; it may change at any time.
        config: Bounds.
        metrics: Where numbers go.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        store: VectorStore,
        encoders: Mapping[str, InterestEncoder],
        config: ServingConfig,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._encoders = encoders
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._active: InterestEncoder | None = None
        self._active_until = -math.inf

    def encoder(self) -> InterestEncoder:
        """Return the active version, or the one active before while the new one is being loaded.

        Raises:
            NotReady: No version is active, or it is not loaded yet.
            ServiceUnavailable: The store did not answer.
        """
        if self._active is None or self._clock() >= self._active_until:
            self._active = self._look_up()
            self._active_until = self._clock() + _ACTIVE_VERSION_KEPT_S
        return self._active

    def interests(self, user_id: Id) -> UserView:
        """Return what is kept of a user.

        Raises:
            UnknownUser: There is no row of the user.
            InvalidRequest: The id is not of the deployment's type.
            NotReady: As `encoder`.
            ServiceUnavailable: As `encoder`.
        """

        def view(encoder: InterestEncoder) -> UserView:
            row = self._row(encoder, user_id)
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
        started = self._clock()
        self._check(request)
        response = self._in_one_version(lambda encoder: self._answer(encoder, request))
        self._metrics.add("mind_dist_retrieve_unknown_items", response.unknown_items)
        self._metrics.observe("mind_dist_retrieve_seconds", self._clock() - started)
        return response

    def _answer(self, encoder: InterestEncoder, request: RetrieveRequest) -> RetrieveResponse:
        context_keys = _context_keys(encoder, request.context or {})
        if request.user_id is not None:
            row = self._row(encoder, request.user_id)
            if not len(row.interests):
                version = encoder.model_version
                raise UnknownUser(f"user {request.user_id} is there, but version {version} knows none of their items")
            user, seen, num_unknown = _interests(encoder, row, context_keys), row.behaviors, 0
        else:
            user, seen, num_unknown = _encode(encoder, request.behaviors or (), context_keys)
        candidates = retrieve(
            self._store,
            encoder.model_version,
            user.vectors,
            request.limit,
            weights=user.weights.tolist(),
            merging=request.merging,
            exclude=seen.tolist() if request.exclude_seen else (),
            filter=request.filter,
            available_only=request.available_only,
            at_ms=request.at_ms,
            diversity_weight=request.diversity_weight,
            category_column=self._config.category_column or None,
        )
        return RetrieveResponse(encoder.model_version, len(user.vectors), num_unknown, _named(encoder, candidates))

    def _check(self, request: RetrieveRequest) -> None:
        if (request.user_id is None) == (request.behaviors is None):
            raise InvalidRequest("give either user_id or behaviors")
        if not 1 <= request.limit <= self._config.max_limit:
            raise InvalidRequest(f"limit {request.limit} must be between 1 and {self._config.max_limit}")
        check_merging(request.merging, request.diversity_weight)
        if request.diversity_weight > 0 and not self._config.category_column:
            raise InvalidRequest("diversity_weight needs a category: this deployment has no category_column")

    def _row(self, encoder: InterestEncoder, user_id: Id) -> UserRow:
        try:
            user_key = id_key(user_id, encoder.manifest.id_type)
        except PoisonEvent as error:
            raise InvalidRequest(f"user_id: {error}") from error
        row = self._store.get_users(encoder.model_version, [user_key], strong=False).get(user_key)
        if row is None:
            raise UnknownUser(f"nothing is known about user {user_id}: send behaviors instead")
        assert row.model_version == encoder.model_version, "a row's interests fit the items of its own version alone"
        return row

    def _in_one_version(self, answer: Callable[[InterestEncoder], A]) -> A:
        """Answer from the active version; once more when that one was dropped since it was looked up."""
        encoder = self.encoder()
        try:
            return answer(encoder)
        except VectorStoreError:
            self._active_until = -math.inf
            if self.encoder() is encoder:
                raise
            return answer(self.encoder())

    def _look_up(self) -> InterestEncoder:
        active = self._store.active_version()
        if active is None:
            raise NotReady("no model version is active: publish one")
        if active in self._encoders:
            return self._encoders[active]
        if self._active is not None and self._active.model_version in self._encoders:
            return self._active
        raise NotReady(f"version {active} is active, but not loaded here yet")


def _context_keys(encoder: InterestEncoder, context: Mapping[str, Value]) -> Keys:
    """Return the keys of a context; none where nothing is told.

    Raises:
        InvalidRequest: The version knows no context of that name.
    """
    names = encoder.config.context_features
    if unknown := [name for name in context if name not in names]:
        known = f"it knows {', '.join(names)}" if names else "it was trained without any"
        raise InvalidRequest(f"context.{unknown[0]}: version {encoder.model_version} knows no such context; {known}")
    if not context:
        return no_keys()
    return np.array([context_key(name, value_text(context.get(name))) for name in names], dtype=np.int64)


def _interests(encoder: InterestEncoder, row: UserRow, context_keys: Keys) -> UserInterests:
    """Return a user's interests: those of the row, or encoded anew in a context."""
    if not len(context_keys):
        return UserInterests(row.interests, row.weights)
    history = BehaviorSequence(
        row.user_key, row.behaviors, row.timestamps_ms, row.profile, row.behavior_keys, context_keys=context_keys
    )
    return encoder.encode([history])[0]


def _encode(encoder: InterestEncoder, behaviors: Sequence[Id], context_keys: Keys) -> tuple[UserInterests, Keys, int]:
    """Return the interests of a bare history, its known items, and the number of unknown ones."""
    try:
        keys = np.array([id_key(item_id, encoder.manifest.id_type) for item_id in behaviors], dtype=np.int64)
    except PoisonEvent as error:
        raise InvalidRequest(f"behaviors: an item id {error}") from error
    known = keys[encoder.knows(keys)]
    if not len(known):
        raise UnknownUser(f"version {encoder.model_version} knows none of the {len(keys)} behaviors")
    missing_profile = np.zeros(encoder.config.num_profile_features, dtype=np.int64)
    history = BehaviorSequence(0, known, np.arange(len(known)), missing_profile, context_keys=context_keys)
    return encoder.encode([history.last(encoder.max_behaviors)])[0], known, len(keys) - len(known)


def _named(encoder: InterestEncoder, candidates: Sequence[Candidate]) -> list[ScoredItem]:
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
