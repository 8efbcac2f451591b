"""A loaded version: item vectors and user interests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mind_dist.checkpoint import ModelVersion, TableRows, VersionWriter, seal
from mind_dist.config import (
    CausalConfig,
    ComirecDrConfig,
    ComirecSaConfig,
    GruConfig,
    LagKernelsConfig,
    ModelConfig,
    TrainingConfig,
    TransformerConfig,
    TwoTowerConfig,
    dump,
)
from mind_dist.dataset.item_catalog import IS_COLD, ITEM_SCHEMA, ItemCatalog
from mind_dist.encoder import BASE_USERS, InterestEncoder, UserInterests
from mind_dist.encoder.shapes import Shapes
from mind_dist.errors import VersionError
from mind_dist.model.interests import Behaviors, Interests
from mind_dist.model.item_bag import COLD_KEY
from mind_dist.model.multi_interest import MultiInterestModel
from mind_dist.records import BehaviorSequence, Keys, no_keys
from mind_dist.storage import Directory

DIM, NUM_ITEMS, MAX_BEHAVIORS = 16, 60, 12
CONFIG = ModelConfig(dim=DIM, hidden_dims=(24,), num_profile_features=2)
CATALOG_ONLY, TABLE_ONLY, STRANGE = 1000, 2000, 3000
"""Items: without a row, without a catalog entry, and without either."""
FEATURE, PROFILE = 70, 80


def catalog() -> ItemCatalog:
    keys = [*range(NUM_ITEMS), CATALOG_ONLY]
    features = [[FEATURE + key % 3] for key in range(NUM_ITEMS)] + [[]]
    return ItemCatalog(pa.table([keys, [str(k) for k in keys], [1] * len(keys), features], schema=ITEM_SCHEMA))


def table_rows() -> TableRows:
    items = [*range(NUM_ITEMS), TABLE_ONLY]
    others = [COLD_KEY, FEATURE, FEATURE + 1, PROFILE, PROFILE + 1]
    keys = np.array([*items, *others], dtype=np.int64)
    vectors = torch.randn(len(keys), DIM, generator=torch.Generator().manual_seed(1)).numpy()
    counts = np.array([1] * len(items) + [0] * len(others))
    return TableRows(keys, vectors, vectors, vectors, counts, counts, counts)


def model(config: ModelConfig = CONFIG) -> MultiInterestModel:
    torch.manual_seed(2)
    mind = MultiInterestModel(config)
    for parameter in mind.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return mind


def save(
    path: Path,
    config: ModelConfig = CONFIG,
    *,
    max_behaviors: int = MAX_BEHAVIORS,
    mind: MultiInterestModel | None = None,
    items: ItemCatalog | None = None,
    rows: TableRows | None = None,
) -> str:
    writer = VersionWriter(Directory.at(path))
    writer.write_dense((mind or model(config)).state_dict())
    writer.write_optimizer({})
    writer.write_catalog(items or catalog())
    writer.write_item_shard(0, 1, [rows or table_rows()])
    seal(
        writer.directory,
        writer.files,
        config={"model": dump(config), "training": dump(TrainingConfig(max_behaviors=max_behaviors))},
        id_type="int64",
        step=1,
        watermark_ms=0,
        positions={},
        metrics={},
        source="",
    )
    return str(path)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> InterestEncoder:
    return InterestEncoder.load(save(tmp_path_factory.mktemp("version")))


def user(key: int, items: Sequence[int], profile: Sequence[int] = (PROFILE, 0)) -> BehaviorSequence:
    return BehaviorSequence(key, np.array(items, np.int64), np.arange(len(items)), np.array(profile, np.int64))


def users(count: int) -> list[BehaviorSequence]:
    random = np.random.default_rng(3)
    return [user(key, random.integers(0, NUM_ITEMS, random.integers(0, 30)).tolist()) for key in range(count)]


def assert_bit_equal(left: UserInterests, right: UserInterests) -> None:
    assert left.vectors.tobytes() == right.vectors.tobytes()
    assert left.weights.tobytes() == right.weights.tobytes()


def test_the_same_history_gives_bit_equal_vectors_whatever_else_is_in_the_batch(encoder: InterestEncoder) -> None:
    everyone = users(150)
    together = encoder.encode(everyone)
    for one, expected in zip(everyone[:40], together, strict=False):
        assert_bit_equal(encoder.encode([one])[0], expected)
    random = np.random.default_rng(4)
    for _ in range(20):
        order = random.permutation(len(everyone))[: random.integers(1, len(everyone))]
        for at, found in zip(order, encoder.encode([everyone[i] for i in order]), strict=True):
            assert_bit_equal(found, together[at])


CAUSAL = ModelConfig(dim=DIM, extraction=CausalConfig(), encoder=LagKernelsConfig(), num_profile_features=2)
LONG = {
    "causal, lag kernels": CAUSAL,
    "causal, gru": dataclasses.replace(CAUSAL, encoder=GruConfig()),
    "causal, transformer": dataclasses.replace(CAUSAL, encoder=TransformerConfig(layers=2)),
    "mind": CONFIG,
    "comirec_dr": dataclasses.replace(CONFIG, extraction=ComirecDrConfig()),
    "comirec_sa": dataclasses.replace(CONFIG, extraction=ComirecSaConfig()),
    "two_tower": dataclasses.replace(CONFIG, extraction=TwoTowerConfig(pooling="attention"), num_interests=1),
}


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    assert torch.get_num_threads() == number
    torch.set_num_threads(before)


@pytest.mark.parametrize("config", LONG.values(), ids=LONG.keys())
def test_bits_do_not_depend_on_how_users_are_batched_where_there_are_several_shapes(
    tmp_path: Path, config: ModelConfig
) -> None:
    encoder = InterestEncoder.load(save(tmp_path, config, max_behaviors=40))
    random = np.random.default_rng(5)
    lengths = random.integers(0, 60, 300).tolist()
    everyone = [user(key, random.integers(0, NUM_ITEMS, length).tolist()) for key, length in enumerate(lengths)]
    together = encoder.encode(everyone)
    for count, threads in ((1, 1), (3, 2), (20, 1), (50, 2), (150, 2)):
        chosen = random.permutation(300)[:count]
        with torch_threads(threads):
            found = encoder.encode([everyone[at] for at in chosen])
        for place, one in zip(chosen, found, strict=True):
            assert_bit_equal(one, together[place])
    known = model(config).eval()
    vectors = encoder._items.vectors[torch.from_numpy(everyone[7].item_keys[-40:])]
    profile = torch.stack([torch.from_numpy(table_rows().vectors[-2]), torch.zeros(DIM)])
    mask = torch.ones(1, len(vectors), dtype=torch.bool)
    expected = known(Behaviors(vectors[None], torch.from_numpy(everyone[7].item_keys[None, -40:]), mask), profile[None])
    assert np.allclose(together[7].vectors, expected.vectors[0][expected.mask[0]].detach(), atol=1e-5)


def test_numbers_of_users_that_change_bits_are_not_used() -> None:
    exact = model()

    def rounded(*given: Any) -> Interests:
        interests: Interests = exact(*given)
        off = 1 + 1e-6 * (interests.vectors.shape[0] in (8, 128))
        return interests._replace(vectors=interests.vectors * off)

    def sizes(used: Any) -> set[tuple[int, int]]:
        shapes = Shapes(used, CONFIG, 40)
        return {(chunk.num_users, chunk.length) for n in (2, 9, 500) for chunk in shapes.chunks(np.arange(n) % 40)}

    assert {each[0] for each in sizes(rounded)} == {16, BASE_USERS}
    assert {each[1] for each in sizes(rounded)} == {10, 40}


def test_vectors_are_those_of_the_model_on_pooled_rows(encoder: InterestEncoder) -> None:
    table, items = table_rows(), [5, TABLE_ONLY, 7, 5, CATALOG_ONLY]
    row_of = {int(key): torch.from_numpy(vector) for key, vector in zip(table.keys, table.vectors, strict=True)}
    vectors = torch.stack(
        [
            row_of[5],  # its feature 72 has no row
            row_of[TABLE_ONLY],
            (row_of[7] + row_of[71]) / 2,
            row_of[5],
            row_of[COLD_KEY],
        ]
    )
    profile = torch.stack([row_of[PROFILE + 1], torch.zeros(DIM)])
    behaviors = Behaviors(vectors[None], torch.tensor([items]), torch.ones(1, 5, dtype=torch.bool))
    expected = model()(behaviors, profile[None])
    found = encoder.encode([user(1, items, (PROFILE + 1, 0))])[0]
    assert found.vectors.shape == (2, DIM)
    assert np.allclose(found.vectors, expected.vectors[0][expected.mask[0]].detach(), atol=1e-6)
    assert np.allclose(found.weights, expected.weights[0][expected.mask[0]].detach(), atol=1e-6)
    assert found.vectors.dtype == found.weights.dtype == np.float32


def test_unknown_items_change_nothing_and_only_the_newest_known_count(encoder: InterestEncoder) -> None:
    items = list(range(20))
    plain = encoder.encode([user(1, items)])[0]
    assert_bit_equal(
        encoder.encode([user(2, [STRANGE, FEATURE, *items[:10], COLD_KEY, *items[10:], STRANGE])])[0], plain
    )
    assert_bit_equal(encoder.encode([user(3, items[-MAX_BEHAVIORS:])])[0], plain)


def test_a_user_without_known_behaviors_has_no_interests(encoder: InterestEncoder) -> None:
    for items in ([], [STRANGE, FEATURE]):
        found = encoder.encode([user(1, items)])[0]
        assert (found.vectors.shape, found.weights.shape) == ((0, DIM), (0,))
    assert encoder.encode([]) == []


def test_short_histories_have_fewer_interests_and_weights_sum_to_one(encoder: InterestEncoder) -> None:
    for length, expected in [(1, 1), (3, 1), (4, 2), (8, 3), (12, 3), (30, 3)]:
        found = encoder.encode([user(1, list(range(length)))])[0]
        assert len(found.vectors) == expected
        assert found.weights.sum() == pytest.approx(1, abs=1e-5)


def test_items_are_those_of_the_catalog_and_the_table_never_features(encoder: InterestEncoder) -> None:
    assert encoder.item_keys.tolist() == [*range(NUM_ITEMS), CATALOG_ONLY, TABLE_ONLY]
    assert encoder.item_vectors.shape == (NUM_ITEMS + 2, DIM)
    assert encoder.item_vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(encoder.item_vectors, axis=1), 1, atol=1e-5)
    asked = np.array([0, STRANGE, TABLE_ONLY, FEATURE, CATALOG_ONLY, COLD_KEY, PROFILE])
    assert encoder.knows(asked).tolist() == [True, False, True, False, True, False, False]


def test_cold_items_are_made_of_known_features_alone_and_others_have_no_vector(tmp_path: Path) -> None:
    made_of = {9000: [FEATURE], 9001: [FEATURE + 1, FEATURE], 9002: [999_999], 9003: []}
    table = catalog().table.append_column(IS_COLD, pa.array([False] * (NUM_ITEMS + 1)))
    columns = [list(made_of), [str(key) for key in made_of], [0] * 4, list(made_of.values()), [True] * 4]
    cold = pa.table(columns, schema=table.schema)
    encoder = InterestEncoder.load(save(tmp_path, items=ItemCatalog(pa.concat_tables([table, cold]))))
    assert encoder.knows(np.array(list(made_of))).tolist() == [True, True, False, False]
    assert encoder.num_unknown_items == 2
    rows = table_rows()
    of = {int(key): vector for key, vector in zip(rows.keys, rows.vectors, strict=True)}
    vectors = dict(zip(encoder.item_keys.tolist(), encoder.item_vectors, strict=True))
    for key, pooled in ((9000, of[FEATURE]), (9001, (of[FEATURE] + of[FEATURE + 1]) / 2)):
        assert np.allclose(vectors[key], pooled / np.linalg.norm(pooled), atol=1e-5)
    assert len(encoder.encode([user(1, [9000, 9003, 9001])])[0].vectors) == 1  # a behavior on a cold item counts


def test_no_item_has_the_vector_of_a_cold_row_that_nothing_trained(tmp_path: Path) -> None:
    rows = table_rows()
    moments = np.where((rows.keys == COLD_KEY)[:, None], 0, rows.vectors)
    uri = save(tmp_path, rows=dataclasses.replace(rows, first_moment=moments, second_moment=moments))
    for encoder in (InterestEncoder.load(uri), InterestEncoder(ModelVersion.open(uri))):
        assert encoder.item_keys.tolist() == [*range(NUM_ITEMS), TABLE_ONLY]
        assert encoder.num_unknown_items == 1


def test_a_missing_profile_is_zeros_and_one_of_another_width_is_refused(encoder: InterestEncoder) -> None:
    missing = encoder.encode([user(1, [1, 2, 3, 4], (0, 0))])[0]
    assert_bit_equal(encoder.encode([user(1, [1, 2, 3, 4], ())])[0], missing)
    assert_bit_equal(encoder.encode([user(1, [1, 2, 3, 4], (0, STRANGE))])[0], missing)
    assert not np.array_equal(encoder.encode([user(1, [1, 2, 3, 4], (PROFILE, 0))])[0].vectors, missing.vectors)
    with pytest.raises(ValueError, match="user 1 has 1 profile keys, the model has 2"):
        encoder.encode([user(1, [1, 2], (PROFILE,))])


def test_a_model_with_context_and_raw_vectors_encodes_without_a_query(tmp_path: Path) -> None:
    config = ModelConfig(dim=DIM, context_features=("page",), normalize=False, adaptive_interests=False)
    encoder = InterestEncoder.load(save(tmp_path, config))
    assert encoder.encode([user(1, [1], ())])[0].vectors.shape == (config.num_interests, DIM)
    own, feature = (np.flatnonzero(table_rows().keys == key)[0] for key in (1, FEATURE + 1))
    pooled = table_rows().vectors[[own, feature]].mean(axis=0)
    assert np.allclose(encoder.item_vectors[1], pooled, atol=1e-6)


def test_a_version_is_described_by_its_manifest(tmp_path: Path) -> None:
    version = ModelVersion.open(save(tmp_path))
    encoder = InterestEncoder(version)
    assert encoder.model_version == version.manifest.model_version
    assert (encoder.config, encoder.max_behaviors) == (CONFIG, MAX_BEHAVIORS)
    assert len(encoder.catalog) == NUM_ITEMS + 1


def test_parameters_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    uri = save(tmp_path, mind=model(ModelConfig(dim=DIM)))
    with pytest.raises(VersionError, match="do not fit its config"):
        InterestEncoder.load(uri)


def test_an_empty_table_and_catalog_know_nothing(tmp_path: Path) -> None:
    writer = VersionWriter(Directory.at(save(tmp_path)))
    empty = table_rows().take(no_keys())
    writer.write_item_shard(0, 1, [empty])
    writer.write_catalog(ItemCatalog(catalog().table.slice(0, 0)))
    encoder = InterestEncoder(ModelVersion.open(str(tmp_path), verify=False))
    assert encoder.item_vectors.shape == (0, DIM)
    assert encoder.encode(users(BASE_USERS + 1))[0].vectors.shape == (0, DIM)
    asked: Keys = np.array([0, 1])
    assert not encoder.knows(asked).any()
