"""Settings of the Kafka client, by its own names: from the environment and a file, checked before it is asked to connect.

`MIND_DIST_KAFKA_SECURITY_PROTOCOL` sets `security_protocol`, and so on; `MIND_DIST_KAFKA_CONFIG` names a properties or
TOML file, which the environment overrides. They are read anew for each client, in the process that connects: a secret
travels to no other process and lives in no object that could be shown, and one that was changed in its file counts from
the next client on. docs/kafka.md says what each is good for.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from pydantic import SecretStr, TypeAdapter, ValidationError

from mind_dist.errors import ConfigError
from mind_dist.log.kafka_files import read_file
from mind_dist.log.kafka_security import CHOICES, OF_TOKENS, check_security, security_arguments

PREFIX = "MIND_DIST_KAFKA_"
FILE = f"{PREFIX}CONFIG"
"""Variable that names a file of settings."""

SECRETS = frozenset(
    {"proxy_url", "sasl_oauthbearer_client_credentials_client_secret", "sasl_plain_password", "ssl_password"}
)
"""Settings that are never shown; with `_file` behind its name, each is read from a file of its own."""

Value = str | bool | int | float | SecretStr

_SERVICE_LINK = re.compile(r"(SERVICE_(HOST|PORT(_.+)?)|PORT(_\d+_(TCP|UDP)(_.+)?)?)")
"""What Kubernetes sets in each container of a namespace that has a Service `mind-dist-kafka`."""

_IN_CONFIG = {
    "bootstrap_servers": "MIND_DIST_KAFKA",
    "bootstrap_timeout_ms": "kafka.connect_timeout_s",
    "delivery_timeout_ms": "kafka.connect_timeout_s",
    "heartbeat_interval_ms": "kafka.session_timeout_s, an eighth of which it is",
    "max_block_ms": "kafka.connect_timeout_s",
    "max_poll_interval_ms": "kafka.max_poll_interval_s",
    "max_poll_records": "kafka.max_poll_records",
    "metadata_max_age_ms": "kafka.metadata_max_age_s",
    "request_timeout_ms": "kafka.connect_timeout_s",
    "session_timeout_ms": "kafka.session_timeout_s",
}
"""What a setting of ours decides already."""

_FIXED = frozenset(
    {
        "acks",
        "allow_auto_create_topics",
        "auto_commit_interval_ms",
        "auto_offset_reset",
        "enable_auto_commit",
        "enable_idempotence",
        "enable_incremental_fetch_sessions",
        "exclude_internal_topics",
        "group_id",
        "isolation_level",
        "key_deserializer",
        "key_serializer",
        "partitioner",
        "retries",
        "transaction_timeout_ms",
        "transactional_id",
        "value_deserializer",
        "value_serializer",
    }
)
"""What the promises of this system rest on: nothing lost, nothing counted twice."""

_NO_TEXT = frozenset(
    {
        "api_version",
        "consumer_timeout_ms",
        "default_offset_commit_callback",
        "kafka_client",
        "metric_group_prefix",
        "metric_reporters",
        "sasl_kerberos_name",
        "sasl_oauth_token_provider",
        "selector",
        "socket_options",
        "socks5_proxy",
        "ssl_context",
    }
)
"""Objects of Python, or of no use here."""

_OTHER_CLIENTS = {
    "sasl_jaas_config": "sasl_plain_username and sasl_plain_password",
    "sasl_mechanisms": "sasl_mechanism",
    "sasl_password": "sasl_plain_password",
    "sasl_username": "sasl_plain_username",
    "ssl_ca_location": "ssl_cafile",
    "ssl_certificate_location": "ssl_certfile",
    "ssl_endpoint_identification_algorithm": "ssl_check_hostname",
    "ssl_key_location": "ssl_keyfile",
    "ssl_key_password": "ssl_password",
    "ssl_keystore_location": "ssl_certfile and ssl_keyfile, in PEM",
    "ssl_truststore_location": "ssl_cafile, in PEM",
}
"""Names that the clients of Java and C have for what this one calls otherwise."""

_OF_MEMBERS = frozenset({"group_instance_id", "partition_assignment_strategy"})
"""Settings of members of a group, which `kafka_members` reads; a consumer without a group would refuse them."""

_CLIENTS = (KafkaConsumer, KafkaProducer, KafkaAdminClient)
_DEFAULTS: dict[str, Any] = {name: value for each in _CLIENTS for name, value in each.DEFAULT_CONFIG.items()}
_KNOWN = (_DEFAULTS.keys() | OF_TOKENS) - _IN_CONFIG.keys() - _FIXED - _NO_TEXT
_WHOLE_NUMBERS = frozenset({"receive_buffer_bytes", "send_buffer_bytes"})
_MAX_IN_FLIGHT = 5


@dataclass(frozen=True)
class ClientSettings:
    """Checked settings, by name, of all kinds of clients together."""

    values: Mapping[str, Value]

    def arguments(self, client: type[Any]) -> dict[str, Any]:
        """Return the arguments for the constructor of a kind of client, which knows a part of the settings only.

        Raises:
            ConfigError: A certificate, key or list of ciphers cannot be used.
        """
        names = client.DEFAULT_CONFIG.keys() - _OF_MEMBERS
        known = {name: value for name, value in self.values.items() if name in names}
        shown = {
            name: _Hidden(each.get_secret_value()) if isinstance(each, SecretStr) else each
            for name, each in known.items()
        }
        ssl_names = [name for name in shown if name.startswith("ssl_")]
        return {name: each for name, each in shown.items() if name not in ssl_names} | security_arguments(self.values)


class _Hidden(str):
    """A secret in the client's hands, which logs all its settings at level debug."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


