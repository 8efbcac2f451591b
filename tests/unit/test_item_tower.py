"""What is known of an item → its vector."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mind_dist.config import ItemTowerConfig, ModelConfig
from mind_dist.dataset.item_catalog import FEATURE_VALUES, ITEM_SCHEMA, ItemCatalog
from mind_dist.model.item_bag import COLD_KEY, pool_bags
from mind_dist.model.item_tower import CHUNK_ITEMS, ItemTower, item_chunks, item_parts, part_keys
from mind_dist.records import Keys
from tests.reference.item_loops import item_vector

DIM = 3
NAN = math.nan
CATALOG: dict[int, tuple[list[int], list[float]]] = {
    10: ([100, 101], [0.5, NAN]),
    11: ([101], [NAN, NAN]),
    12: ([], [-1.5, 2.0]),
    13: ([102, 103, 104], [0.0, 1.0]),
    14: ([], [NAN, NAN]),
}
STRANGE = 99
TOWERS = {
    "linear": ItemTowerConfig(num_continuous=2),
    "deep": ItemTowerConfig((5,), num_continuous=2),
    "deeper": ItemTowerConfig((5, 4), residual=False, num_continuous=2),
}


def catalog_of(items: dict[int, tuple[list[int], list[float]]]) -> ItemCatalog:
    columns = [list(items), [str(key) for key in items], [1] * len(items), [keys for keys, _ in items.values()]]
    values = np.array([values for _, values in items.values()], dtype=np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), from_pandas=True), values.shape[1])
    return ItemCatalog(pa.table(columns, schema=ITEM_SCHEMA).append_column(FEATURE_VALUES, lists))


def tower_of(config: ItemTowerConfig) -> ItemTower:
    torch.manual_seed(4)
    tower = ItemTower(ModelConfig(dim=DIM, item_tower=config)).eval()
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.5)
    return tower


def table_of(held: set[int]) -> tuple[Keys, torch.Tensor]:
    return np.array(sorted(held), dtype=np.int64), torch.randn(
        len(held), DIM, generator=torch.Generator().manual_seed(0)
    )


def test_missing_values_are_nulls_in_the_catalog_and_none_is_needed_without_continuous_features() -> None:
    catalog = catalog_of(CATALOG)
    assert catalog.table[FEATURE_VALUES].to_pylist()[:2] == [[0.5, None], [None, None]]
    np.testing.assert_array_equal(catalog.feature_values, [values for _, values in CATALOG.values()])
    assert catalog.feature_values.dtype == np.float32
    plain = ItemCatalog(catalog.table.drop_columns([FEATURE_VALUES]))
    assert plain.feature_values.shape == (len(CATALOG), 0)


@given(
    items=st.lists(st.sampled_from([*CATALOG, STRANGE]), max_size=6, unique=True),
    held=st.sets(st.sampled_from([COLD_KEY, *CATALOG, STRANGE, 100, 101, 103])),
    dropped=st.sets(st.sampled_from([*CATALOG, STRANGE])),
    name=st.sampled_from(list(TOWERS)),
)
def test_vectors_are_those_of_plain_loops(items: list[int], held: set[int], dropped: set[int], name: str) -> None:
    keys, rows = table_of(held)
    tower, config = tower_of(TOWERS[name]), TOWERS[name]
    without_id = np.array([item in dropped for item in items], dtype=np.bool_)
    parts = item_parts(np.array(items, dtype=np.int64), catalog_of(CATALOG), keys, without_id)
    found = tower(rows, parts)
    linear = [layer for layer in tower.layers if isinstance(layer, nn.Linear)]
    layers = [(layer.weight.tolist(), layer.bias.tolist()) for layer in linear]
    table = dict(zip(keys.tolist(), rows.tolist(), strict=True)) or {-1: [0.0] * DIM}
    for item, known, vector in zip(items, parts.known.tolist(), found, strict=True):
        options = {"deep": bool(config.hidden_dims), "residual": config.residual, "without_id": item in dropped}
        expected = item_vector(item, table, CATALOG, layers, cold_key=COLD_KEY, **options)
        assert known == (expected is not None)
        if expected is not None:
            torch.testing.assert_close(vector, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [ItemTowerConfig(), *TOWERS.values()], ids=["mean", *TOWERS])
def test_a_fresh_tower_gives_the_mean_of_the_rows_unless_its_layers_take_its_place(config: ItemTowerConfig) -> None:
    catalog = (
        catalog_of(CATALOG) if config.num_continuous else ItemCatalog(catalog_of(CATALOG).table.drop(FEATURE_VALUES))
    )
    keys, rows = table_of({COLD_KEY, 10, 100, 101})
    tower = ItemTower(ModelConfig(dim=DIM, item_tower=config))
    parts = item_parts(np.array([10]), catalog, keys)
    mean = pool_bags(rows, *parts.bags)
    assert torch.equal(tower(rows, parts), mean) == config.residual
    assert bool(list(tower.parameters())) == (config != ItemTowerConfig())


def test_gradients_reach_the_rows_and_the_layers_of_a_fresh_tower() -> None:
    keys, rows = table_of({COLD_KEY, 10, 100})
    rows.requires_grad_()
    tower = ItemTower(ModelConfig(dim=DIM, item_tower=TOWERS["deep"]))
    parts = item_parts(np.array([10, 12, STRANGE]), catalog_of(CATALOG), keys)
    tower(rows, parts).square().sum().backward()
    assert rows.grad is not None
    assert bool(rows.grad.any())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in tower.parameters())
    last = tower.layers[-1]
    assert isinstance(last, nn.Linear)
    assert last.weight.grad is not None
    assert bool(last.weight.grad.any())
    tower(rows[:0], item_parts(np.zeros(0, np.int64), catalog_of(CATALOG), keys[:0])).sum().backward()


def test_an_item_with_another_number_of_values_is_refused() -> None:
    keys, rows = table_of({10})
    parts = item_parts(np.array([10]), catalog_of(CATALOG), keys)
    with pytest.raises(ValueError, match="items have 2 continuous features, the model's config says 0"):
        ItemTower(ModelConfig(dim=DIM))(rows, parts)


@pytest.mark.parametrize("hidden_dims", [(), (32,), (32, 16)])
def test_an_item_has_the_same_bits_whatever_others_are_asked_for(hidden_dims: tuple[int, ...]) -> None:
    random = np.random.default_rng(2)
    num_items, dim = 2 * CHUNK_ITEMS + 30, 16
    features = [random.choice(50, random.integers(0, 9), replace=False) + 10_000 for _ in range(num_items)]
    values = np.where(random.random((num_items, 2)) < 0.2, NAN, random.normal(size=(num_items, 2)))
    catalog = catalog_of({key: (features[key].tolist(), values[key].tolist()) for key in range(num_items)})
    row_keys = np.sort(np.append(part_keys(catalog.keys, catalog)[::3], 5_000))
    rows = torch.randn(len(row_keys), dim)
    config = ItemTowerConfig(hidden_dims, num_continuous=2)
    tower = ItemTower(ModelConfig(dim=dim, item_tower=config)).eval()
    for parameter in tower.parameters():
        nn.init.normal_(parameter)
    chunks = list(item_chunks(tower, rows, row_keys, catalog.keys, catalog))
    assert [len(chunk.keys) for chunk in chunks] == [CHUNK_ITEMS, CHUNK_ITEMS, 30]
    whole = torch.cat([chunk.vectors for chunk in chunks])
    torch.testing.assert_close(whole, tower(rows, item_parts(catalog.keys, catalog, row_keys)))
    for _ in range(5):
        asked = random.permutation(catalog.keys)[: random.integers(1, 1500)]
        found = torch.cat([chunk.vectors for chunk in item_chunks(tower, rows, row_keys, asked, catalog)])
        assert torch.equal(found, whole[torch.from_numpy(asked)])
