"""A Kafka broker: reaching it, and its client's errors, which end here.

Written for kafka-python 3.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from mind_dist.errors import ServiceUnavailable

_RECONNECT_BACKOFF_MAX_MS = 1000  # the client's own 30 s would lag a recovered broker by half a minute


def wait_for_broker(bootstrap: str, timeout_s: float) -> None:
    """Return when a broker answers.

    Raises:
        ServiceUnavailable: None did within `timeout_s`.
    """
    with admin_client(bootstrap, timeout_s) as admin:
        admin.describe_cluster()


@contextmanager
def admin_client(bootstrap: str, timeout_s: float) -> Iterator[Any]:
    """Yield a client that manages the broker; its errors become `ServiceUnavailable`."""
    admin = connect(KafkaAdminClient, bootstrap, timeout_s, request_timeout_ms=int(timeout_s * 1000))
    try:
        with translated(bootstrap):
            yield admin
    finally:
        admin.close()


def connect(client: type, bootstrap: str, timeout_s: float, **settings: Any) -> Any:
    """Return a client that has reached a broker; a failed attempt leaves no thread behind."""
    started: list[Any] = []

    def network(**configs: Any) -> Any:
        started.append(KafkaNetClient(**configs))
        return started[-1]

    try:
        with translated(bootstrap):
            return client(
                bootstrap_servers=bootstrap.split(","),
                bootstrap_timeout_ms=int(timeout_s * 1000),
                reconnect_backoff_max_ms=_RECONNECT_BACKOFF_MAX_MS,
                kafka_client=network,
                **settings,
            )
    except ServiceUnavailable:
        for each in started:
            each.close()
        raise


@contextmanager
def translated(address: str, passing: tuple[type[KafkaError], ...] = ()) -> Iterator[None]:
    """Turn the client's errors, but for those passing, into `ServiceUnavailable`."""
    start_s = time.monotonic()
    try:
        yield
    except passing:
        raise
    except KafkaError as error:
        raise ServiceUnavailable("Kafka", address, time.monotonic() - start_s, str(error)) from error
