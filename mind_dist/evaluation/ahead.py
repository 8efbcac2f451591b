"""Events that are yet to be trained on → how many of them a version finds: what progressive validation measures."""

from __future__ import annotations

import numpy as np

from mind_dist.checkpoint import VersionParts
from mind_dist.encoder import InterestEncoder
from mind_dist.evaluation.recommenders import of_model
from mind_dist.examples.source import Examples
from mind_dist.records import BehaviorSequence

_LIMIT = 50


def ask_ahead(version: VersionParts, examples: Examples) -> tuple[int, int, int, int]:
    """Return how many events are to come, and how many of them a version finds, asked in no context.

    Returns:
        Events, those of them among the first 50 of all items, those about an item that is not in the user's history, and
        those of these among the first 50 of the other items.
    """
    recommender = of_model(InterestEncoder(version))
    histories, targets = _histories(examples), examples.targets[:, 0]
    is_new = ~(examples.history_mask & (examples.history == targets[:, None])).any(axis=1)
    kept, removed = (
        sum(target in ranked for target, ranked in zip(targets[chosen], found, strict=True))
        for chosen, found in (
            (slice(None), recommender.recommend(histories, _LIMIT, exclude_seen=False)),
            (is_new, recommender.recommend([histories[i] for i in np.flatnonzero(is_new)], _LIMIT, exclude_seen=True)),
        )
    )
    return len(examples), kept, int(is_new.sum()), removed


def _histories(examples: Examples) -> list[BehaviorSequence]:
    """Return the histories before the targets; their times do not matter to a model."""
    found = []
    for row, mask in enumerate(examples.history_mask):
        items = examples.history[row][mask]
        behaviors = examples.behavior_keys[row][mask] if examples.behavior_keys.size else examples.behavior_keys[:0, 0]
        sequence = BehaviorSequence(0, items, np.arange(len(items)), examples.profile[row], behaviors)
        found.append(sequence)
    return found
