"""What a publish did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishReport:
    """What a publish did.

    Attributes:
        model_version: The version readers are on now.
        previous_version: The version they were on before, if any.
        num_items: Its items.
        num_available: Those of them that are available now; all where the catalog does not say when they are.
        num_unknown_items: Items of the catalog that are left out: training has seen neither them nor their features.
        num_users: Its users.
        ann_recall: Share of the exact best items that the index found.
        recall: Recall@50 it was evaluated with; None when it was not.
        skew_recall: Share of the best items for a user that the interests of the version before would find among the new
            one's items; None where there is no such version of the same width, or none of its users were looked at.
        retired: Versions dropped.
        already_active: Nothing was to do.
        wall_s: How long it took.
    """

    model_version: str
    previous_version: str | None = None
    num_items: int = 0
    num_available: int = 0
    num_unknown_items: int = 0
    num_users: int = 0
    ann_recall: float = 1.0
    recall: float | None = None
    skew_recall: float | None = None
    retired: tuple[str, ...] = ()
    already_active: bool = False
    wall_s: float = 0.0
