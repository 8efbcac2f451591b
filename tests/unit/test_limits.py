"""What Milvus can store, and names for what it cannot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mind_dist.dataset.item_catalog import AVAILABLE_FROM, AVAILABLE_UNTIL, FEATURE_VALUES, IS_COLD, ITEM_SCHEMA
from mind_dist.dataset.parquet import USER_SCHEMA
from mind_dist.index.milvus_schema import MISSING
from mind_dist.limits import ITEM_FIELDS, MAP_COLUMNS, USER_FIELDS, allowed_name, column_problem


@pytest.mark.parametrize(
    "name", ["Preis (EUR)", "", "2nd", "a-b", "größe", "x" * 256, "item_id", "vector", "in", "AND"]
)
def test_names_that_milvus_forbids_are_problems(name: str) -> None:
    assert column_problem(name)


@pytest.mark.parametrize("name", ["price", "_x", "Preis_EUR", "timestamp", "x" * 255])
def test_other_names_are_none(name: str) -> None:
    assert column_problem(name) == ""


@given(st.text())
def test_the_name_to_take_instead_is_always_allowed(name: str) -> None:
    assert column_problem(allowed_name(name)) == ""


def test_every_column_that_items_and_users_have_already_is_reserved() -> None:
    assert {
        *ITEM_SCHEMA.names,
        FEATURE_VALUES,
        IS_COLD,
        AVAILABLE_FROM,
        AVAILABLE_UNTIL,
        "vector",
        MISSING,
        *MAP_COLUMNS,
    } == ITEM_FIELDS
    assert set(USER_SCHEMA.names) == USER_FIELDS
