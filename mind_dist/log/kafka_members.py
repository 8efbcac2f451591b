"""How a consumer is a member of its group: who shares out partitions, and whether it is known again after a restart."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import xxhash
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor

from mind_dist.config import KafkaConfig
from mind_dist.errors import ConfigError
from mind_dist.log.kafka_broker import admin_client
from mind_dist.log.kafka_settings import PREFIX, client_settings

_LEADER_EPOCHS = 23
"""Key of OffsetForLeaderEpoch, a request that Apache Kafka has known since 0.11 and Tansu does not know. There, members that
share out cooperatively end with no partitions at all."""

_ASSIGNORS = {"cooperative-sticky": CooperativeStickyAssignor, "range": RangePartitionAssignor}
_INSTANCE = re.compile(r"[A-Za-z0-9._-]{1,200}")
_MOST_MEMBERS = 1000


class GroupName:
    """What one consumer is called in a group, and who shares out partitions there; close it after the consumer.

    With `group_instance_id` it is a static member: it comes back under its old name within the session timeout, and
    nobody's partitions move meanwhile. Several members on a machine need several names, and a replica that is replaced
    needs that of the one before; so each takes the lowest number behind the setting that no live process holds.

    Args:
        group: The group.
        can_cooperate: Whether its broker lets members share out cooperatively.

    Raises:
        ConfigError: The setting cannot be a part of a name.
    """

    def __init__(self, group: str, *, can_cooperate: bool) -> None:
        values = client_settings().values
        wanted = str(values.get("partition_assignment_strategy", "range"))
        self.strategy = wanted if can_cooperate else "range"
        instance = str(values.get("group_instance_id", ""))
        if instance and not _INSTANCE.fullmatch(instance):
            raise ConfigError(f"{PREFIX}GROUP_INSTANCE_ID", "must be letters, digits, '.', '_' and '-', 200 at most")
        self._lock: int | None = None
        self.instance_id = self._take_number(group, instance) if instance else None

    @classmethod
    def of(cls, bootstrap: str, config: KafkaConfig, group: str) -> GroupName:
        """Return a name in a group of a broker.

        Raises:
            ConfigError: The setting cannot be a part of a name.
            ServiceUnavailable: The broker did not answer in time.
        """
        with admin_client(bootstrap, config.connect_timeout_s) as admin:
            known = admin._manager.broker_version_data.api_versions  # noqa: SLF001 - the client tells it nowhere else
        return cls(group, can_cooperate=_LEADER_EPOCHS in known)

    def close(self) -> None:
        """Let another process of this machine have the name."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_number(self, group: str, instance: str) -> str:
        folder = Path(tempfile.gettempdir()) / f"mind-dist-members-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        for number in range(_MOST_MEMBERS):
            name = f"{instance}-{number}"
            lock = os.open(folder / f"{xxhash.xxh3_64_hexdigest(group.encode())}-{name}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it however the process ends
            except BlockingIOError:
                os.close(lock)
            else:
                self._lock = lock
                return name
        raise ConfigError(f"{PREFIX}GROUP_INSTANCE_ID", f"{_MOST_MEMBERS} processes of this machine use {instance!r}")


def consumer_settings(config: KafkaConfig, group: str, name: GroupName | None) -> dict[str, Any]:
    """Return the settings of each consumer that speaks for a group, as a member under a name, or by hand."""
    as_member = {"group_instance_id": name.instance_id} if name else {}
    return {
        **as_member,
        "partition_assignment_strategy": [_ASSIGNORS[name.strategy if name else "range"]()],
        "group_id": group,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",  # see KafkaSource._with_positions
        "isolation_level": "read_committed",  # records of aborted transactions never count
        "metadata_max_age_ms": int(config.metadata_max_age_s * 1000),
        "max_poll_records": config.max_poll_records,
        "session_timeout_ms": int(config.session_timeout_s * 1000),
        "heartbeat_interval_ms": int(config.session_timeout_s * 125),
        "max_poll_interval_ms": int(config.max_poll_interval_s * 1000),
    }
