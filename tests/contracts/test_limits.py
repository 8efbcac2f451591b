"""What preparing lets through, every store keeps and finds: names, long texts, long lists, the first and last ids."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mind_dist.dataset.columns import read_column
from mind_dist.index.vector_store import Column, ItemRows, VectorStore, VersionInfo
from mind_dist.limits import FIRST_KEY, LAST_KEY, MAX_NAME, MAX_TEXT_BYTES, MAX_TEXTS, allowed_name

HOSTILE_NAMES = ["Preis (EUR)", "2nd", "count", "in", "AND", "größe", "RowID", "Timestamp", "x" * 300, "array_length"]
NAMES = [*(allowed_name(name) for name in HOSTILE_NAMES), "timestamp", "price", "x" * MAX_NAME]
KEYS = np.array([FIRST_KEY, 0, LAST_KEY], dtype=np.int64)


def fill(store: VectorStore, version: str, columns: dict[Column, list[object]]) -> None:
    info = VersionInfo(version, 2, 1, "inner_product", "/v", max_behaviors=5, columns=tuple(columns))
    store.create_version(info)
    vectors = np.eye(3, 2, dtype=np.float32)
    store.upsert_items(version, ItemRows(KEYS, vectors, {column.name: values for column, values in columns.items()}))
    store.settle_items(version)
    assert store.count_items(version) == len(KEYS)  # what is counted is found from then on


def found(store: VectorStore, version: str, name: str, value: str) -> list[int]:
    queries = np.ones((1, 2), dtype=np.float32)
    (hits,) = store.search_items(version, queries, 3, filter={name: value})
    return sorted(hits.keys.tolist())


def test_names_to_take_instead_of_forbidden_ones_can_be_filtered_by(store: VectorStore) -> None:
    assert len(set(NAMES)) == len(NAMES)
    fill(store, "v00000001_names", {Column(name): ["a", "b", "a"] for name in NAMES})
    for name in NAMES:
        assert found(store, "v00000001_names", name, "a") == [FIRST_KEY, LAST_KEY]


def test_texts_and_lists_that_were_cut_are_stored(store: VectorStore) -> None:
    texts = read_column(pa.array(["é" * 40_000, "short", None]), "display", "text")
    lists = read_column(pa.array([[f"tag {n}" for n in range(5_000)], ["tag 1"], []]), "categories", "tags")
    assert (texts.num_cut, lists.num_cut) == (1, 1)
    text = texts.values.fill_null("").to_pylist()
    fill(store, "v00000002_long", {Column("text"): text, Column("tags", "texts"): lists.values.to_pylist()})
    assert MAX_TEXT_BYTES - 3 <= len(text[0].encode()) <= MAX_TEXT_BYTES
    assert found(store, "v00000002_long", "text", "short") == [0]
    assert found(store, "v00000002_long", "tags", f"tag {MAX_TEXTS - 1}") == [FIRST_KEY]
    assert found(store, "v00000002_long", "tags", f"tag {MAX_TEXTS}") == []
