"""Who a Kafka client is and whom it trusts: checks of TLS and SASL settings, and what the client needs for them."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from pydantic import SecretStr

from mind_dist.errors import ConfigError
from mind_dist.log.kafka_tokens import ENDPOINT, OF_TOKENS, TOKEN_FILE, check_token_settings, token_provider

__all__ = ["CHOICES", "OF_TOKENS", "check_security", "security_arguments"]

_BY_PASSWORD = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_MECHANISM_PACKAGES = {"GSSAPI": "gssapi", "AWS_MSK_IAM": "botocore"}

CHOICES = {
    "partition_assignment_strategy": ("cooperative-sticky", "range"),
    "security_protocol": ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    "sasl_mechanism": (*_BY_PASSWORD, "OAUTHBEARER", *_MECHANISM_PACKAGES),
    "compression_type": ("gzip", "snappy", "lz4", "zstd"),
    "client_dns_lookup": ("default", "use_all_dns_ips", "resolve_canonical_bootstrap_servers_only"),
}
"""Settings with a few allowed values."""


def check_security(values: Mapping[str, Any], variable: Callable[[str], str]) -> None:
    """Refuse settings that do not go together: a client would connect with less security than was asked for, or never.

    Args:
        values: All settings.
        variable: Name of a setting → name by which messages call it.

    Raises:
        ConfigError: One is missing, or has no effect beside the others.
    """
    protocol = values.get("security_protocol", "PLAINTEXT")
    for prefix in ("ssl_", "sasl_"):
        idle = [name for name in values if name.startswith(prefix)]
        if idle and prefix.rstrip("_").upper() not in protocol:
            raise ConfigError(variable(idle[0]), f"has no effect with security_protocol {protocol}")
    if "ssl_keyfile" in values and "ssl_certfile" not in values:
        raise ConfigError(variable("ssl_keyfile"), "needs ssl_certfile")
    if "SASL" in protocol:
        _check_sasl(values, variable)


def _check_sasl(values: Mapping[str, Any], variable: Callable[[str], str]) -> None:
    mechanism = values.get("sasl_mechanism")
    if mechanism is None:
        raise ConfigError(variable("sasl_mechanism"), f"is missing: one of {', '.join(CHOICES['sasl_mechanism'])}")
    if mechanism in _BY_PASSWORD:
        for name in ("sasl_plain_username", "sasl_plain_password"):
            if name not in values:
                where = ", here or in its file: secrets do not travel" if name == "sasl_plain_password" else ""
                raise ConfigError(variable(name), f"is missing: sasl_mechanism {mechanism} needs it{where}")
    package = _MECHANISM_PACKAGES.get(mechanism)
    if package is not None and find_spec(package) is None:
        raise ConfigError(variable("sasl_mechanism"), f"{mechanism} needs a package: pip install {package}")
    if mechanism == "OAUTHBEARER":
        check_token_settings(values, variable)
    elif idle := [name for name in values if name in OF_TOKENS]:
        raise ConfigError(variable(idle[0]), f"has no effect with sasl_mechanism {mechanism}")


def security_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a client is given in place of files, keys and addresses of tokens.

    Raises:
        ConfigError: A certificate, key or list of ciphers cannot be used.
    """
    found: dict[str, Any] = {}
    if "SSL" in values.get("security_protocol", ""):
        found["ssl_context"] = _ssl_context(values)
    if TOKEN_FILE in values or ENDPOINT in values:
        found["sasl_oauth_token_provider"] = token_provider(values)
    return found


def _ssl_context(values: Mapping[str, Any]) -> ssl.SSLContext:
    """Return what the client would make of its settings, and of `ssl_ciphers`, which it takes and leaves.

    Made here, a wrong file is named at once: the client would go on trying to connect, and say only that it cannot.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = values.get("ssl_check_hostname", True)
    authority, certificate = values.get("ssl_cafile"), values.get("ssl_certfile")
    revoked, ciphers = values.get("ssl_crlfile"), values.get("ssl_ciphers")
    if authority is None:
        context.load_default_certs()
    else:
        _use("ssl_cafile", authority, lambda: context.load_verify_locations(authority))
    if certificate is not None:
        _use("ssl_certfile", certificate, lambda: _load_certificate(context, values))
    if revoked is not None:
        _use("ssl_crlfile", revoked, lambda: context.load_verify_locations(revoked))
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    if ciphers is not None:
        _use("ssl_ciphers", ciphers, lambda: context.set_ciphers(ciphers))
    return context


def _load_certificate(context: ssl.SSLContext, values: Mapping[str, Any]) -> None:
    password = values.get("ssl_password", SecretStr(""))  # without one, OpenSSL would ask at the terminal
    context.load_cert_chain(values["ssl_certfile"], values.get("ssl_keyfile"), password.get_secret_value())


def _use(name: str, value: str, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(f"Kafka's {name}", f"{value!r} cannot be used: {error}") from error
