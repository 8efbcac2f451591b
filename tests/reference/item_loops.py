"""An item's vector, in plain loops: the twin of `mind_dist.model.item_tower`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tests.reference.mind_loops import Matrix, Vector

Layer = tuple[Matrix, Vector]
"""Weights, [out, in], and bias of a linear layer."""


def item_vector(
    item: int,
    rows: Mapping[int, Vector],
    catalog: Mapping[int, tuple[Sequence[int], Vector]],
    layers: Sequence[Layer],
    *,
    cold_key: int,
    deep: bool,
    residual: bool,
    without_id: bool = False,
) -> Vector | None:
    """Return an item's vector; None for an item of which nothing is known.

    Args:
        item: Its key.
        rows: The table.
        catalog: Item → keys of its side features, and its continuous features, NaN where missing.
        layers: The linear layers, with a ReLU between them.
        cold_key: Key of the cold row.
        deep: Whether the layers see the mean of the rows, too.
        residual: Whether they add to it.
        without_id: Whether the item is to be made of its features alone, if it has any.
    """
    num_continuous = max((len(values) for _, values in catalog.values()), default=0)
    features, values = catalog.get(item, ((), [math.nan] * num_continuous))
    valued = any(not math.isnan(value) for value in values)
    members = [key for key in features if key in rows]
    if item in rows and not (without_id and (members or valued)):
        members.append(item)
    if not members and item in catalog and cold_key in rows:
        members = [cold_key]
    if not members and not valued:
        return None
    width = len(next(iter(rows.values()))) if rows else 0
    pooled = [sum(rows[key][d] for key in members) / max(1, len(members)) for d in range(width)]
    if not layers:
        return pooled
    missing = [float(math.isnan(value)) for value in values]
    hidden = [*(pooled if deep else []), *(0.0 if math.isnan(value) else value for value in values), *missing]
    for place, (weights, bias) in enumerate(layers):
        hidden = [
            sum(w * x for w, x in zip(row, hidden, strict=True)) + b for row, b in zip(weights, bias, strict=True)
        ]
        if place < len(layers) - 1:
            hidden = [max(0.0, x) for x in hidden]
    return [p + h for p, h in zip(pooled, hidden, strict=True)] if residual else hidden
