"""What a dataset or a raw log knows of users, as history records tell it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mind_dist.dataset.known_users import users_of_dataset, users_of_events
from mind_dist.dataset.parquet import DatasetManifest, FeatureInfo, PreparedDataset, sequences_table, write_manifest
from mind_dist.dataset.replay import Part
from mind_dist.records import BehaviorSequence
from mind_dist.storage import Directory


def make_sequence(user_key: int, length: int) -> BehaviorSequence:
    items = np.arange(length, dtype=np.int64) * (user_key + 1)
    return BehaviorSequence(user_key, items, np.arange(length, dtype=np.int64))


def write_dataset(
    uri: str, split: dict[str, Any], users: dict[str, list[BehaviorSequence]], **about: Any
) -> PreparedDataset:
    directory = Directory.at(uri)
    for name, sequences in users.items():
        directory.write_table(f"sequences/{name}/bucket-00000.parquet", sequences_table(sequences))
    counts = {name: len(sequences) for name, sequences in users.items()}
    write_manifest(directory, DatasetManifest("int64", 1, counts, counts, 1, 0, 1, split=split, **about))
    return PreparedDataset.open(uri)


def lengths(dataset: PreparedDataset, part: Part, max_behaviors: int = 100) -> dict[int | str, int]:
    found = list(users_of_dataset(dataset, part, max_behaviors))
    assert len({user.user_id for user in found}) == len(found)
    return {user.user_id: len(user.behaviors) for user in found}


def test_held_out_behaviors_of_users_split_by_user_are_not_told(tmp_path: Path) -> None:
    users = {"train": [make_sequence(1, 9)], "valid": [make_sequence(2, 9)], "test": [make_sequence(3, 11)]}
    dataset = write_dataset(str(tmp_path), {"by": "user", "input_fraction": 0.8}, users)
    assert lengths(dataset, "all") == {1: 9, 2: 9, 3: 11}
    assert lengths(dataset, "inputs") == {1: 9, 2: 7, 3: 8}
    assert lengths(dataset, "all", max_behaviors=4) == {1: 4, 2: 4, 3: 4}


def test_a_user_split_by_time_comes_once_with_the_longest_history(tmp_path: Path) -> None:
    users = {
        "train": [make_sequence(1, 4), make_sequence(2, 4), make_sequence(3, 4)],
        "valid": [make_sequence(1, 6), make_sequence(2, 6)],
        "test": [make_sequence(1, 9)],
    }
    dataset = write_dataset(str(tmp_path), {"by": "time", "train_before_ms": 4, "valid_before_ms": 6}, users)
    assert lengths(dataset, "all") == {1: 9, 2: 6, 3: 4}
    assert lengths(dataset, "inputs") == {1: 6, 2: 4, 3: 4}


def test_behaviors_are_told_in_their_order_with_their_types_and_profiles(tmp_path: Path) -> None:
    users = {"train": [make_sequence(1, 2)], "valid": [], "test": []}
    about = {"event_types": ("buy",), "profile_features": (FeatureInfo("age", "buckets", (18.0,)),)}
    dataset = write_dataset(str(tmp_path), {"by": "user", "input_fraction": 0.8}, users, **about)
    profiles = pa.table({"user_id": [1], "original_id": ["1"], "profile_keys": [[5]], "profile": ['{"age": 20}']})
    dataset.directory.write_table("users.parquet", profiles)
    [user] = users_of_dataset(dataset, "all", 100)
    assert (user.behaviors, user.profile) == ([[0, 0, "buy"], [2, 1, "buy"]], {"age": 20})


def test_users_of_a_raw_log_keep_the_order_of_their_events() -> None:
    events = pa.table(
        {
            "user_id": ["b", "a", "b"],
            "item_id": ["x", "y", "z"],
            "timestamp_ms": [1, 2, 3],
            "event_type": ["buy", "view", "buy"],
            "device": ["phone", None, None],
        }
    )
    assert [tuple(user) for user in users_of_events(events, 9)] == [
        ("b", [["x", 1, "buy", {"device": "phone"}], ["z", 3, "buy"]], None),
        ("a", [["y", 2, "view"]], None),
    ]
