"""Which rows make up an item, and their mean."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.dataset.item_catalog import ITEM_SCHEMA, ItemCatalog
from mind_dist.keys import fingerprint
from mind_dist.model.item_bag import COLD_KEY, bag_keys, bag_members, pool_bags, score_vectors, unit_vectors
from mind_dist.records import Keys

CATALOG_FEATURES = {10: [100, 101], 11: [101], 12: [], 13: [102, 103, 104]}


def catalog() -> ItemCatalog:
    items = list(CATALOG_FEATURES)
    columns = [items, [str(item) for item in items], [1] * len(items), list(CATALOG_FEATURES.values())]
    return ItemCatalog(pa.table(columns, schema=ITEM_SCHEMA))


def keys(*values: int) -> Keys:
    return np.array(values, dtype=np.int64)


def bag_of(item: int, row_keys: Keys) -> list[int]:
    members, mask = bag_members(keys(item), catalog(), row_keys)
    return [int(key) for key in row_keys[members[0][mask[0]].numpy()]]


def test_the_cold_key_is_the_fingerprint_of_its_name() -> None:
    assert fingerprint("cold") == COLD_KEY


def test_an_item_is_its_own_row_and_the_rows_of_its_features() -> None:
    rows = keys(COLD_KEY, 10, 12, 99, 101, 102, 104)
    assert bag_of(10, rows) == [10, 101]
    assert bag_of(11, rows) == [101]
    assert bag_of(13, rows) == [102, 104]
    assert bag_of(99, rows) == [99]


def test_a_catalog_item_without_any_row_is_cold_and_a_strange_one_unknown() -> None:
    assert bag_of(12, keys(COLD_KEY, 10)) == [COLD_KEY]
    assert bag_of(12, keys(10)) == []
    assert bag_of(98, keys(COLD_KEY, 10)) == []
    assert bag_of(12, keys()) == []


def test_the_keys_to_look_up_are_all_that_may_be_in_a_bag() -> None:
    assert bag_keys(keys(13, 11, 98), catalog()).tolist() == [COLD_KEY, 11, 13, 98, 101, 102, 103, 104]
    assert bag_keys(keys(), catalog()).tolist() == [COLD_KEY]


@given(
    items=st.lists(st.sampled_from([10, 11, 12, 13, 98, 99]), max_size=5),
    held=st.sets(st.sampled_from([COLD_KEY, 10, 11, 99, 100, 101, 103])),
)
def test_looking_up_a_part_of_the_table_gives_the_same_vectors_as_all_of_it(items: list[int], held: set[int]) -> None:
    table_keys = keys(*sorted(held))
    table = torch.randn(len(held), 3, generator=torch.Generator().manual_seed(0))
    whole = pool_bags(table, *bag_members(keys(*items), catalog(), table_keys))
    wanted = bag_keys(keys(*items), catalog())
    present = wanted[np.isin(wanted, table_keys)]
    rows = table[torch.from_numpy(np.searchsorted(table_keys, present))]
    assert torch.equal(pool_bags(rows, *bag_members(keys(*items), catalog(), present)), whole)


def test_a_pooled_vector_is_the_mean_of_the_real_members() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [50.0, 60.0]], requires_grad=True)
    members = torch.tensor([[0, 1, 2], [1, 2, 2], [0, 0, 0]])
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    pooled = pool_bags(rows, members, mask)
    assert pooled.tolist() == [[2.0, 3.0], [3.0, 4.0], [0.0, 0.0]]
    pooled.sum().backward()
    assert rows.grad is not None
    assert rows.grad.tolist() == [[0.5, 0.5], [1.5, 1.5], [0.0, 0.0]]


@pytest.mark.parametrize(("num_rows", "num_items"), [(0, 3), (0, 0), (4, 0)])
def test_empty_tables_and_batches_pool_to_zeros_and_stay_in_the_graph(num_rows: int, num_items: int) -> None:
    rows = torch.ones(num_rows, 2, requires_grad=True)
    pooled = pool_bags(rows, torch.zeros(num_items, 2, dtype=torch.int64), torch.zeros(num_items, 2, dtype=torch.bool))
    assert pooled.tolist() == [[0.0, 0.0]] * num_items
    pooled.sum().backward()
    assert rows.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_unit_vectors_have_length_one_and_finite_gradients_at_zero(dtype: torch.dtype) -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [300.0, 400.0]], dtype=dtype, requires_grad=True)
    units = unit_vectors(vectors)
    assert torch.allclose(units, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, 0.8]], dtype=dtype), atol=1e-2)
    (units * torch.tensor([1.0, 2.0], dtype=torch.float32)).sum().backward()
    assert vectors.grad is not None
    assert bool(vectors.grad.isfinite()[[0, 2]].all())


def test_items_are_scored_by_unit_vectors_only_when_normalised() -> None:
    vectors = torch.tensor([[3.0, 4.0]])
    assert torch.equal(score_vectors(vectors, normalize=False), vectors)
    assert torch.allclose(score_vectors(vectors, normalize=True), torch.tensor([[0.6, 0.8]]))
