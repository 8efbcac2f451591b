"""How a dataset came to be: what preparing left of the log, and how much of the metadata reached it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FilterStep:
    """What was left of the log after a step of preparing.

    Attributes:
        name: What is left after it.
        setting: The setting that decides about it, with its value; "" where none does.
        num_events: Events left; rows as long as they are not yet known to be events.
        num_users: Users left; None before they are known.
        num_items: Items left; None before they are known.
    """

    name: str
    setting: str
    num_events: int
    num_users: int | None = None
    num_items: int | None = None


@dataclass(frozen=True)
class Coverage:
    """How much of a metadata column reached the kept items or users of the log.

    Attributes:
        name: The feature or column; of ids, the column of the files.
        kind: `id` for the ids, `column` for all others.
        num_matched: Items or users with a value; of ids, those the metadata has.
        num_missing: Those without.
        num_unusable: Those whose value cannot be used; of ids, rows whose id cannot be.
        num_distinct: Distinct values, those of cold items among them.
        num_cut: Values that were too long for Milvus, and are cut; those of cold items among them.
        example: A value that cannot be used.
        num_clipped: Values of a continuous feature that were clipped for lying far outside; those of cold items among them.
    """

    name: str
    kind: Literal["id", "column"]
    num_matched: int
    num_missing: int
    num_unusable: int
    num_distinct: int
    num_cut: int = 0
    example: str = ""
    num_clipped: int = 0
