"""Where the services are, and what is secret."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr, with_config

from mind_dist.config.checks import STRICT, check
from mind_dist.config.deployment import ALLOWED, is_deployment
from mind_dist.errors import ConfigError

_SECRETS = ("milvus_token", "http_token")


@with_config(STRICT)
@dataclass(frozen=True)
class Addresses:
    """Where the services are; read from the environment by `from_environment` and nowhere else.

    Other settings of the Kafka client, `MIND_DIST_KAFKA_…`, are read by `log.kafka_settings` where it connects.
    """

    kafka: str = "127.0.0.1:9092"
    """`MIND_DIST_KAFKA`: bootstrap servers, host:port separated by commas."""
    milvus: str = "http://127.0.0.1:19530"
    """`MIND_DIST_MILVUS`: URI of the Milvus server."""
    milvus_token: SecretStr = field(default_factory=lambda: SecretStr(""))
    """`MIND_DIST_MILVUS_TOKEN`: user:password, or empty."""
    http_token: SecretStr = field(default_factory=lambda: SecretStr(""))
    """`MIND_DIST_HTTP_TOKEN`: what requests to us under /v1 must carry as bearer token; empty for nothing, which only a
    service at a loopback address may have."""
    deployment: str = ""
    """`MIND_DIST_DEPLOYMENT`: name of this deployment where several share a Milvus or a Kafka; empty for none. Its
    collections, aliases and consumer groups begin with it. It never changes, or what it has is found no more."""

    def __post_init__(self) -> None:
        check(is_deployment(self.deployment), "deployment", ALLOWED)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Addresses:
        """Read the addresses.

        Raises:
            ConfigError: The name of the deployment is not allowed.
        """
        names = {f.name: f"MIND_DIST_{f.name.upper()}" for f in dataclasses.fields(cls)}
        if not is_deployment(name := environment.get(names["deployment"], "")):
            raise ConfigError(names["deployment"], f"{name!r} must be {ALLOWED}")
        given = {name: environment[variable] for name, variable in names.items() if variable in environment}
        secrets = {name: SecretStr(given.pop(name, "")) for name in _SECRETS}
        return cls(**given, **secrets)  # type: ignore[arg-type]

    def shareable(self) -> dict[str, str]:
        """Return what may be sent to other processes, which Ray keeps and shows: of secrets, only which there are."""
        there = [name for name in _SECRETS if getattr(self, name).get_secret_value()]
        open_values = {name: value for name, value in dataclasses.asdict(self).items() if name not in _SECRETS}
        return {**open_values, "secrets": " ".join(there)}

    @classmethod
    def shared(cls, values: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> Addresses:
        """Return the addresses that another process sent as `shareable`, with this one's own secrets.

        Raises:
            ConfigError: The other one has a secret that is missing here: without it, everybody might be let in.
        """
        own = cls.from_environment(environment)
        for name in values["secrets"].split():
            if not getattr(own, name).get_secret_value():
                problem = "is set where this was started, and not here: secrets do not travel, set it on every node"
                raise ConfigError(f"MIND_DIST_{name.upper()}", problem)
        open_values = {name: value for name, value in values.items() if name != "secrets"}
        secrets = {name: getattr(own, name) for name in _SECRETS}
        return cls(**open_values, **secrets)  # type: ignore[arg-type]
