"""The lock of publishers in Milvus: a collection that one can create, and that shows who it was.

A server creates a collection once; whoever comes second is refused, unless all about it is the same, and the holder's name in its
description never is. Partitions are its heartbeat: they are names alone, so nothing is written, indexed or loaded.
"""

from __future__ import annotations

from typing import Any

from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from mind_dist.index.milvus_connection import MilvusConnection

_HOLDER = "mind_dist.holder"
_BEAT = "beat_"


class MilvusPublishLock:
    """A `PublishLock` in Milvus.

    Args:
        connection: The server.
        name: Of the collection.
        lite: The server is Milvus Lite, which drops descriptions and keeps properties.
    """

    def __init__(self, connection: MilvusConnection, name: str, *, lite: bool) -> None:
        self._call, self._name, self._lite = connection.call, name, lite

    def create(self, holder: str) -> bool:
        """Make the lock, unless there is one; tell whether `holder` has it."""
        self._call(_create, self._name, holder, {_HOLDER: holder} if self._lite else {})
        found = self.state()
        return found is not None and found[0] == holder

    def state(self) -> tuple[str, int] | None:
        """Return who holds the lock, and how often it has beaten; None where there is none."""
        return self._call(_state, self._name)

    def beat(self, holder: str) -> bool:
        """Show that the holder lives; False where the lock is another's."""
        found = self.state()
        if found is None or found[0] != holder:
            return False
        self._call(_beat, self._name, found[1])
        return True

    def remove(self, holder: str) -> None:
        """Remove the lock if it is this holder's."""
        found = self.state()
        if found is not None and found[0] == holder:
            self._call(MilvusClient.drop_collection, self._name)


def _create(client: MilvusClient, name: str, holder: str, properties: dict[str, str], *, timeout: float) -> None:
    if client.has_collection(name, timeout=timeout):
        return
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=holder)
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)  # no collection goes without
    try:
        client.create_collection(name, schema=schema, properties=properties, timeout=timeout)
    except MilvusException:
        if not client.has_collection(name, timeout=timeout):
            raise


def _state(client: MilvusClient, name: str, *, timeout: float) -> tuple[str, int] | None:
    try:
        described: dict[str, Any] = client.describe_collection(name, timeout=timeout)
        partitions = client.list_partitions(name, timeout=timeout)
    except MilvusException:
        if client.has_collection(name, timeout=timeout):
            raise
        return None
    holder = described["description"] or described["properties"].get(_HOLDER, "")
    return str(holder), max((int(each.removeprefix(_BEAT)) for each in partitions if each.startswith(_BEAT)), default=0)


def _beat(client: MilvusClient, name: str, before: int, *, timeout: float) -> None:
    client.create_partition(name, f"{_BEAT}{before + 1}", timeout=timeout)
    if before:
        client.drop_partition(name, f"{_BEAT}{before}", timeout=timeout)
