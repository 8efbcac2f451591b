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
from mind_dist.log.kafka_settings import PREFIX, client_settings

_TANSU = "tansu_cluster"
"""What every Tansu calls its cluster. There, members that share out cooperatively end with no partitions at all."""

_ASSIGNORS = {"cooperative-sticky": CooperativeStickyAssignor, "range": RangePartitionAssignor}
_INSTANCE = re.compile(r"[A-Za-z0-9._-]{1,200}")
_MOST_MEMBERS = 1000


class Membership:
    """One consumer's membership of a group, by the deployment's settings; close it after the consumer.

    With `group_instance_id` it is a static member: it comes back under its old name within the session timeout, and
    nobody's partitions move meanwhile. Several members on a machine need several names, and a replica that is replaced
    needs that of the one before; so each takes the lowest number behind the setting that no live process holds.

    Args:
        group: The group.
        cluster_id: The cluster; some cannot share out cooperatively.

    Raises:
        ConfigError: The setting cannot be a part of a name.
    """

    def __init__(self, group: str, cluster_id: str) -> None:
        values = client_settings().values
        strategy = values.get(
            "partition_assignment_strategy", "range" if cluster_id == _TANSU else "cooperative-sticky"
        )
        instance = str(values.get("group_instance_id", ""))
        if instance and not _INSTANCE.fullmatch(instance):
            raise ConfigError(f"{PREFIX}GROUP_INSTANCE_ID", "must be letters, digits, '.', '_' and '-', 200 at most")
        self._lock: int | None = None
        self.instance_id = self._take_number(group, instance) if instance else None
        self.settings: dict[str, Any] = {
            "partition_assignment_strategy": [_ASSIGNORS[str(strategy)]()],
            "group_instance_id": self.instance_id,
        }

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


def consumer_settings(config: KafkaConfig, group: str) -> dict[str, Any]:
    """Return the settings of each consumer that speaks for a group, as a member or by hand."""
    return {
        "group_id": group,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",  # see KafkaSource._with_positions
        "isolation_level": "read_committed",  # records of aborted transactions never count
        "allow_auto_create_topics": False,
        "metadata_max_age_ms": int(config.metadata_max_age_s * 1000),
        "max_poll_records": config.max_poll_records,
        "session_timeout_ms": int(config.session_timeout_s * 1000),
        "heartbeat_interval_ms": int(config.session_timeout_s * 125),
        "max_poll_interval_ms": int(config.max_poll_interval_s * 1000),
    }
