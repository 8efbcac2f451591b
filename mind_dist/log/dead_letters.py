"""A record that cannot be read → its dead letter: the record's own key and value, and headers that say what, why and from where."""

from __future__ import annotations

from mind_dist.config import KafkaConfig
from mind_dist.log.transactions import NewRecord
from mind_dist.records import Record

_LARGEST_BYTES = 1_000_000  # a record at the broker's limit would not fit with our headers


def dead_letter(config: KafkaConfig, record: Record, error: str) -> NewRecord:
    """Return what to write; a record too large to travel with headers is cut, and says so."""
    headers: dict[str, object] = {
        "error": error,
        "topic": config.topic,
        "partition": record.partition,
        "offset": record.offset,
    }
    value = record.value
    if value is not None and len(value) > _LARGEST_BYTES:
        headers["cut_from_bytes"] = len(value)
        value = value[:_LARGEST_BYTES]
    if record.key is None and value is None:
        value = b""  # the client refuses a record that is null throughout
    told = tuple((name, str(text).encode()) for name, text in headers.items())
    return NewRecord(config.dead_letter_topic, None, record.key, value, told)
