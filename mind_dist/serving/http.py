"""HTTP → requests → JSON: the FastAPI application, which needs no Ray.

Endpoints wait for nothing themselves: each kind of work runs in its own lane (`serving/lanes`), so that a log that is away
slows neither candidates nor health.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from mind_dist.config import HttpConfig
from mind_dist.errors import InvalidRequest, MindDistError
from mind_dist.serving.answers import error_response, json_response, refusal, status_of
from mind_dist.serving.bodies import (
    RETRIEVE_EXAMPLES,
    Accepted,
    BatchAnswers,
    BatchBody,
    ErrorBody,
    EventsBody,
    Readiness,
    RetrieveBody,
    SimilarUsersBody,
    Status,
    Unready,
    Warned,
)
from mind_dist.serving.event_requests import EventRequests, SendEvents
from mind_dist.serving.filter_body import FORMS, plain_filter
from mind_dist.serving.gate import Gate
from mind_dist.serving.health import Problem
from mind_dist.serving.idempotency import LONGEST_KEY
from mind_dist.serving.lanes import Lane
from mind_dist.serving.rate import RateLimit
from mind_dist.serving.recommender import Recommender
from mind_dist.serving.requests import Id, RetrieveRequest, RetrieveResponse, SimilarUsers, UserView

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_READINESS_THREADS, _READINESS_WAITING = 2, 16

_REASONS = {
    401: "The service has a token, and the request another one or none.",
    404: "Nothing is known about the user or the items.",
    409: "A request with the same Idempotency-Key is being worked on.",
    413: "The body is too large.",
    422: "The request is malformed, or asks for too much at once.",
    429: "More requests or events a second than are taken; Retry-After says when to try again.",
    503: "No model version is active, a service is away, or too much is under way; try again after Retry-After.",
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody, "description": _REASONS[status]} for status in statuses}


class _Lanes:
    """The kinds of work."""

    def __init__(self, limits: HttpConfig) -> None:
        self.retrieve = Lane("retrieve", limits.retrieve_threads, limits.max_waiting)
        self.events = Lane("events", limits.events_threads, limits.max_waiting)
        self.readiness = Lane("readiness", _READINESS_THREADS, _READINESS_WAITING)


def most_at_once(limits: HttpConfig) -> int:
    """Return how many requests may be under way in all lanes together."""
    threads = limits.retrieve_threads + limits.events_threads + _READINESS_THREADS
    return threads + 2 * limits.max_waiting + _READINESS_WAITING


def build_api(
    recommender: Recommender,
    send_events: SendEvents,
    *,
    max_clock_skew_ms: int,
    limits: HttpConfig | None = None,
    token: str = "",
    find_problems: Callable[[], Sequence[Problem]] = tuple,
) -> FastAPI:
    """Return the application; its documentation loads nothing from the internet.

    Args:
        recommender: Answers.
        send_events: Where `POST /v1/events` puts events.
        max_clock_skew_ms: How far an event's time may lie ahead of its arrival.
        limits: What a request may ask for, and how many at once; None for the defaults.
        token: What requests under /v1 must carry as bearer token; empty for nothing.
        find_problems: Returns what `GET /readyz` warns of; answers at once.
    """
    limits = limits or HttpConfig()
    lanes, rate = _Lanes(limits), RateLimit(limits.requests_per_s, "requests")
    summary = "Users' interests, and candidates for a ranker."
    api = FastAPIOffline(title="mind_dist", summary=summary, redoc_url=None)
    api.router.route_class = _Route
    _add_error_handlers(api)
    _add_health(api, recommender, lanes.readiness, find_problems)
    documented = [Depends(HTTPBearer(auto_error=False))] if token else []  # the gate looks at it
    guarded = APIRouter(
        prefix="/v1", route_class=_Route, dependencies=documented, responses=_errors(401, 404, 413, 422, 429, 503)
    )
    _add_retrieval(guarded, recommender, lanes.retrieve, limits.max_batch, rate)
    _add_events(guarded, EventRequests(recommender, send_events, limits, max_clock_skew_ms), lanes.events)
    api.include_router(guarded)
    api.add_middleware(Gate, token=token, max_body_bytes=limits.max_body_bytes, rate=rate)
    return api


def _add_retrieval(router: APIRouter, recommender: Recommender, lane: Lane, max_batch: int, rate: RateLimit) -> None:
    @router.get("/users/{user_id:path}/interests", response_model=UserView)
    async def interests(user_id: str) -> Response:
        """Return a user's interest vectors and the history behind them; an id may have slashes, encoded or not."""
        return await lane.run(lambda: json_response(recommender.interests(_id_from_path(user_id, recommender))))

    @router.post("/retrieve", response_model=RetrieveResponse)
    async def retrieve(body: Annotated[RetrieveBody, Body(openapi_examples=RETRIEVE_EXAMPLES)]) -> Response:
        """Return candidates for a user, or for a bare history, from one model version.

        Best scores first; with merging round_robin in the order of the turns, with a diversity_weight in that of the
        choices. A score is the inner product with the interest that gave the item.
        """
        return await lane.run(lambda: json_response(recommender.retrieve(request_of(body))))

    @router.post("/retrieve/batch", response_model=BatchAnswers)
    async def retrieve_batch(body: BatchBody) -> Response:
        """Return the answer to each of several requests, in their order, all from one model version.

        Users are read together, bare histories encoded together, and those with the same filter searched together. One
        that has no answer has an `error` and a `status` in its place, as it would alone.
        """
        if len(body.requests) > max_batch:
            raise InvalidRequest(f"requests: {len(body.requests)} of them, at most {max_batch} (http.max_batch)")
        rate.owe(len(body.requests) - 1)  # the gate has taken one
        requests = [request_of(each) for each in body.requests]
        return await lane.run(
            lambda: json_response({"answers": [_batch_answer(each) for each in recommender.retrieve_all(requests)]})
        )

    @router.post("/items/{item_id:path}/users", response_model=SimilarUsers)
    async def similar_users(item_id: str, body: SimilarUsersBody | None = None) -> Response:
        """Return the users with an interest nearest to an item, best first, with the score and the interest.

        All users are looked at, exactly: it takes longer the more there are. Where ids are strings a user is named by
        `user_key` alone, the fingerprint of the id.
        """
        limit = (body or SimilarUsersBody()).limit
        return await lane.run(
            lambda: json_response(recommender.similar_users(_id_from_path(item_id, recommender), limit))
        )