def client_settings(environment: Mapping[str, str] = os.environ) -> ClientSettings:
    """Read and check the settings.

    Raises:
        ConfigError: One is unknown, or its value is not allowed, or the file cannot be read; it is named in one line,
            and a secret is not shown.
    """
    values: dict[str, Value] = {}
    for origin, name, given in _given(environment):
        target = name.removesuffix("_file")
        if target in SECRETS and name != target:
            values[target] = SecretStr(_secret_of(origin, str(given)))
        else:
            values[name] = _checked(origin, name, given)
    check_security(values, lambda name: f"{PREFIX}{name.upper()}")
    return ClientSettings(values)


def shareable(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that other processes may be given to connect as this one does: all that hold no secret.

    Where they end, Ray's dashboard shows them. Secrets are each process' own: from its environment, or from files.
    """
    secret = {f"{PREFIX}{name.upper()}" for name in SECRETS}
    return {variable: environment[variable] for variable in _variables(environment) if variable not in secret}


def runtime_environment() -> dict[str, dict[str, str]]:
    """Return a runtime environment of Ray by which replicas and workers elsewhere connect as this process does."""
    shared = shareable()
    return {"env_vars": shared} if shared else {}


def _variables(environment: Mapping[str, str]) -> list[str]:
    ours = [name for name, value in environment.items() if name.startswith(PREFIX) and value]
    return sorted(name for name in ours if not _SERVICE_LINK.fullmatch(name.removeprefix(PREFIX)))


def _given(environment: Mapping[str, str]) -> Iterator[tuple[str, str, object]]:
    """Yield where each setting stands, its name and its value; of two of a name, the later counts."""
    if path := environment.get(FILE):
        for name, value in read_file(Path(path), FILE).items():
            yield f"{path}: {name}", re.sub(r"\W", "_", name).lower(), value
    for variable in _variables(environment):
        if variable != FILE:
            yield variable, variable.removeprefix(PREFIX).lower(), environment[variable]


def _secret_of(origin: str, path: str) -> str:
    try:
        return Path(path).read_text().rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise ConfigError(origin, f"cannot be read: {error}") from error


def _checked(origin: str, name: str, given: object) -> Value:
    """Return a setting's value, of its type."""
    if name not in _KNOWN:
        raise ConfigError(origin, _why_unknown(name))
    if name in SECRETS:
        return SecretStr(str(given))
    kind = _kind(name)
    try:
        value = TypeAdapter[Any](kind).validate_python(given)
    except ValidationError as error:
        raise ConfigError(origin, f"must be {_article(kind)}, not {given!r}") from error
    if isinstance(value, int | float) and not (value >= 0 and math.isfinite(value)):
        raise ConfigError(origin, f"must be 0 or more, not {given!r}")
    if name in CHOICES and value not in CHOICES[name]:
        raise ConfigError(origin, f"must be one of {', '.join(CHOICES[name])}, not {given!r}")
    if name == "max_in_flight_requests_per_connection" and not 1 <= value <= _MAX_IN_FLIGHT:
        raise ConfigError(
            origin, f"must be between 1 and {_MAX_IN_FLIGHT}: more would break the order of a retried batch"
        )
    return value  # type: ignore[no-any-return]


def _kind(name: str) -> type[str | bool | int | float]:
    default = _DEFAULTS.get(name)
    if name in _WHOLE_NUMBERS:
        return int
    return next((kind for kind in (bool, int, float) if isinstance(default, kind)), str)


def _article(kind: type[Any]) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a text")


def _why_unknown(name: str) -> str:
    if name in _IN_CONFIG:
        return f"is not taken from here: it is {_IN_CONFIG[name]} that decides it"
    if name in _FIXED:
        return "cannot be chosen: what is promised of events rests on the value it has"
    if name in _NO_TEXT:
        return "is no setting that a text could give"
    if name in _OTHER_CLIENTS:
        return f"is another client's name: this one has {_OTHER_CLIENTS[name]}"
    close = difflib.get_close_matches(name, sorted(_KNOWN), n=2)
    return "unknown setting of the Kafka client" + (f"; did you mean {' or '.join(close)}?" if close else "")
