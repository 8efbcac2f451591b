"""User rows → the columns of one upsert, as Milvus' protocol has them.

pymilvus packs rows value by value: of a row with 4 interests of 64 numbers and 50 behaviors that took 39 µs, more than
to compute the interests. Here a column is packed at once, and the vectors' bytes go into the message as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient
from pymilvus.client.call_context import _api_level_md
from pymilvus.client.utils import check_status
from pymilvus.grpc_gen import milvus_pb2, schema_pb2

from mind_dist.index.vector_store import UserRow, VersionInfo

_ROW_BYTES = 64
"""What a row takes beside its arrays, about."""

_PACKED_FIELD_1 = b"\x0a"
"""Tag of a message's first field, as a length and so many bytes: how `FloatArray` has its numbers."""


def upsert_users(
    client: MilvusClient, collection: str, columns: Sequence[Any], num_rows: int, *, timeout: float
) -> None:
    """Write rows by one request.

    Args:
        client: The connection.
        collection: Name of a version's collection of users.
        columns: What `user_columns` gave.
        num_rows: How many rows they have.
        timeout: Bound of the call, in seconds.

    Raises:
        MilvusException: The server refuses.
        grpc.RpcError: It did not answer.
    """
    request = milvus_pb2.UpsertRequest(collection_name=collection, num_rows=num_rows, fields_data=columns)
    handler, context = client._get_connection(), client._generate_call_context()  # noqa: SLF001 - pymilvus' own upsert packs anew
    answer = handler._stub.Upsert(request, timeout=timeout, metadata=_api_level_md(context))  # noqa: SLF001 - as above
    check_status(answer.status)


def user_columns(info: VersionInfo, rows: Sequence[UserRow], behavior_fields: Sequence[str]) -> list[Any]:
    """Return one `FieldData` for each field of a version's users (`milvus_schema.users_schema`).

    Args:
        info: The version.
        rows: The users; interests that a user does not have are zeros.
        behavior_fields: Names of the fields that have a key of each behavior.
    """
    kinds = [row.behavior_keys.T.tolist() or [[]] * len(behavior_fields) for row in rows]
    return [
        _integers("user_id", (row.user_key for row in rows)),
        _vectors("interests", rows, info.num_interests * info.dim),
        _integers("num_interests", (len(row.interests) for row in rows)),
        _arrays("weights", "float_data", (row.weights.tolist() for row in rows)),
        _keys("behaviors", (row.behaviors.tolist() for row in rows)),
        _keys("timestamps_ms", (row.timestamps_ms.tolist() for row in rows)),
        _keys("profile", (row.profile.tolist() for row in rows)),
        *(_keys(name, (of_row[place] for of_row in kinds)) for place, name in enumerate(behavior_fields)),
        _integers("partition", (row.partition for row in rows)),
        _integers("state_offset", (row.state_offset for row in rows)),
        _integers("updated_ms", (row.updated_ms for row in rows)),
        _texts("model_version", [info.model_version] * len(rows)),
    ]


def parts_of_users(
    info: VersionInfo, rows: Sequence[UserRow], max_rows: int, max_bytes: int
) -> Iterator[Sequence[UserRow]]:
    """Cut rows into parts that one request can carry."""
    first, size, of_interests = 0, 0, 4 * info.num_interests * (info.dim + 1)
    for place, row in enumerate(rows):
        row_bytes = _ROW_BYTES + of_interests + 16 * len(row.behaviors) + row.profile.nbytes + row.behavior_keys.nbytes
        if place > first and (place - first == max_rows or size + row_bytes > max_bytes):
            yield rows[first:place]
            first, size = place, 0
        size += row_bytes
    if first < len(rows):
        yield rows[first:]


def _vectors(name: str, rows: Sequence[UserRow], width: int) -> Any:
    padded = np.zeros((len(rows), width), dtype="<f4")
    for place, row in enumerate(rows):
        padded[place, : row.interests.size] = row.interests.reshape(-1)
    numbers = schema_pb2.FloatArray.FromString(_PACKED_FIELD_1 + _varint(padded.nbytes) + padded.tobytes())
    vectors = schema_pb2.VectorField(dim=width, float_vector=numbers)
    return schema_pb2.FieldData(field_name=name, type=DataType.FLOAT_VECTOR, vectors=vectors)


def _varint(number: int) -> bytes:
    """Return a number as protocol buffers have lengths: seven bits a byte, the least first.

    >>> _varint(300).hex()
    'ac02'
    """
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _integers(name: str, values: Iterable[int]) -> Any:
    scalars = schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=values))
    return schema_pb2.FieldData(field_name=name, type=DataType.INT64, scalars=scalars)


def _texts(name: str, values: Sequence[str]) -> Any:
    scalars = schema_pb2.ScalarField(string_data=schema_pb2.StringArray(data=values))
    return schema_pb2.FieldData(field_name=name, type=DataType.VARCHAR, scalars=scalars)


def _keys(name: str, rows: Iterable[list[int]]) -> Any:
    return _arrays(name, "long_data", rows)


def _arrays(name: str, kind: str, rows: Iterable[list[Any]]) -> Any:
    """Return a column with an array in each row."""
    column = schema_pb2.FieldData(field_name=name, type=DataType.ARRAY)
    for values in rows:
        getattr(column.scalars.array_data.data.add(), kind).data.extend(values)
    return column