def _add_events(router: APIRouter, intake: EventRequests, lane: Lane) -> None:
    @router.post("/events", status_code=202, responses=_errors(409))
    async def events(
        body: EventsBody,
        idempotency_key: Annotated[
            str | None,
            Header(
                description="Names this request, so that one sent again is known: while this replica remembers the key, "
                "events that it has acknowledged are not stored again, and those without a time get the same time at "
                f"each try. 1 to {LONGEST_KEY} printable ASCII characters; another body under a key is refused. It is "
                "a header of each record, too.",
            ),
        ] = None,
    ) -> Accepted:
        """Put events into the log; users' vectors follow within a second or so.

        The log takes events of every type. Those of a type that the active model version was not trained on change
        no vector. After a 503 any part of the events may be stored; sent again with the same times they change nothing
        a second time.
        """
        await lane.run(lambda: intake.take(body.events, idempotency_key))
        return Accepted(accepted=len(body.events))


def _add_health(
    api: FastAPI, recommender: Recommender, lane: Lane, find_problems: Callable[[], Sequence[Problem]]
) -> None:
    @api.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("docs")

    @api.get("/healthz")
    async def healthz() -> Status:
        """Tell that the process answers."""
        return Status(status="ok")

    @api.get("/readyz", responses={503: {"model": Unready, "description": "Requests are not answered."}})
    async def readyz(response: Response) -> Readiness | Unready:
        """Tell that a model version is active and loaded here; 503 with the reason otherwise.

        `warnings` is what is wrong in either case: with the version that should be loaded, with the updaters.
        """
        warnings = [Warned(**dataclasses.asdict(each)) for each in find_problems()]
        try:
            version = await lane.run(lambda: recommender.encoder(sure=True).model_version)
        except MindDistError as error:
            response.status_code = 503
            return Unready(error=str(error), warnings=warnings)
        return Readiness(status="ready", model_version=version, warnings=warnings)


def request_of(body: RetrieveBody) -> RetrieveRequest:
    """Return a request as the library takes it."""
    return RetrieveRequest(**{**dict(body), "filter": plain_filter(body.filter)})


def _batch_answer(answer: RetrieveResponse | MindDistError) -> dict[str, Any]:
    """Return one answer of several: as it would be alone, or its error and status."""
    if isinstance(answer, RetrieveResponse):
        return dataclasses.asdict(answer)
    return {"error": str(answer), "status": status_of(answer)}


def _id_from_path(text: str, recommender: Recommender) -> Id:
    is_integer = recommender.encoder().manifest.id_type == "int64" and _INTEGER.fullmatch(text)
    return int(text) if is_integer else text


class _JsonRequest(Request):
    """A request whose body is malformed, too, where Python gives up on it: numbers of 5,000 digits, 1,000 brackets."""

    async def json(self) -> Any:
        """Return the body's values."""
        try:
            return await super().json()
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class _Route(APIRoute):
    """A route that reads bodies by `_JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def answer_read(request: Request) -> Response:
            return await answer(_JsonRequest(request.scope, request.receive))

        return answer_read


def _add_error_handlers(api: FastAPI) -> None:
    @api.exception_handler(MindDistError)
    async def known(_request: Request, error: MindDistError) -> JSONResponse:
        return error_response(error)

    @api.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"][1:] if part not in FORMS)
        return refusal(422, f"{path}: {first['msg']}" if path else str(first["msg"]))

    @api.exception_handler(HTTPException)
    async def refused(_request: Request, error: HTTPException) -> JSONResponse:
        return refusal(error.status_code, str(error.detail))
