"""A short set of the drills; `make drills` does them all, with more runs of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from mind_dist.local_process import LocalProcess
from tests.drills import stopped
from tests.drills.replica import INSIDE_UPSERT
from tests.drills.site import Site
from tests.findings import NOTHING


@pytest.fixture
def site(kafka_broker: str, milvus_lite: str, tmp_path: Path) -> Site:
    """Return a site whose services others use, too: nothing is done to these."""
    return Site(_running(kafka_broker), _running(milvus_lite), "lite", tmp_path)


def _running(address: str) -> LocalProcess:
    return LocalProcess("", address, 0, (), Path())


def test_a_replica_frozen_inside_an_upsert_and_woken_changes_nothing(site: Site) -> None:
    run = stopped.frozen(site, stopped.Stop(INSIDE_UPSERT, 1))
    assert run.findings == NOTHING
    assert run.problems == ()
