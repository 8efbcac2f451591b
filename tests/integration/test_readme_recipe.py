"""The README's recipe for rankers with nothing but pymilvus, run as it stands there."""

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import MilvusClient

from mind_dist.config import MilvusConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.keys import id_key
from mind_dist.publishing import publish
from mind_dist.records import BehaviorSequence
from mind_dist.retrieval import retrieve
from tests.toy_views import fill_users
from tests.versions import tiny_version

README = Path(__file__).parents[2] / "README.md"
LONGEST = 15


def recipe() -> str:
    """Return the recipe, and what string ids need beside it."""
    section = README.read_text().split("## Retrieve with pymilvus alone")[1]
    block, user_key = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= LONGEST
    return str(block + user_key)


@pytest.mark.parametrize("server", ["milvus_lite", "milvus_standalone"])
def test_the_readmes_recipe_returns_what_retrieve_returns(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    uri = request.getfixturevalue(server)
    encoder = InterestEncoder.load(tiny_version(tmp_path, seed=77))
    users = [BehaviorSequence(user, np.arange(user, user + 8), np.arange(8)) for user in range(5)]
    store = MilvusVectorStore(uri, MilvusConfig())
    with closing(MilvusClient(uri, timeout=20)) as client:
        client.drop_alias("users")  # the server is shared: another test's version may be active, of ids of another type
    publish(store, encoder, str(tmp_path))
    fill_users(store, encoder, encoder.model_version, users)
    names: dict[str, Any] = {}
    code = recipe().replace("http://127.0.0.1:19530", uri).replace(", 64", f", {encoder.config.dim}")
    assert code.count(uri) == 1
    exec(code, names)
    try:
        rows = store.get_users(encoder.model_version, range(5), strong=True)
        for user, row in rows.items():
            expected = retrieve(store, encoder.model_version, row.interests, limit=10)
            found = names["candidates"](user, limit=10)
            assert [item for item, _ in found] == [candidate.item_key for candidate in expected]
        assert names["candidates"](999) == []
    finally:
        names["client"].close()
        store.close()


def test_the_recipe_works_for_string_ids_as_the_readme_says(milvus_lite: str, tmp_path: Path) -> None:
    encoder = InterestEncoder.load(tiny_version(tmp_path, seed=78, id_type="string"))
    keys = [id_key(f"item-{item}", "string") for item in range(8)]
    user = BehaviorSequence(id_key("K-00042", "string"), np.array(keys), np.arange(8))
    store = MilvusVectorStore(milvus_lite, MilvusConfig(), deployment="strings")
    publish(store, encoder, str(tmp_path))
    fill_users(store, encoder, encoder.model_version, [user])
    code = recipe().replace("http://127.0.0.1:19530", milvus_lite).replace(", 64", f", {encoder.config.dim}")
    code = (
        code.replace('"item_id"', '"original_id"')
        .replace('"users"', '"strings__users"')
        .replace("items__", "strings__items__")
    )
    names: dict[str, Any] = {}
    exec(code, names)
    try:
        row = store.get_users(encoder.model_version, [user.user_key], strong=True)[user.user_key]
        expected = retrieve(store, encoder.model_version, row.interests, limit=10)
        found = names["candidates"](names["user_key"]("K-00042"), limit=10)
        assert [id_key(item, "string") for item, _ in found] == [candidate.item_key for candidate in expected]
    finally:
        names["client"].close()
        store.close()
