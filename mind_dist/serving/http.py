"""HTTP → requests → JSON: the FastAPI application, which needs no Ray.

Endpoints are plain functions, so FastAPI runs them in threads: their clients block.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from starlette.exceptions import HTTPException

from mind_dist.dataset.times import FIRST_MS
from mind_dist.errors import InvalidRequest, MindDistError, PoisonEvent, UnknownUser
from mind_dist.index.filters import MAX_FILTER_VALUES
from mind_dist.keys import check_text, id_key, user_id_key
from mind_dist.log.codec import check_time
from mind_dist.retrieval import Merging
from mind_dist.serving.context_body import LONGEST_TEXT, Context
from mind_dist.serving.filter_body import FORMS, Wish, plain_filter
from mind_dist.serving.health import Problem
from mind_dist.serving.recommender import Id, Recommender, RetrieveRequest, RetrieveResponse, UserView

_MAX_EVENTS = 1000
_MAX_BEHAVIORS = 10_000
T = TypeVar("T")

_INTEGER = re.compile(r"-?[0-9]{1,19}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


BodyId = StrictInt | StrictStr


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
        max_length=_MAX_BEHAVIORS,
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


_RETRIEVE_EXAMPLES: dict[str, Any] = {
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


class EventBody(BaseModel):
    """A user touched an item."""

    model_config = ConfigDict(extra="forbid")

    user_id: BodyId = Field(examples=[196])
    item_id: BodyId = Field(examples=[242])
    timestamp_ms: StrictInt = Field(
        default_factory=_now_ms,
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

    events: list[EventBody] = Field(min_length=1, max_length=_MAX_EVENTS)


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


SendEvents = Callable[[Sequence[EventBody]], None]
"""Stores events in the log; raises `ServiceUnavailable` when it could not."""

_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "Nothing is known about the user or the items."},
    422: {"model": ErrorBody, "description": "The request is malformed."},
    503: {"model": ErrorBody, "description": "No model version is active, or a service is away."},
}


def build_api(
    recommender: Recommender,
    send_events: SendEvents,
    *,
    max_clock_skew_ms: int,
    find_problems: Callable[[], Sequence[Problem]] = tuple,
) -> FastAPI:
    """Return the application; its documentation loads nothing from the internet.

    Args:
        recommender: Answers.
        send_events: Where `POST /v1/events` puts events.
        max_clock_skew_ms: How far an event's time may lie ahead of its arrival.
        find_problems: Returns what `GET /readyz` warns of; answers at once.
    """
    summary = "Users' interests, and candidates for a ranker."
    api = FastAPIOffline(title="mind_dist", summary=summary, responses=_ERRORS, redoc_url=None)
    _add_error_handlers(api)

    @api.get("/", include_in_schema=False)
    def home() -> RedirectResponse:
        return RedirectResponse("docs")

    @api.get("/v1/users/{user_id:path}/interests")
    def interests(user_id: str) -> UserView:
        """Return a user's interest vectors and the history behind them; an id may have slashes, encoded or not."""
        return recommender.interests(_id_from_path(user_id, recommender))

    @api.post("/v1/retrieve")
    def retrieve(body: Annotated[RetrieveBody, Body(openapi_examples=_RETRIEVE_EXAMPLES)]) -> RetrieveResponse:
        """Return candidates for a user, or for a bare history, from one model version.

        Best scores first; with merging round_robin in the order of the turns, with a diversity_weight in that of the
        choices. A score is the inner product with the interest that gave the item.
        """
        return recommender.retrieve(RetrieveRequest(**{**dict(body), "filter": plain_filter(body.filter)}))

    @api.post("/v1/events", status_code=202)
    def events(body: EventsBody) -> Accepted:
        """Put events into the log; users' vectors follow within a second or so.

        The log takes events of every type. Those of a type that the active model version was not trained on change
        no vector.
        """
        _check_events(body.events, recommender, max_clock_skew_ms)
        send_events(body.events)
        return Accepted(accepted=len(body.events))

    @api.get("/healthz")
    def healthz() -> Status:
        """Tell that the process answers."""
        return Status(status="ok")

    @api.get("/readyz", responses={503: {"model": Unready, "description": "Requests are not answered."}})
    def readyz(response: Response) -> Readiness | Unready:
        """Tell that a model version is active and loaded here; 503 with the reason otherwise.

        `warnings` is what is wrong in either case: with the version that should be loaded, with the updaters.
        """
        warnings = [Warned(**dataclasses.asdict(each)) for each in find_problems()]
        try:
            version = recommender.encoder().model_version
        except MindDistError as error:
            response.status_code = 503
            return Unready(error=str(error), warnings=warnings)
        return Readiness(status="ready", model_version=version, warnings=warnings)

    return api


def _id_from_path(text: str, recommender: Recommender) -> Id:
    is_integer = recommender.encoder().manifest.id_type == "int64" and _INTEGER.fullmatch(text)
    return int(text) if is_integer else text


def _check_events(events: Sequence[EventBody], recommender: Recommender, max_clock_skew_ms: int) -> None:
    """Refuse what would be poison in the log."""
    id_type, now_ms = recommender.encoder().manifest.id_type, _now_ms()
    for at, event in enumerate(events):
        name = "user_id"
        try:
            user_id_key(_short(event.user_id), id_type)
            name = "item_id"
            id_key(_short(event.item_id), id_type)
            name = "timestamp_ms"
            check_time(_milliseconds(event.timestamp_ms), now_ms, max_clock_skew_ms)
            name = "event_type"
            check_text(_short(event.event_type))
        except PoisonEvent as error:
            raise InvalidRequest(f"events.{at}.{name}: {error}") from error


def _milliseconds(moment: int) -> int:
    """Return a time that is one in milliseconds, not in seconds."""
    if moment < FIRST_MS:
        raise PoisonEvent(f"{moment} lies before 1995: it must be in milliseconds since the epoch")
    return moment


def _short(value: T) -> T:
    """Return an id or a type that fits into a record."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise PoisonEvent(f"must have at most {LONGEST_TEXT:,} characters, not {len(value):,}")
    return value


def _add_error_handlers(api: FastAPI) -> None:
    @api.exception_handler(MindDistError)
    def known(_request: Request, error: MindDistError) -> JSONResponse:
        return _error(_status_of(error), str(error))

    @api.exception_handler(RequestValidationError)
    def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"][1:] if part not in FORMS)
        return _error(422, f"{path}: {first['msg']}" if path else str(first["msg"]))

    @api.exception_handler(HTTPException)
    def refused(_request: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail))


def _status_of(error: MindDistError) -> int:
    match error:
        case UnknownUser():
            return 404
        case InvalidRequest():
            return 422
        case _:  # NotReady, ServiceUnavailable, and a store that refuses
            return 503


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)
