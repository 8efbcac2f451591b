"""The stores that every contract of the index is tried on."""

from collections.abc import Iterator

import pytest

from mind_dist.config import MilvusConfig
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import VectorStore


@pytest.fixture(scope="module", params=["in_memory", "milvus_lite", "milvus_standalone"])
def store(request: pytest.FixtureRequest) -> Iterator[VectorStore]:
    """Yield a store of each kind; what one module leaves in a server, others find."""
    if request.param == "in_memory":
        yield InMemoryVectorStore()
        return
    connected = MilvusVectorStore(request.getfixturevalue(request.param), MilvusConfig(timeout_s=20, retry_s=60))
    yield connected
    connected.close()
