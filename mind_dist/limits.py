"""What Milvus can store, for preparing, which must keep to it, and for the index, which checks it again.

The figures are those of Milvus 2.3 and hold for later ones.
"""

FIRST_KEY, LAST_KEY = -(2**63) + 2, 2**63 - 2
"""Ids that users and items may have. Milvus cannot parse the lowest int64, the next is taken by the marker row of each
version, and Milvus 2.3 never returns a row of the highest."""

MAX_COLUMNS = 61
"""Most filter columns of a version: Milvus has 64 fields a collection, three of which are its own here."""

RESERVED_COLUMNS = frozenset({"item_id", "vector", "missing_columns"})
"""Names that no filter column may have: what an index stores of an item beside its columns."""

FILTER_WORDS = frozenset(
    {"and", "or", "not", "in", "like", "is", "null", "exists", "true", "false", "iso", "interval"}
    | {f"{kind}_contains{how}" for kind in ("json", "array") for how in ("", "_all", "_any")}
    | {"array_length", "text_match", "phrase_match", "random_sample"}
)
"""Names that no filter column may have, in any case of letters: words of Milvus' filter expressions."""
