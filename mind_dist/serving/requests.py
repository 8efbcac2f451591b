"""Requests for candidates and for users, and their answers, in outside ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mind_dist.index.vector_store import Filter
from mind_dist.keys import Value
from mind_dist.retrieval import Merging

Id = int | str
"""An outside id."""


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


@dataclass(frozen=True)
class SimilarUser:
    """A user near an item.

    Attributes:
        user_id: The user; None where ids are strings, of which a user's row keeps the fingerprint alone.
        user_key: The key of the user's row.
        score: Inner product of the item and the user's best interest for it.
        interest: Index of that interest.
    """

    user_id: int | None
    user_key: int
    score: float
    interest: int


@dataclass(frozen=True)
class SimilarUsers:
    """Users near an item.

    Attributes:
        model_version: The version that item and interests are of.
        users: Best first.
    """

    model_version: str
    users: Sequence[SimilarUser]
