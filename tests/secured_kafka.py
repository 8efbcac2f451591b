"""An Apache Kafka whose listeners ask who comes: by password or token over plain connections, by certificate over TLS."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from mind_dist import local_stack
from mind_dist.local_process import LocalProcess, free_ports
from mind_dist.log.kafka_broker import admin_client
from mind_dist.strict_json import to_json

USER, PASSWORD = "alice", "pass-word-1"

_LISTENERS = """
listeners={listeners}
advertised.listeners={advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,MTLS:SSL,SASL_TLS:SASL_SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
ssl.keystore.type=PEM
ssl.keystore.location={directory}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={directory}/ca.pem
listener.name.mtls.ssl.client.auth=required
"""
_JAAS = {
    "plain": f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
    "scram-sha-256": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
    "scram-sha-512": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
    "oauthbearer": "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
}


@dataclass(frozen=True)
class SecuredKafka:
    """Addresses of the listeners, and a folder with ca.pem, client.pem and other-ca.pem."""

    plain: str
    sasl: str
    tls: str
    mutual_tls: str
    sasl_tls: str
    folder: Path

    @property
    def ca(self) -> str:
        return str(self.folder / "ca.pem")


def secured_kafka(directory: Path, kafka_home: Path) -> tuple[LocalProcess, SecuredKafka]:
    """Return a broker to start, and what its clients need; its SCRAM users are made by `add_users` once it is up."""
    broker = local_stack.apache_kafka(directory, kafka_home)
    _write_certificates(directory)
    names = ["SASL", "TLS", "MTLS", "SASL_TLS"]
    ports = dict(zip(["PLAINTEXT", *names], [broker.port, *free_ports(len(names))], strict=True))
    advertised = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
    listeners = f"{advertised},CONTROLLER://127.0.0.1:{broker.other_ports[0]}"
    with (directory / "kafka.properties").open("a") as properties:
        properties.write(_LISTENERS.format(listeners=listeners, advertised=advertised, directory=directory))
        for listener in ("sasl", "sasl_tls"):
            for mechanism, login in _JAAS.items():
                properties.write(f"listener.name.{listener}.{mechanism}.sasl.jaas.config={login}\n")
    plain, sasl, tls, mutual_tls, sasl_tls = (f"127.0.0.1:{port}" for port in ports.values())
    return broker, SecuredKafka(plain, sasl, tls, mutual_tls, sasl_tls, directory)


def add_users(kafka: SecuredKafka) -> None:
    """Make the user of both SCRAM mechanisms."""
    with admin_client(kafka.plain, 10) as admin:
        for mechanism in (
            ScramMechanism.SCRAM_SHA_256,
            ScramMechanism.SCRAM_SHA_512,
        ):  # both in one request are refused
            answer = admin.alter_user_scram_credentials([UserScramCredentialUpsertion(USER, mechanism, PASSWORD)])
            assert answer == {USER: None}


def unsigned_token(subject: str = USER, valid_s: int = 300) -> str:
    """Return a token that a broker takes which was told of no keys: no algorithm, no signature."""
    now_s = int(time.time())
    claims = {"sub": subject, "iat": now_s, "exp": now_s + valid_s}
    parts = [base64.urlsafe_b64encode(to_json(part).encode()).rstrip(b"=") for part in ({"alg": "none"}, claims)]
    return b".".join([*parts, b""]).decode()


def _write_certificates(directory: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    trustme.CA().cert_pem.write_to_path(directory / "other-ca.pem")
    for name, certificate in (
        ("server", authority.issue_cert("127.0.0.1")),
        ("client", authority.issue_cert("alice@example.org")),
    ):
        key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
        pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # the only form that Kafka reads
        chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
        (directory / f"{name}.pem").write_bytes(pkcs8 + chain)
