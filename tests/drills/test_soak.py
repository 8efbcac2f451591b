"""A short soak; `make soak` is the long one."""

import os
from pathlib import Path

import ray

from mind_dist import local_stack
from mind_dist.config import Addresses
from tests.drills.soak import soak

DURATION_S = float(os.environ.get("MIND_DIST_SOAK_S", "90"))


def test_a_soak_on_apache_kafka_with_silent_partitions(kafka_broker: str, ray_cluster: str, tmp_path: Path) -> None:
    ray.init(address=ray_cluster, log_to_driver=False)
    with local_stack.milvus_lite(tmp_path) as milvus:  # empty: no other test's version is active
        report = soak(Addresses(kafka_broker, milvus.address), tmp_path, DURATION_S)
    assert report.problems() == [], report
