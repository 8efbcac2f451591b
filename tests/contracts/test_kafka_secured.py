"""An Apache Kafka that asks who comes: all that we do with a log, by password, token and certificate."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mind_dist.config import KafkaConfig
from mind_dist.errors import ServiceRefused
from mind_dist.log.kafka import EventProducer, KafkaDeadLetters, KafkaSource, ensure_event_topics, wait_for_broker
from mind_dist.records import Record
from mind_dist.strict_json import to_json
from tests.secured_kafka import PASSWORD, USER, SecuredKafka, add_users, secured_kafka, unsigned_token
from tests.services import KAFKA_HOME

CLIENT_SECRET = "secret-of-the-client"


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    broker, secured = secured_kafka(tmp_path_factory.mktemp("secured"), KAFKA_HOME)
    with broker:
        add_users(secured)
        yield secured


Given = Callable[..., None]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    """Return what sets settings of the client in the environment."""

    def set_all(**settings: str) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(f"MIND_DIST_KAFKA_{name.upper()}", value)

    return set_all


def login(mechanism: str, password: str = PASSWORD, protocol: str = "SASL_PLAINTEXT") -> dict[str, str]:
    names = {"sasl_mechanism": mechanism, "sasl_plain_username": USER, "sasl_plain_password": password}
    return names | {"security_protocol": protocol}


def use_everything(address: str) -> None:
    """Make topics, write an event and a dead letter, read, ask for the end, commit, as a member of a group."""
    topic = f"events-{uuid.uuid4().hex}"
    config = KafkaConfig(topic, f"{topic}-dead", connect_timeout_s=10)
    ensure_event_topics(address, config, 1)
    with closing(EventProducer(address, config)) as producer:
        producer.send(1, 2, 3)
    with closing(KafkaDeadLetters(address, config)) as letters:
        letters.send(Record(0, 7, b"1", b"{not json", 0), "broken")
    with closing(KafkaSource(address, config, "group")) as source:
        while not source.poll(1):
            pass
        assert source.end_positions() == {0: 1}
        source.commit({0: 1})
        assert source.committed() == {0: 1}


if KAFKA_HOME.is_dir():  # Tansu has no such listeners

    @pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
    def test_all_clients_come_in_by_password(kafka: SecuredKafka, given: Given, mechanism: str) -> None:
        given(**login(mechanism))
        use_everything(kafka.sasl)

    def test_all_clients_come_in_by_password_over_tls(kafka: SecuredKafka, given: Given) -> None:
        given(**login("SCRAM-SHA-512", protocol="SASL_SSL"), ssl_cafile=kafka.ca)
        use_everything(kafka.sasl_tls)

    def test_all_clients_come_in_by_certificate(kafka: SecuredKafka, given: Given) -> None:
        given(security_protocol="SSL", ssl_cafile=kafka.ca, ssl_certfile=str(kafka.folder / "client.pem"))
        use_everything(kafka.mutual_tls)

    def test_all_clients_come_in_by_settings_of_a_file(kafka: SecuredKafka, given: Given, tmp_path: Path) -> None:
        file = tmp_path / "client.properties"
        file.write_text(f"security.protocol=SSL\nssl.cafile={kafka.ca}\n")
        given(config=str(file))
        use_everything(kafka.tls)

    def test_all_clients_come_in_by_a_token_of_an_identity_provider(kafka: SecuredKafka, given: Given) -> None:
        with identity_provider() as (url, asked):
            given(
                security_protocol="SASL_PLAINTEXT",
                sasl_mechanism="OAUTHBEARER",
                sasl_oauthbearer_token_endpoint_url=url,
                sasl_oauthbearer_client_credentials_client_id="shop",
                sasl_oauthbearer_client_credentials_client_secret=CLIENT_SECRET,
                sasl_oauthbearer_scope="kafka",
            )
            use_everything(kafka.sasl)
        assert set(asked) == {
            ("grant_type=client_credentials&scope=kafka", "Basic c2hvcDpzZWNyZXQtb2YtdGhlLWNsaWVudA==")
        }

    def test_a_token_is_read_from_a_file(kafka: SecuredKafka, given: Given, tmp_path: Path) -> None:
        file = tmp_path / "token"
        given(security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", sasl_oauthbearer_token_file=str(file))
        file.write_text(unsigned_token() + "\n")
        wait_for_broker(kafka.sasl, 10)
        file.write_text(unsigned_token(valid_s=-600))
        with pytest.raises(ServiceRefused, match="invalid_token"):
            wait_for_broker(kafka.sasl, 10)

    @pytest.mark.parametrize(
        ("listener", "settings", "reason"),
        [
            ("sasl", login("PLAIN", "wrong-one"), f"Invalid username or password.*PLAIN as {USER}"),
            ("sasl", login("SCRAM-SHA-256", "wrong-one"), f"invalid credentials.*SCRAM-SHA-256 as {USER}"),
            ("tls", {"security_protocol": "SSL", "ssl_cafile": "other-ca.pem"}, "certificate verify failed"),
            ("mutual_tls", {"security_protocol": "SSL", "ssl_cafile": "ca.pem"}, "bad certificate"),
        ],
        ids=["PLAIN", "SCRAM", "server", "client"],
    )
    def test_who_is_refused_hears_why_at_once(
        kafka: SecuredKafka,
        given: Given,
        listener: str,
        settings: dict[str, str],
        reason: str,
    ) -> None:
        given(
            **{name: str(kafka.folder / value) if value.endswith(".pem") else value for name, value in settings.items()}
        )
        with pytest.raises(ServiceRefused, match=reason) as refused:
            wait_for_broker(getattr(kafka, listener), 60)
        assert "wrong-one" not in str(refused.value)

    def test_no_log_line_has_the_password(kafka: SecuredKafka, given: Given, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        given(**login("PLAIN"))
        use_everything(kafka.sasl)
        assert "kafka" in caplog.text
        assert PASSWORD not in caplog.text


@contextmanager
def identity_provider() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the address of a server that gives out tokens, and what it was asked for and by whom."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asked.append((form, self.headers["Authorization"]))
            answer = to_json({"access_token": unsigned_token(), "token_type": "Bearer", "expires_in": 300}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/token", asked
        finally:
            server.shutdown()
            thread.join()
