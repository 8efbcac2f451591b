"""A Kafka broker: reaching it, and its client's errors, which end here.

Written for kafka-python 3.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import (
    IllegalSaslStateError,
    KafkaConfigurationError,
    KafkaError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from mind_dist.errors import ConfigError, ServiceRefused, ServiceUnavailable
from mind_dist.log.kafka_settings import client_settings

_DEFAULTS = {"reconnect_backoff_max_ms": 1000}  # the client's own 30 s would lag a recovered broker by half a minute
_REFUSALS = (IllegalSaslStateError, SaslAuthenticationFailedError, UnsupportedSaslMechanismError)
_NOT_TRUSTED = re.compile(r"\[SSL: \w*CERTIFICATE")  # of what OpenSSL says of a failed handshake, on either side

_WIRE_LOGGERS = ("kafka.net.connection", "kafka.protocol.parser")
"""Where the client writes, at level debug, all that it sends: passwords and tokens, too."""


def wait_for_broker(bootstrap: str, timeout_s: float) -> None:
    """Return when a broker answers.

    Raises:
        ConfigError: A setting of the client is wrong.
        ServiceUnavailable: None did within `timeout_s`, or it refuses us.
    """
    with admin_client(bootstrap, timeout_s) as admin:
        admin.describe_cluster()


class _AdminClient(KafkaAdminClient):  # type: ignore[misc]  # the client is untyped
    """The client, which asks for more than we want to know of groups, and fails at what Tansu tells then (3.0.12)."""

    def _process_acl_operations(self, described: Any) -> Any:
        return described


@contextmanager
def admin_client(bootstrap: str, timeout_s: float) -> Iterator[Any]:
    """Yield a client that manages the broker; its errors become `ServiceUnavailable`."""
    admin = connect(_AdminClient, bootstrap, timeout_s, request_timeout_ms=int(timeout_s * 1000))
    try:
        with translated(bootstrap):
            yield admin
    finally:
        admin.close()


def connect(
    client: type[Any], bootstrap: str, timeout_s: float, *, defaults: Mapping[str, Any] | None = None, **settings: Any
) -> Any:
    """Return a client that has reached a broker; a failed attempt leaves no thread behind.

    Args:
        client: Its kind.
        bootstrap: Addresses of brokers.
        timeout_s: How long to try.
        defaults: Settings of it that the deployment's (`kafka_settings`) override.
        settings: Settings that override the deployment's.

    Raises:
        ConfigError: A setting of the deployment is wrong.
        ServiceRefused: The broker does not take us for who we say, or we do not trust it.
        ServiceUnavailable: No broker answered within `timeout_s`.
    """
    started: list[_Manager] = []

    def network(**configs: Any) -> Any:
        net = NetworkSelector(**configs)
        started.append(_Manager(net, **configs))
        return KafkaNetClient(net=net, manager=started[-1])

    given = client_settings().arguments(client)
    if "sasl_mechanism" in given:
        for name in _WIRE_LOGGERS:
            logging.getLogger(name).addFilter(_without_wire)
    start_s = time.monotonic()
    try:
        return client(
            bootstrap_servers=bootstrap.split(","),
            bootstrap_timeout_ms=int(timeout_s * 1000),
            kafka_client=network,
            **(_DEFAULTS | dict(defaults or {}) | given | settings),
        )
    except KafkaError as error:
        for each in started:
            each.close()
            each._net.close()  # noqa: SLF001 - as `KafkaNetClient.close`
        if isinstance(error, KafkaConfigurationError):
            raise ConfigError("settings of the Kafka client", str(error)) from error
        raise _why(bootstrap, time.monotonic() - start_s, error, started, given) from error


def _without_wire(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.INFO


class _Manager(KafkaConnectionManager):  # type: ignore[misc]  # the client is untyped
    """Connections that make no topics, and say why there is none: the client's own error tells only that it could not connect.

    Attributes:
        last_failure: What ended the connection that was last tried and lost.
    """

    def __init__(self, net: Any, **configs: Any) -> None:
        super().__init__(net, **configs)
        # A client that asks for a topic that is gone would make it, with as many partitions as the broker likes: the
        # clients' own setting of this name is not passed on (3.0.12).
        self.cluster.config["allow_auto_create_topics"] = False
        self.last_failure: BaseException | None = None
        self._refusals: dict[Any, BaseException] = {}

    async def _connect(self, node: Any, conn: Any, *args: Any, **settings: Any) -> None:
        conn.close_future.add_errback(lambda error: self._note(node.node_id, error))
        await super()._connect(node, conn, *args, **settings)
        self._give_up_if_refused()  # it has just forgotten that: it looks for an error that `initialize` does not raise

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        """Connect; what a broker says before it hangs up is heard: the client would drop it, and so why we are refused."""
        transport = await super()._build_transport(node, timeout_at=timeout_at)
        receive = transport._sock_recv  # noqa: SLF001 - it has no other place for this

        def received() -> tuple[bytes, Exception | None]:
            data, error = receive()
            return (data, None) if data else (data, error)

        transport._sock_recv = received  # noqa: SLF001 - as above
        return transport

    def _note(self, node_id: Any, error: BaseException) -> None:
        """Keep why a connection was lost."""
        self.last_failure = error
        if is_refusal(error):
            self._refusals[node_id] = error
        self._give_up_if_refused()

    def _give_up_if_refused(self) -> None:
        """Let the attempt to reach a broker end once every address refuses us: trying on would not help."""
        addresses = {each.node_id for each in self.cluster.bootstrap_brokers()}
        if not self.bootstrapped and addresses <= self._refusals.keys():
            self._auth_failures.update(self._refusals)


def is_refusal(error: BaseException | None) -> bool:
    """Tell whether the broker does not take us for who we say, or we do not trust it."""
    return isinstance(error, _REFUSALS) or _NOT_TRUSTED.search(str(error)) is not None


def _why(
    bootstrap: str, waited_s: float, error: KafkaError, started: list[_Manager], given: Mapping[str, Any]
) -> ServiceUnavailable:
    """Return what to raise for an attempt that failed, with what the last connection ended by."""
    failure = next((each.last_failure for each in started if each.last_failure is not None), error)
    identity = f"security_protocol {given.get('security_protocol', 'PLAINTEXT')}"
    if "sasl_mechanism" in given:
        identity += f", {given['sasl_mechanism']}"
    if "sasl_plain_username" in given:
        identity += f" as {given['sasl_plain_username']}"
    if is_refusal(failure):
        return ServiceRefused("Kafka", bootstrap, waited_s, f"{failure}; by {identity}: see docs/kafka.md")
    return ServiceUnavailable("Kafka", bootstrap, waited_s, f"{failure}; by {identity}")


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
