"""Histories follow their users when a topic has got more partitions than the saved version knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from mind_dist.checkpoint import ModelVersion, VersionWriter
from mind_dist.checkpoint.manifest import FORMAT_VERSION, Manifest
from mind_dist.errors import ConfigError
from mind_dist.log.codec import encode_key
from mind_dist.log.partitioner import home_partition, key_hash
from mind_dist.records import BehaviorSequence, PartTrained, UserHistory
from mind_dist.storage import Directory
from mind_dist.training.moved_histories import saved_histories, saved_positions

USERS = range(1, 60)


def history_of(user: int, *items: int) -> UserHistory:
    kept = np.array(items or (user, user + 1), dtype=np.int64)
    return UserHistory(BehaviorSequence(user, kept, kept * 10), key_hash(encode_key(user)))


def save(
    path: Path,
    files: Mapping[int, Sequence[UserHistory]],
    num_partitions: int = 4,
    part_trained: dict[int, list[PartTrained]] | None = None,
) -> ModelVersion:
    writer = VersionWriter(Directory.at(path))
    for partition, histories in files.items():
        writer.write_history(partition, histories)
    positions = dict.fromkeys(range(num_partitions), 5)
    manifest = Manifest(
        FORMAT_VERSION, "v1", 0, {}, "int64", 3, 0, positions, {}, "kafka://t", writer.files, part_trained or {}
    )
    return ModelVersion(Directory.at(path), manifest)


def at_home(num_partitions: int) -> dict[int, list[UserHistory]]:
    files: dict[int, list[UserHistory]] = {partition: [] for partition in range(num_partitions)}
    for user in USERS:
        history = history_of(user)
        files[home_partition(history.key_hash, num_partitions)].append(history)
    return files


def users_of(histories: Mapping[int, Sequence[UserHistory]]) -> dict[int, list[int]]:
    return {p: sorted(history.sequence.user_key for history in found) for p, found in histories.items() if found}


@pytest.mark.parametrize("now", [4, 5, 8, 11])
def test_each_user_is_in_the_one_partition_that_its_events_come_from_now(tmp_path: Path, now: int) -> None:
    version = save(tmp_path, at_home(4))
    found: dict[int, list[UserHistory]] = {}
    for rank in range(3):
        found |= saved_histories(version, "events", range(rank, now, 3), now, 10)
    assert users_of(found) == users_of(at_home(now))
    by_user = {history.sequence.user_key: history for histories in found.values() for history in histories}
    assert all(np.array_equal(by_user[u].sequence.item_keys, [u, u + 1]) for u in USERS)


def test_a_history_in_two_parts_becomes_one(tmp_path: Path) -> None:
    files = at_home(4)
    user = 7
    home = home_partition(key_hash(encode_key(user)), 4)
    files[(home + 1) % 4].append(history_of(user, 1, 20))
    found = saved_histories(save(tmp_path, files), "events", range(5), 5, max_behaviors=3)
    parts = [h.sequence for histories in found.values() for h in histories if h.sequence.user_key == user]
    assert [part.item_keys.tolist() for part in parts] == [[7, 8, 20]]


def test_users_of_another_partitioner_are_not_moved_by_guess(tmp_path: Path) -> None:
    files = {(partition + 1) % 4: histories for partition, histories in at_home(4).items()}
    with pytest.raises(ConfigError, match=r"grown from 4 to 5 partitions, and the records of 59 of 59 users"):
        saved_histories(save(tmp_path, files), "events", [0], 5, 10)
    assert users_of(saved_histories(save(tmp_path, files), "events", range(4), 4, 10)) == users_of(files)


def test_ids_whose_keys_are_not_known_are_not_moved_by_guess(tmp_path: Path) -> None:
    unknown = {p: [history._replace(key_hash=-1) for history in found] for p, found in at_home(4).items()}
    with pytest.raises(ConfigError, match="59 of 59 users"):
        saved_histories(save(tmp_path, unknown), "events", [0], 5, 10)


def test_a_topic_that_was_made_anew_with_fewer_partitions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'events' has 3 partitions, the run's version v1 stands in 4"):
        saved_histories(save(tmp_path, at_home(4)), "events", [0], 3, 10)


def test_a_version_that_keeps_no_histories_goes_on_with_more_partitions(tmp_path: Path) -> None:
    version = save(tmp_path, {})
    assert saved_histories(version, "events", range(5), 5, 10) == {}


def test_among_more_partitions_a_run_goes_back_to_what_it_had_passed_over(tmp_path: Path) -> None:
    parts = {1: [PartTrained(2, 0, 9), PartTrained(4, 3, 5)], 2: [PartTrained(2, 1, 8)]}
    version = save(tmp_path, {}, part_trained=parts)
    assert saved_positions(version, 4) == {0: 5, 1: 5, 2: 5, 3: 5}
    assert saved_positions(version, 6) == {0: 5, 1: 3, 2: 5, 3: 5}
