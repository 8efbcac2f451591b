"""A filter → the same among the items that are available at a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mind_dist.dataset.item_catalog import AVAILABLE_FROM, AVAILABLE_UNTIL
from mind_dist.index.vector_store import Filter, VersionInfo


def has_availability(info: VersionInfo) -> bool:
    """Tell whether the items of a version say when they are available, and its index can be asked for ranges."""
    kinds = {column.name: column.kind for column in info.columns}
    return info.marks_missing and kinds.get(AVAILABLE_FROM) == kinds.get(AVAILABLE_UNTIL) == "integer"


def available_at(moment_ms: int, filter: Filter | None = None) -> Filter:
    """Return a filter that also leaves out what is not available at a moment: from <= moment < until.

    >>> available_at(7, {"genre": "war", "available_from": {"gt": 3}})
    {'genre': 'war', 'available_from': {'gt': 3, 'lte': 7}, 'available_until': {'gt': 7}}
    """
    wanted = dict(filter or {})
    started, going = _operators(wanted.get(AVAILABLE_FROM)), _operators(wanted.get(AVAILABLE_UNTIL))
    started["lte"] = min(moment_ms, started.get("lte", moment_ms))
    going["gt"] = max(moment_ms, going.get("gt", moment_ms))
    return {**wanted, AVAILABLE_FROM: started, AVAILABLE_UNTIL: going}


def _operators(wanted: Any) -> dict[str, Any]:
    """Return what a filter wants of a column as operators."""
    match wanted:
        case None:
            return {}
        case Mapping():
            return dict(wanted)
        case Sequence() if not isinstance(wanted, str):
            return {"in": list(wanted)}
    return {"in": [wanted]}
