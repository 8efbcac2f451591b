"""One Milvus client on which every call is bounded, and tried again where that can help."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException
from tenacity import Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

from mind_dist.errors import ServiceUnavailable, VectorStoreError

T = TypeVar("T")

# pymilvus prints a traceback for every failed call, also for those that are tried again; ours reach the caller.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

NO_COLLECTION = 100
_NOT_LOADED = 101
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.1, 2.0
"""Longest first pause before a call is tried again, and longest of all; the longest doubles between."""
_UNCLEAR_ATTEMPTS = 5

_GRPC_OPTIONS = {"grpc.keepalive_permit_without_calls": False}
"""Pinging an idle connection, as pymilvus does, makes servers close it as abusive; calls have timeouts of their own."""


class _Trouble(enum.Enum):
    """What a failed call tells.

    Values: the server is away or not ready; it may or may not be a passing state (Milvus gives many permanent errors
    the code of an unexpected one), so a few attempts are made; the call is wrong and stays so.
    """

    AWAY = enum.auto()
    UNCLEAR = enum.auto()
    REFUSED = enum.auto()


_TROUBLES: dict[object, _Trouble] = {
    2: _Trouble.AWAY,  # cannot connect
    8: _Trouble.AWAY,  # too many requests
    503: _Trouble.AWAY,  # no node to ask yet
    _NOT_LOADED: _Trouble.AWAY,  # after a restart
    grpc.StatusCode.UNAVAILABLE: _Trouble.AWAY,
    grpc.StatusCode.DEADLINE_EXCEEDED: _Trouble.AWAY,
    grpc.StatusCode.CANCELLED: _Trouble.AWAY,  # another thread replaced the channel
    1: _Trouble.UNCLEAR,
    NO_COLLECTION: _Trouble.UNCLEAR,
    65535: _Trouble.UNCLEAR,
}


class MilvusConnection:
    """A client, made when first needed.

    Args:
        uri: The server.
        token: user:password, or empty.
        timeout_s: Bound of each call, and of connecting: without one a frozen server blocks for ever.
        retry_s: How long a call is tried again while the server is away or not ready.
        sleep: Waits between attempts.
    """

    def __init__(
        self, uri: str, token: str, timeout_s: float, retry_s: float, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.uri = uri
        self._token = token
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._sleep = sleep
        self._client: MilvusClient | None = None
        self._lock = threading.Lock()

    def call(self, operation: Callable[..., T], *arguments: Any, **settings: Any) -> T:
        """Run `operation(client, *arguments, timeout=…, **settings)`, which must bear being repeated.

        Where it reads a collection, that is the first argument: it is loaded again when the server has let go of it.

        Raises:
            ServiceUnavailable: The server stayed away for `retry_s`, and the last attempt ended.
            VectorStoreError: The server refuses.
        """
        collection = str(arguments[0]) if arguments else ""
        started_s, retrying = time.monotonic(), self._retrying()

        def attempt() -> T:
            try:
                return operation(self._connected(), *arguments, timeout=self._timeout_s, **settings)
            except (MilvusException, grpc.RpcError) as error:
                self._judge(error, collection, retrying.statistics["attempt_number"])
                if _code(error) == _NOT_LOADED and collection:
                    self._load(collection)
                raise ServiceUnavailable("Milvus", self.uri, time.monotonic() - started_s, _reason(error)) from error

        return retrying(attempt)

    def _retrying(self) -> Retrying:
        """Return what tries again while the server is away, after pauses that no two clients have alike.

        They would come back all at once otherwise, to a server that is just getting up.
        """
        return Retrying(
            retry=retry_if_exception_type(ServiceUnavailable),
            wait=wait_random_exponential(multiplier=_FIRST_PAUSE_S, min=_FIRST_PAUSE_S / 2, max=_LAST_PAUSE_S),
            stop=stop_before_delay(self._retry_s),
            sleep=self._sleep,
            reraise=True,
        )

    def _judge(self, error: Exception, collection: str, attempts: int) -> None:
        """Return when trying again may help; raise a `VectorStoreError` otherwise."""
        code = _code(error)
        trouble = _TROUBLES.get(code, _Trouble.REFUSED)
        gone = code == NO_COLLECTION and collection and not self._has(collection)
        if trouble is _Trouble.REFUSED or gone or (trouble is _Trouble.UNCLEAR and attempts >= _UNCLEAR_ATTEMPTS):
            raise VectorStoreError(f"Milvus at {self.uri}: {_reason(error)}") from error

    def _connected(self) -> MilvusClient:
        with self._lock:
            if self._client is None:
                settings = {"token": self._token, "timeout": self._timeout_s, "grpc_options": _GRPC_OPTIONS}
                self._client = MilvusClient(self.uri, dedicated=True, **settings)
            return self._client

    def _has(self, collection: str) -> bool:
        try:
            return bool(self._connected().has_collection(collection, timeout=self._timeout_s))
        except (MilvusException, grpc.RpcError):
            return True  # unknown: the call itself is tried again

    def _load(self, collection: str) -> None:
        """Ask for a collection to be loaded; where that fails too, the next attempt will tell."""
        try:
            self._connected().load_collection(collection, timeout=self._timeout_s)
        except (MilvusException, grpc.RpcError) as error:
            logging.getLogger(__name__).info(
                "collection is not loaded yet", extra={"fields": {"collection": collection, "reason": _reason(error)}}
            )

    def close(self) -> None:
        """Close the client."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None


def _code(error: Any) -> object:
    """Return Milvus' number, or gRPC's status (which pymilvus may put in its place)."""
    return error.code() if callable(error.code) else error.code


def _reason(error: Any) -> str:
    if isinstance(error, MilvusException):
        return str(error.message).partition("\n")[0] or f"code {error.code}"
    return f"{error.code().name}: {error.details()}"
