"""Settings of preparing are checked before anything is read."""

from __future__ import annotations

from typing import Any

import pytest

from mind_dist.config import LogConfig, PrepareConfig, parse
from mind_dist.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"items": {"features": [{"name": "Preis (EUR)", "kind": "buckets"}]}},
            (
                "items.features: the name 'Preis (EUR)' must be letters, digits and _, beginning with no digit, at most 255 of "
                "them: give it name 'Preis_EUR' and column 'Preis (EUR)'"
            ),
        ),
        (
            {"items": {"columns": ["Preis (EUR)"]}},
            (
                "items.columns: the name 'Preis (EUR)' must be letters, digits and _, beginning with no digit, at most 255 of "
                "them: write 'Preis_EUR=Preis (EUR)'"
            ),
        ),
        (
            {"items": {"features": [{"name": "count"}]}},
            (
                "items.features: the name 'count' is the name of a column that every item has already: give it name 'count_' "
                "and column 'count'"
            ),
        ),
        (
            {"items": {"columns": ["item_id"]}},
            (
                "items.columns: the name 'item_id' is the name of a column that every item has already: write "
                "'item_id_=item_id'"
            ),
        ),
        (
            {"users": {"features": [{"name": "user_id"}]}},
            (
                "users.features: the name 'user_id' is the name of a column that every user has already: give it another name, "
                "and column 'user_id'"
            ),
        ),
        ({"users": {"features": [{"name": f"f{n}"} for n in range(65)]}}, "users.features must be at most 64"),
        ({"items": {"columns": [f"c{n}" for n in range(59)]}}, "items.features and columns must be at most 56"),
        ({"max_user_events": -1}, "max_user_events must be 0 or more"),
    ],
)
def test_a_name_or_bound_that_is_not_allowed_is_refused_with_what_is(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as stopped:
        parse(PrepareConfig, {"output": "out", **settings})
    assert str(stopped.value) == f"config: {message}"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({"behavior": ["event_type"]}, "event_type_column must be set where event_type is kept"),
        ({"context": ["page", "page"]}, "context must be of different names, at most 16"),
        ({"behavior": [f"f{n}" for n in range(17)]}, "behavior must be of different names, at most 16"),
    ],
)
def test_features_of_events_have_names_of_their_own(log: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as stopped:
        parse(PrepareConfig, {"output": "out", "log": log})
    assert str(stopped.value) == f"config.log: {message}"


def test_a_column_may_be_kept_under_another_name() -> None:
    config = parse(PrepareConfig, {"output": "out", "items": {"columns": ["title", "price=Preis (EUR)"]}})
    assert config.items.display_columns == {"title": "title", "price": "Preis (EUR)"}


def test_the_unit_of_times_is_to_be_found_unless_it_is_set() -> None:
    assert LogConfig().time_unit == "auto"
    with pytest.raises(ConfigError, match="time_unit"):
        parse(LogConfig, {"time_unit": "minutes"})
