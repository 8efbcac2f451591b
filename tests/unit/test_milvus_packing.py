"""Our packing of users gives the messages that pymilvus gives for the same rows."""

import numpy as np
from pymilvus.client.prepare import Prepare

from mind_dist.index import milvus_schema as layout
from mind_dist.index.milvus_packing import parts_of_users, user_columns
from mind_dist.index.vector_store import UserRow, VersionInfo

INFO = VersionInfo(
    "v1", dim=3, num_interests=2, similarity="cosine", uri="", max_behaviors=9, behavior_features=("event_type", "page")
)


def user(key: int, num_interests: int, length: int) -> UserRow:
    random = np.random.default_rng(key)
    return UserRow(
        key,
        random.normal(size=(num_interests, INFO.dim)).astype(np.float32),
        random.random(num_interests).astype(np.float32),
        random.integers(-(1 << 60), 1 << 60, length),
        1_700_000_000_000 + np.arange(length),
        random.integers(1 << 60, size=key % 3),
        partition=1,
        state_offset=key,
        updated_ms=1_700_000_000_000,
        model_version=INFO.model_version,
        behavior_keys=random.integers(1 << 60, size=(length, 2)),
    )


ROWS = [user(1, 2, 9), user(2, 1, 1), user(3, 0, 0), layout.marker(INFO)]


def test_users_are_packed_as_pymilvus_packs_them() -> None:
    names = layout.behavior_fields(INFO)
    plain = []
    for row in ROWS:
        interests = np.zeros(INFO.num_interests * INFO.dim, dtype=np.float32)
        interests[: row.interests.size] = row.interests.reshape(-1)
        kinds = row.behavior_keys.T.tolist() or [[], []]
        plain.append(
            {
                "user_id": row.user_key,
                "interests": interests,
                "num_interests": len(row.interests),
                "weights": row.weights.tolist(),
                "behaviors": row.behaviors.tolist(),
                "timestamps_ms": row.timestamps_ms.tolist(),
                "profile": row.profile.tolist(),
                "partition": row.partition,
                "state_offset": row.state_offset,
                "updated_ms": row.updated_ms,
                "model_version": INFO.model_version,
                **dict(zip(names, kinds, strict=True)),
            }
        )
    fields = layout.users_schema(INFO).to_dict()["fields"]
    expected = Prepare.row_upsert_param("users", plain, "", fields_info=fields).fields_data
    packed = user_columns(INFO, ROWS, names)
    assert {each.field_name: each for each in packed} == {each.field_name: each for each in expected}


def test_users_are_cut_into_parts_that_a_request_can_carry() -> None:
    rows = [user(key, 2, 9) for key in range(10)]
    for max_rows, max_bytes, num_parts in [(4, 1 << 20, 3), (100, 1, 10), (100, 1 << 20, 1)]:
        parts = list(parts_of_users(INFO, rows, max_rows, max_bytes))
        assert [row for part in parts for row in part] == rows
        assert len(parts) == num_parts
    assert not list(parts_of_users(INFO, [], 4, 1))
