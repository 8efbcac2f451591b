"""What ranks agree on; two real ranks are in the integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from mind_dist.training.collectives import Collectives, ProcessGroup, SingleRank


@pytest.fixture(params=["single rank", "group of one"])
def ranks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Collectives]:
    if request.param == "single rank":
        yield SingleRank()
        return
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield ProcessGroup(torch.device("cpu"))
    distributed.destroy_process_group()


def test_a_rank_alone_agrees_with_itself(ranks: Collectives) -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    assert (ranks.rank, ranks.world_size) == (0, 1)
    assert ranks.sum([1, 2.5, True]) == [1, 2.5, 1]
    (gathered,) = ranks.gather(rows)
    assert torch.equal(gathered, rows)
    (none,) = ranks.gather(rows[:0])
    assert none.shape == (0, 2)
    assert ranks.gather_objects({"a": 1}) == [{"a": 1}]
