"""What Milvus can store, for preparing, which must keep to it, and for the index, which checks it again.

The figures are those of Milvus 2.3 and hold for later ones.
"""

from __future__ import annotations

import re

FIRST_KEY, LAST_KEY = -(2**63) + 2, 2**63 - 2
"""Ids that users and items may have. Milvus cannot parse the lowest int64, the next is taken by the marker row of each
version, and Milvus 2.3 never returns a row of the highest."""

MAX_COLUMNS = 59
"""Most filter columns of a catalog: Milvus has 64 fields a collection, five of which are an index's own here."""

MAP_COLUMNS = ("map_x", "map_y")
"""Columns that publishing gives each item: its place in a map of all."""

RESERVED_COLUMNS = frozenset({"item_id", "vector", "missing_columns", *MAP_COLUMNS})
"""Names that no filter column of a catalog may have: what an index stores of an item beside them."""

FILTER_WORDS = frozenset(
    {"and", "or", "not", "in", "like", "is", "null", "exists", "true", "false", "iso", "interval", "empty", "array"}
    | {f"{kind}_contains{how}" for kind in ("json", "array") for how in ("", "_all", "_any")}
    | {"array_length", "text_match", "phrase_match", "random_sample"}
)
"""Names that no filter column may have, in any case of letters: words of Milvus' filter expressions."""

MAX_TEXT_BYTES = 65_535
"""Longest text of a column, in bytes of UTF-8."""

MAX_TEXTS = 4_096
"""Most texts an item may have in a column of lists."""

MAX_PROFILE = 64
"""Most profile features of a user."""

MAX_EVENT_FEATURES = 16
"""Most features of behaviors, and most of a context; a user's row has an array for each of the former."""

MAX_NAME = 255
"""Longest name of a column."""

ITEM_FIELDS = frozenset(
    {
        *("original_id", "count", "feature_keys", "feature_values", "is_cold", "available_from", "available_until"),
        *RESERVED_COLUMNS,
    }
)
"""Columns that every item catalog or collection of items has already."""

USER_FIELDS = frozenset({"user_id", "original_id", "profile_keys"})
"""Columns that every table of profiles has already."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SYSTEM_FIELDS = frozenset({"RowID", "Timestamp"})


def column_problem(name: str) -> str:
    """Return why no column of items may have this name; "" when one may.

    >>> column_problem("price")
    ''
    >>> column_problem("Preis (EUR)")
    'must be letters, digits and _, beginning with no digit, at most 255 of them'
    """
    return "is the name of a column that every item has already" if name in ITEM_FIELDS else index_problem(name)


def index_problem(name: str) -> str:
    """Return why no index can have a column of this name; "" when one can."""
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        return f"must be letters, digits and _, beginning with no digit, at most {MAX_NAME} of them"
    if name in RESERVED_COLUMNS | _SYSTEM_FIELDS:
        return "is the name of a column that every item has already"
    return "is a word of Milvus' filter language" if name.lower() in FILTER_WORDS else ""


def allowed_name(name: str) -> str:
    """Return a name like this one that a column of items may have.

    >>> allowed_name("Preis (EUR)"), allowed_name("2nd"), allowed_name("count")
    ('Preis_EUR', '_2nd', 'count_')
    """
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "column"
    plain = f"_{plain}" if plain[0].isdigit() else plain
    return f"{plain[: MAX_NAME - 1]}_" if column_problem(plain) else plain
