"""Bodies of requests and answers over HTTP: how they are read and documented."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from mind_dist.config.http import MOST_BEHAVIORS, MOST_EVENTS, MOST_REQUESTS
from mind_dist.index.filters import MAX_FILTER_VALUES
from mind_dist.limits import MAX_COLUMNS
from mind_dist.retrieval import Merging
from mind_dist.serving.context_body import Context
from mind_dist.serving.filter_body import Wish
from mind_dist.serving.requests import RetrieveResponse

BodyId = StrictInt | StrictStr
"""An outside id."""


class ErrorBody(BaseModel):
    """What every error answers."""

    error: str = Field(examples=["nothing is known about user 7: send behaviors instead"])


class RetrieveBody(BaseModel):
    """Whose candidates, how many, and of what kind. Give either `user_id` or `behaviors`."""

    model_config = ConfigDict(extra="forbid")

    user_id: BodyId | None = Field(None, description="A user whose events were seen.", examples=[196])
    behaviors: list[BodyId] | None = Field(
        None,
        min_length=1,
        max_length=MOST_BEHAVIORS,
        description="Item ids, oldest first, in place of a user; unknown ones are ignored and counted.",
        examples=[None],
    )
    limit: int = Field(100, description="Most candidates.", examples=[10])
    merging: Merging = Field(
        "max",
        description="How interests share the candidates. max: the best scores, whichever interest gives them. budget: "
        "of each interest as many as its share of the behaviors says, at least one. round_robin: one of each in turn, "
        "the interest with the largest share first.",
        examples=["max"],
    )
    diversity_weight: float = Field(
        0.0,
        description="0: best scores alone; larger: more categories. Above 0 with merging max only.",
        examples=[0.0],
    )
    exclude_seen: bool = Field(True, description="Leave out the items of the history.")
    filter: dict[str, Wish] = Field(
        default_factory=dict,
        max_length=MAX_COLUMNS,
        description="Column of the item catalog → a value, a list (any of it), or operators, which must all hold. A "
        "missing value is in no list and no range. Of several texts (genres) any may be `in`, and none may be "
        f"`not_in`. At most {MAX_FILTER_VALUES:,} values in all.",
        examples=[{}, {"price": {"lt": 20}, "genre": ["drama", "war"], "brand": {"null": False}}],
    )
    available_only: bool = Field(
        True,
        description="Leave out items that are not available, where the catalog has `available_from` and "
        "`available_until` (an item is when from <= moment < until).",
    )
    at_ms: int | None = Field(
        None,
        ge=0,
        lt=1 << 63,
        description="The moment at which they must be available, in milliseconds since the epoch; now where missing.",
        examples=[None],
    )
    context: Context | None = Field(
        None,
        description="What is known of the moment, by the names that the model version was trained with (page, device): "
        "the interests of just that. A value that training has not seen counts as not given.",
        examples=[None],
    )


RETRIEVE_EXAMPLES: dict[str, Any] = {
    "user": {"summary": "Candidates for a user", "value": {"user_id": 196, "limit": 10}},
    "behaviors": {"summary": "Candidates for a bare history", "value": {"behaviors": [242, 302, 377], "limit": 10}},
    "filter": {
        "summary": "Only some items: ranges, lists and missing values of the catalog's columns",
        "value": {
            "user_id": 196,
            "filter": {
                "price": {"gte": 5, "lt": 20},
                "genre": ["drama", "war"],
                "brand": {"not_in": ["acme"], "null": False},
            },
        },
    },
}


class BatchBody(BaseModel):
    """Several requests, to be answered from one model version."""

    model_config = ConfigDict(extra="forbid")

    requests: list[RetrieveBody] = Field(
        min_length=1, max_length=MOST_REQUESTS, examples=[[{"user_id": 196, "limit": 10}, {"user_id": 22, "limit": 10}]]
    )


class NoAnswer(ErrorBody):
    """Why one of several requests has no answer, and the status it would have alone."""

    status: int = Field(examples=[404])


class BatchAnswers(BaseModel):
    """An answer to each request, in their order."""

    answers: list[RetrieveResponse | NoAnswer]


class SimilarUsersBody(BaseModel):
    """How many users."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(description="Most users.", examples=[10])] = 100


class EventBody(BaseModel):
    """A user touched an item."""

    model_config = ConfigDict(extra="forbid")

    user_id: BodyId = Field(examples=[196])
    item_id: BodyId = Field(examples=[242])
    timestamp_ms: StrictInt | None = Field(
        None,
        ge=0,
        lt=1 << 63,
        description="Milliseconds since the epoch, not in the future; now where missing.",
        examples=[1_700_000_000_000],
    )
    event_type: str = Field(
        "click",
        description="What the user did. Vectors follow events of the types that the model version was trained on.",
        examples=["click"],
    )
    context: Context = Field(
        default_factory=dict,
        description="What is known of the moment and of the behavior, by name: page, device, hour.",
        examples=[{}],
    )


class EventsBody(BaseModel):
    """Events, in order."""

    model_config = ConfigDict(extra="forbid")

    events: list[EventBody] = Field(min_length=1, max_length=MOST_EVENTS)


class Accepted(BaseModel):
    """How many events the log has stored."""

    accepted: int


class Status(BaseModel):
    """How the process is."""

    status: str


class Warned(BaseModel):
    """Something that is wrong though requests are answered."""

    name: str = Field(examples=["lag_growing"])
    source: str = Field(description="Whose it is: a model version, or a part of the service.", examples=["updater"])
    message: str


class Readiness(BaseModel):
    """That requests are answered, and what is wrong all the same."""

    status: str
    model_version: str
    warnings: list[Warned]


class Unready(ErrorBody):
    """Why requests are not answered."""

    warnings: list[Warned]
