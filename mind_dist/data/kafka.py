"""draft"""

from __future__ import annotations

from kafka import KafkaAdminClient
from kafka.errors import KafkaError


def answers(bootstrap: str) -> bool:
    """Tell whether a broker answers."""
    try:
        client = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=1000)
    except KafkaError:
        return False
    try:
        return bool(client.describe_cluster())
    finally:
        client.close()
