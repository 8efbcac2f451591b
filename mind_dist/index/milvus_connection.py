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

from mind_dist.errors import ServiceUnavailable, VectorStoreError

T = TypeVar("T")

# pymilvus prints a traceback for every failed call, also for those that are tried again; ours reach the caller.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

NO_COLLECTION = 100
_NOT_LOADED = 101
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.05, 2.0
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
        started = time.monotonic()
        collection = str(arguments[0]) if arguments else ""
        pause, attempts = _FIRST_PAUSE_S, 0
        while True:
            try:
                return operation(self._connected(), *arguments, timeout=self._timeout_s, **settings)
            except (MilvusException, grpc.RpcError) as error:
                attempts += 1
                self._judge(error, collection, attempts, time.monotonic() - started + pause)
            self._sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE_S)

    def _judge(self, error: Exception, collection: str, attempts: int, waited_s: float) -> None:
        """Return when trying again may help; raise what the failure means otherwise."""
        code, reason = _code(error), _reason(error)
        trouble = _TROUBLES.get(code, _Trouble.REFUSED)
        gone = code == NO_COLLECTION and collection and not self._has(collection)
        if trouble is _Trouble.REFUSED or gone or (trouble is _Trouble.UNCLEAR and attempts >= _UNCLEAR_ATTEMPTS):
            raise VectorStoreError(f"Milvus at {self.uri}: {reason}") from error
        if waited_s > self._retry_s:
            raise ServiceUnavailable("Milvus", self.uri, waited_s, reason) from error
        if code == _NOT_LOADED and collection:
            self._load(collection)

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
