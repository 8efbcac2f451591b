"""What stands before every request under /v1: the bearer token, the rate, and the size of the body. Plain ASGI."""

from __future__ import annotations

import hmac
from collections.abc import MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mind_dist.errors import TooFast, TooLarge
from mind_dist.serving.answers import error_response, refusal
from mind_dist.serving.rate import RateLimit

_GUARDED = "/v1/"
_HEADER = "Bearer "


class Gate:
    """An ASGI application around another one. `/healthz`, `/readyz` and the documentation are open to everybody.

    Args:
        app: What answers.
        token: What `Authorization: Bearer …` must carry; empty for nothing.
        max_body_bytes: Largest body.
        rate: How many requests are taken.
    """

    def __init__(self, app: ASGIApp, *, token: str, max_body_bytes: int, rate: RateLimit) -> None:
        self._app = app
        self._wanted = f"{_HEADER}{token}".encode() if token else b""
        self._max_body_bytes = max_body_bytes
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand over to the application."""
        if scope["type"] != "http" or not scope["path"].startswith(_GUARDED):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refused = self._refused(headers)
        if refused is not None:
            await refused(scope, receive, send)
            return
        await self._app(scope, _bounded(receive, self._max_body_bytes), send)

    def _refused(self, headers: dict[bytes, bytes]) -> JSONResponse | None:
        if self._wanted and not hmac.compare_digest(headers.get(b"authorization", b""), self._wanted):
            reason = "Authorization: Bearer and the service's token are needed"
            return refusal(401, reason, {"WWW-Authenticate": "Bearer"})
        try:
            self._rate.take()
            _check_size(_declared(headers), self._max_body_bytes)
        except (TooFast, TooLarge) as error:
            return error_response(error)
        return None


def _bounded(receive: Receive, most: int) -> Receive:
    """Count a body as it comes: its length may not be declared, or falsely."""
    num_bytes = 0

    async def counted() -> MutableMapping[str, Any]:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        try:
            _check_size(num_bytes, most)
        except TooLarge as error:  # whoever reads the body lets nothing but this pass
            raise HTTPException(413, str(error)) from error
        return message

    return counted


def _declared(headers: dict[bytes, bytes]) -> int:
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() and len(length) < 20 else 0  # noqa: PLR2004 - digits of 64 bits


def _check_size(num_bytes: int, most: int) -> None:
    if num_bytes > most:
        raise TooLarge(most)
