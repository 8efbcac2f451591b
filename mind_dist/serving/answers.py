"""Answers of HTTP: values as JSON, and each error as its status, its reason and, where it passes, when to try again."""

from __future__ import annotations

import math
from typing import Any

import orjson
from starlette.responses import JSONResponse, Response

from mind_dist.errors import (
    InvalidRequest,
    KeyInUse,
    MindDistError,
    NotReady,
    Overloaded,
    ServiceUnavailable,
    TooFast,
    TooLarge,
    UnknownItem,
    UnknownUser,
)

_SOON_S, _LATER_S = 1, 5

_STATUSES: list[tuple[type[MindDistError], int, int]] = [
    (UnknownUser, 404, 0),
    (UnknownItem, 404, 0),
    (KeyInUse, 409, _SOON_S),
    (TooLarge, 413, 0),
    (InvalidRequest, 422, 0),
    (Overloaded, 503, _SOON_S),
    (NotReady, 503, _SOON_S),
    (ServiceUnavailable, 503, _SOON_S),
]
"""Kind of error → status, and after how many seconds to try again; 0 for never."""


def json_response(value: Any) -> Response:
    """Return a dataclass of plain values as JSON: made where it is called, which need not be the event loop."""
    return Response(orjson.dumps(value), media_type="application/json")


def error_response(error: MindDistError) -> JSONResponse:
    """Return what a known error answers."""
    status, retry_after_s = _status_of(error)
    return refusal(status, str(error), {"Retry-After": str(retry_after_s)} if retry_after_s else {})


def refusal(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error; a reason that names what cannot be written as UTF-8 names it escaped."""
    text = reason.encode(errors="backslashreplace").decode()
    return JSONResponse({"error": text}, status_code=status, headers=headers)


def status_of(error: MindDistError) -> int:
    """Return the status that an error answers with."""
    return _status_of(error)[0]


def _status_of(error: MindDistError) -> tuple[int, int]:
    """Return the status of an error, and after how many seconds to try again; 0 for never."""
    if isinstance(error, TooFast):
        return 429, max(1, math.ceil(error.wait_s))
    for kind, status, retry_after_s in _STATUSES:
        if isinstance(error, kind):
            return status, retry_after_s
    return 503, _LATER_S  # a store that refuses
