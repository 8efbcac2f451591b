"""Settings of the item tower."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import with_config

from mind_dist.config.checks import STRICT, check


@with_config(STRICT)
@dataclass(frozen=True)
class ItemTowerConfig:
    """How an item's vector is made of what is known of it; by default the mean of its id's and features' rows."""

    hidden_dims: tuple[int, ...] = ()
    """Widths of the layers between [mean of the rows ; continuous features] and the vector; none adds a linear map of the
    continuous features to the mean, where there are any."""
    residual: bool = True
    """Add what the layers give to the mean of the rows, instead of putting it in its place."""
    dropout: float = 0.0
    """Share of the values dropped, in training, before each of the layers."""
    num_continuous: int = 0
    """Continuous features F of an item; set from the dataset by the train job."""

    def __post_init__(self) -> None:
        check(all(width >= 1 for width in self.hidden_dims), "hidden_dims", "at least 1 each")
        check(0 <= self.dropout < 1, "dropout", "0 or more and below 1")
        check(self.num_continuous >= 0, "num_continuous", "0 or more")
        check(self.residual or bool(self.hidden_dims), "residual", "on without hidden_dims: nothing takes its place")
