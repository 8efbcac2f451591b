"""Tokens for SASL OAUTHBEARER: from a file that somebody else keeps fresh, or from an identity provider (OAuth 2.0, RFC 6749, 4.4)."""

from __future__ import annotations

import base64
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from kafka.net.sasl.oauth import AbstractTokenProvider
from pydantic import SecretStr

from mind_dist.errors import ConfigError, ServiceUnavailable
from mind_dist.strict_json import from_json

TOKEN_FILE = "sasl_oauthbearer_token_file"  # noqa: S105 - a name
ENDPOINT = "sasl_oauthbearer_token_endpoint_url"
_CLIENT_ID = "sasl_oauthbearer_client_credentials_client_id"
_CLIENT_SECRET = "sasl_oauthbearer_client_credentials_client_secret"  # noqa: S105 - a name
_SCOPE = "sasl_oauthbearer_scope"

OF_TOKENS = frozenset({TOKEN_FILE, ENDPOINT, _CLIENT_ID, _CLIENT_SECRET, _SCOPE})
"""Settings of ours, by the names that Java's client has: this one wants an object instead."""

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TIMEOUT_S = 10.0
_USED_SHARE = 0.8
"""A token is replaced after this share of its life, as Java's client does."""


def check_token_settings(values: Mapping[str, Any], variable: Callable[[str], str]) -> None:
    """Refuse settings that lead to no token.

    Raises:
        ConfigError: There is no source of tokens or two, one lacks something, or a secret would travel in the clear.
    """
    if (TOKEN_FILE in values) == (ENDPOINT in values):
        raise ConfigError(variable(TOKEN_FILE), f"OAUTHBEARER needs {TOKEN_FILE}, or else {ENDPOINT}")
    if ENDPOINT not in values:
        return
    url = urlsplit(values[ENDPOINT])
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in _LOOPBACK):
        raise ConfigError(variable(ENDPOINT), "must begin with https://")
    for name in (_CLIENT_ID, _CLIENT_SECRET):
        if name not in values:
            raise ConfigError(variable(name), f"is missing: {ENDPOINT} needs it")


def token_provider(values: Mapping[str, Any]) -> AbstractTokenProvider:
    """Return what the client asks for a token, from its thread of connections."""
    if TOKEN_FILE in values:
        return _FromFile(Path(values[TOKEN_FILE]))
    return _FromProvider(values[ENDPOINT], values[_CLIENT_ID], values[_CLIENT_SECRET], values.get(_SCOPE, ""))


class _FromFile(AbstractTokenProvider):  # type: ignore[misc]  # the client is untyped
    def __init__(self, path: Path) -> None:
        self._path = path

    def token(self) -> str:
        return self._path.read_text().strip()


class _FromProvider(AbstractTokenProvider):  # type: ignore[misc]  # the client is untyped
    """Asks for a token by a client's id and secret, and keeps it for most of its life."""

    def __init__(self, url: str, client_id: str, secret: SecretStr, scope: str) -> None:
        self._url = url
        self._client_id = client_id
        self._secret = secret
        self._scope = scope
        self._lock = threading.Lock()
        self._token = SecretStr("")
        self._use_until_s = 0.0

    def token(self) -> str:
        with self._lock:
            if time.monotonic() >= self._use_until_s:
                self._renew()
            return self._token.get_secret_value()

    def _renew(self) -> None:
        form = {"grant_type": "client_credentials"} | ({"scope": self._scope} if self._scope else {})
        credentials = f"{quote(self._client_id, safe='')}:{quote(self._secret.get_secret_value(), safe='')}"
        basic = base64.b64encode(credentials.encode()).decode()
        request = urllib.request.Request(  # noqa: S310 - its scheme was checked
            self._url, urlencode(form).encode(), {"Authorization": f"Basic {basic}", "Accept": "application/json"}
        )
        asked_s = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - as above
                answer = from_json(response.read())
            self._token = SecretStr(answer["access_token"])
            self._use_until_s = asked_s + _USED_SHARE * float(answer.get("expires_in", 0))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"no token: {type(error).__name__}: {error}"
            raise ServiceUnavailable("the identity provider", self._url, time.monotonic() - asked_s, reason) from error
