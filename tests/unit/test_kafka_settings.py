"""Settings of the Kafka client from the environment and files: passed on, refused by name, never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.record import util

from mind_dist.errors import ConfigError
from mind_dist.local_stack import LocalStack
from mind_dist.log.kafka_settings import client_settings, shareable

SCRAM = {
    "MIND_DIST_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "MIND_DIST_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "MIND_DIST_KAFKA_SASL_PLAIN_USERNAME": "alice",
    "MIND_DIST_KAFKA_SASL_PLAIN_PASSWORD": "geheim",
}


def arguments(client: type[Any], **settings: str) -> dict[str, Any]:
    return client_settings({f"MIND_DIST_KAFKA_{name.upper()}": value for name, value in settings.items()}).arguments(
        client
    )


def test_a_setting_reaches_the_clients_that_know_it_as_a_value_of_its_type() -> None:
    given = {
        "fetch_min_bytes": "1024",
        "linger_ms": "20",
        "check_crcs": "false",
        "client_rack": "eu-1",
        "client_id": "shop",
    }
    assert arguments(KafkaConsumer, **given) == {
        "fetch_min_bytes": 1024, "check_crcs": False, "client_rack": "eu-1", "client_id": "shop",
    }  # fmt: skip
    assert arguments(KafkaProducer, **given) == {"linger_ms": 20, "client_id": "shop"}
    assert arguments(KafkaAdminClient, **given) == {"client_id": "shop"}


def test_a_secret_is_in_no_repr_and_travels_nowhere() -> None:
    settings = client_settings(SCRAM)
    given = settings.arguments(KafkaConsumer)
    assert given["sasl_plain_password"] == "geheim"
    assert "geheim" not in repr(settings) + repr(given) + repr(shareable(SCRAM))
    assert shareable(SCRAM) == {name: value for name, value in SCRAM.items() if "PASSWORD" not in name}


def test_a_file_gives_settings_and_the_environment_overrides_them(tmp_path: Path) -> None:
    properties, toml = tmp_path / "client.properties", tmp_path / "client.toml"
    properties.write_text("# the team's\nsecurity.protocol = SASL_SSL\nsasl.mechanism: PLAIN\nsasl.plain.username=alice\n"
                          "sasl.plain.password = a\\\\b=c \n")  # fmt: skip
    toml.write_text('security_protocol = "SASL_SSL"\nfetch.min.bytes = 7\n[sasl]\nmechanism = "PLAIN"\n'
                    'plain = { username = "alice", password = "a\\\\b=c " }')  # fmt: skip
    for file, fetch in ((properties, None), (toml, 7)):
        values = client_settings(
            {"MIND_DIST_KAFKA_CONFIG": str(file), "MIND_DIST_KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"}
        ).values
        assert (values["security_protocol"], values["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-256")
        assert values["sasl_plain_password"].get_secret_value() == "a\\b=c "  # type: ignore[union-attr]
        assert values.get("fetch_min_bytes") == fetch


def test_a_secret_in_a_file_of_its_own_is_read_anew_for_each_client(tmp_path: Path) -> None:
    file = tmp_path / "password"
    environment = {name: value for name, value in SCRAM.items() if "PASSWORD" not in name}
    environment["MIND_DIST_KAFKA_SASL_PLAIN_PASSWORD_FILE"] = str(file)
    for password in ("first", "second"):
        file.write_text(f"{password}\n")
        assert client_settings(environment).arguments(KafkaProducer)["sasl_plain_password"] == password
    assert shareable(environment) == environment
    file.unlink()
    with pytest.raises(ConfigError, match=r"MIND_DIST_KAFKA_SASL_PLAIN_PASSWORD_FILE: cannot be read: .*password"):
        client_settings(environment)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sasl_passwort": "geheim"}, "SASL_PASSWORT: unknown setting of the Kafka client; did you mean .*sasl_plain_password"),
        ({"sasl_jaas_config": "geheim"}, "SASL_JAAS_CONFIG: is another client's name.*sasl_plain_username"),
        ({"isolation_level": "read_uncommitted"}, "ISOLATION_LEVEL: cannot be chosen"),
        ({"max_poll_records": "1"}, "MAX_POLL_RECORDS: is not taken from here: it is kafka.max_poll_records"),
        ({"ssl_context": "x"}, "SSL_CONTEXT: is no setting that a text could give"),
        ({"fetch_min_bytes": "many"}, "FETCH_MIN_BYTES: must be a whole number, not 'many'"),
        ({"fetch_max_wait_ms": "-1"}, "FETCH_MAX_WAIT_MS: must be 0 or more, not '-1'"),
        ({"check_crcs": "perhaps"}, "CHECK_CRCS: must be true or false"),
        ({"security_protocol": "TLS"}, "SECURITY_PROTOCOL: must be one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL, not 'TLS'"),
        ({"max_in_flight_requests_per_connection": "6"}, "PER_CONNECTION: must be between 1 and 5"),
        ({"ssl_cafile": "ca.pem"}, "SSL_CAFILE: has no effect with security_protocol PLAINTEXT"),
        ({"security_protocol": "SSL", "sasl_mechanism": "PLAIN"}, "SASL_MECHANISM: has no effect with security_protocol SSL"),
        ({"security_protocol": "SSL", "ssl_keyfile": "k"}, "SSL_KEYFILE: needs ssl_certfile"),
        ({"security_protocol": "SASL_SSL"}, "SASL_MECHANISM: is missing: one of PLAIN, SCRAM-SHA-256"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_plain_username": "a"}, "SASL_PLAIN_PASSWORD: is missing"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "GSSAPI"}, "SASL_MECHANISM: GSSAPI needs a package: pip install gssapi"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "TOKEN_FILE: OAUTHBEARER needs sasl_oauthbearer_token_file"),
        ({"config": "/nowhere/kafka.toml"}, "CONFIG: /nowhere/kafka.toml cannot be read"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^MIND_DIST_KAFKA_.*{message}") as refused:
        arguments(KafkaConsumer, **settings)
    assert "\n" not in str(refused.value)
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("kafka.properties", "sasl.plain.password", "line 1 is not name=value"),
        ("kafka.toml", "password = geheim", "is no TOML at line 1"),
        ("kafka.properties", "sasl.passwort=geheim", "sasl.passwort: unknown setting"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_nothing_of_it_shown(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"{name}.*{message}") as refused:
        client_settings({"MIND_DIST_KAFKA_CONFIG": str(tmp_path / name)})
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://login.example.org/token", "URL: must begin with https://"),
        ("https://login.example.org/token", "CLIENT_ID: is missing"),
    ],
)
def test_an_identity_provider_is_asked_by_tls_and_with_a_name(url: str, problem: str) -> None:
    given = {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}
    with pytest.raises(ConfigError, match=problem):
        arguments(KafkaConsumer, **given, sasl_oauthbearer_token_endpoint_url=url)


def test_what_kubernetes_says_of_a_service_of_our_name_is_no_setting() -> None:
    links = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT_TCP": "9092",
        "PORT": "tcp://10.0.0.1:9092",
        "PORT_9092_TCP_ADDR": "10.0.0.1",
    }
    environment = {f"MIND_DIST_KAFKA_{name}": value for name, value in links.items()}
    assert client_settings(environment).values == shareable(environment) == {}


@pytest.mark.parametrize(
    ("setting", "value"), [("ssl_cafile", "/nowhere/ca.pem"), ("ssl_certfile", __file__), ("ssl_ciphers", "none such")]
)
def test_a_certificate_that_cannot_be_used_is_named_before_anybody_connects(setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"Kafka's {setting}: '{value}' cannot be used"):
        arguments(KafkaConsumer, security_protocol="SSL", **{setting: value})


def test_no_broker_of_a_laptop_is_started_for_clients_that_would_not_connect_to_it(tmp_path: Path) -> None:
    environment = {"MIND_DIST_KAFKA_SECURITY_PROTOCOL": "SSL"}
    with (
        pytest.raises(
            ConfigError, match=r"^MIND_DIST_KAFKA: is missing, while MIND_DIST_KAFKA_SECURITY_PROTOCOL is SSL"
        ),
        LocalStack.start(tmp_path, milvus=False, ray=False, environment=environment),
    ):
        pytest.fail("it started")


def test_the_client_computes_checksums_by_its_library() -> None:
    assert util.crc32c_c is not None, "in Python they take 73 µs a KB"
