"""Figures of preparing's tasks → what was left of the log after each step, and why rows were rejected."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from mind_dist.config import PrepareConfig
from mind_dist.dataset.provenance import FilterStep
from mind_dist.errors import DatasetError
from mind_dist.storage import Directory

Rejections = dict[str, tuple[int, str]]
"""Reason → how many rows it rejects, and the value of one of them; "" where the value is missing."""


def rejections(batches: pa.Table) -> Rejections:
    """Return why rows were rejected, over all batches of the log (`READ_SCHEMA`)."""
    total: Rejections = {}
    for row in batches.sort_by("file").to_pylist():
        for reason, count, example in zip(row["reasons"], row["num_rejected"], row["examples"], strict=True):
            before, shown = total.get(reason, (0, ""))
            total[reason] = (before + count, shown or example)
    return dict(sorted(total.items()))


def check_rejected(config: PrepareConfig, batches: pa.Table) -> Rejections:
    """Return why rows were rejected, when they are not too many.

    Raises:
        DatasetError: They are more than `max_rejected_fraction` of the rows.
    """
    found = rejections(batches)
    num_rejected = sum(count for count, _ in found.values())
    num_rows = num_rejected + total(batches["num_events"])
    if num_rejected > config.max_rejected_fraction * num_rows:
        limit = f"above the limit of {config.max_rejected_fraction:.2%} (max_rejected_fraction)"
        problem = f"{num_rejected} of {num_rows} rows are unusable, {limit}: {rejections_text(found)}"
        raise DatasetError((Directory.at(config.output) / "rejected").uri, problem + _advice(config, found))
    return found


def rejections_text(found: Rejections) -> str:
    """Return rejections as a person reads them.

    >>> rejections_text({"timestamp_future": (3, "1700000000000"), "user_null": (1, "")})
    "timestamp_future 3 (such as '1700000000000'), user_null 1"
    """
    shown = (f"{reason} {count:,}" + f" (such as {value!r})" * bool(value) for reason, (count, value) in found.items())
    return ", ".join(shown)


def _advice(config: PrepareConfig, reasons: Collection[str]) -> str:
    """Return which columns and settings to look at."""
    log = config.log
    columns = {"user": log.user_column, "item": log.item_column, "timestamp": log.timestamp_column}
    advice = [
        f"{name} is column {column}"
        for name, column in columns.items()
        if any(reason.startswith(f"{name}_") for reason in reasons)
    ]
    if config.id_type == "int64" and {"user_type", "item_type"} & set(reasons):
        advice.append("id_type is int64, string takes any id")
    if any(reason.startswith("timestamp_") for reason in reasons):
        advice.append(f"log.time_unit is {log.time_unit}")
    return "".join(f"; {each}" for each in advice)


def filter_steps(
    config: PrepareConfig,
    batches: pa.Table,
    grouped: pa.Table,
    users: pa.Table,
    num_items: tuple[int, int, int],
) -> tuple[FilterStep, ...]:
    """Return what was left of the log after each step.

    Args:
        config: The settings of the steps.
        batches: What was read, a row per batch (`READ_SCHEMA`).
        grouped: The users, a row per bucket (`GROUPED_SCHEMA`).
        users: The kept users, a row per bucket (`FILTERED_SCHEMA`).
        num_items: Items read, items that are counted, items kept.
    """
    num_events, num_users = total(batches["num_events"]), total(grouped["num_users"])
    num_rejected = sum(count for count, _ in rejections(batches).values())
    num_cut = total(grouped["num_cut_users"])
    num_read, num_counted, num_kept = num_items
    types = ",".join(config.log.event_types) or "all"
    users_left = len(pc.list_flatten(users["users"]))
    frequent, few = f"min_item_events={config.min_item_events}", f"min_user_events={config.min_user_events}"
    rejected, newest = (
        f"max_rejected_fraction={config.max_rejected_fraction}",
        f"newest of each user ({num_cut:,} users cut)",
    )
    longest = f"max_user_events={config.max_user_events}"
    return (
        FilterStep("read", "log.paths", total(batches["num_rows"])),
        FilterStep("of the kept event types", f"log.event_types={types}", num_events + num_rejected),
        FilterStep("usable", rejected, num_events, num_users, num_read),
        FilterStep("without duplicates", "", total(grouped["num_distinct"]), num_users, num_read),
        FilterStep(newest, longest, total(grouped["num_events"]), num_users, num_counted),
        FilterStep("on frequent items", frequent, total(users["num_events"]), total(users["num_users"]), num_kept),
        FilterStep("of users with enough of them", few, total(users["num_kept_events"]), users_left, num_kept),
    )


def no_events(config: PrepareConfig, batches: pa.Table) -> DatasetError:
    """Return the error that the log has no event at all."""
    why = "no row is usable and of log.event_types" if config.log.event_types else "no row is usable"
    problem = f"nothing is left of {total(batches['num_rows']):,} events after filtering: {why}"
    return DatasetError(", ".join(config.log.paths), problem)


def nothing_left(config: PrepareConfig, steps: tuple[FilterStep, ...]) -> DatasetError:
    """Return the error that no user is left, with the steps that took them."""
    read, *later = steps
    shown = "; ".join(f"{step.setting or step.name} leaves {step.num_events:,} of {_users(step)}" for step in later)
    return DatasetError(
        ", ".join(config.log.paths), f"nothing is left of {read.num_events:,} events after filtering: {shown}"
    )


def _users(step: FilterStep) -> str:
    return "unknown users" if step.num_users is None else f"{step.num_users:,} users"


def total(column: pa.ChunkedArray) -> int:
    """Return the sum of a column; 0 of none."""
    return int(np.sum(column.to_numpy())) if len(column) else 0
