"""Progressive validation: the events of a step are asked for before they are trained on.

What is found says how good the run was at that moment at what came next, which no event has told it; nothing is held
back for it. What is measured, and how, is the caller's: training does not know evaluation.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from mind_dist.checkpoint import UnsavedVersion
from mind_dist.examples.batches import Batch
from mind_dist.examples.source import Examples
from mind_dist.training.collectives import Collectives
from mind_dist.training.run import TrainingRun
from mind_dist.training.run_monitor import PROGRESSIVE, Look

_FEWEST_STEPS, _ITEMS_PER_STEP = 20, 1000
"""Steps between two looks where none are named: at least so many, and one for so many items, of which a look scores all."""

_LOOKS_OF_A_VERSION = 10
"""Looks over which a version's figures are means: one is of a step's events alone."""


class Found(NamedTuple):
    """Sums over the events of one or more steps.

    Attributes:
        num_events: How many there were.
        num_found: How many of them were among the first 50 of all items.
        num_new: How many were about an item that was not in the user's history.
        num_new_found: How many of these were among the first 50 of the other items.
    """

    num_events: float = 0
    num_found: float = 0
    num_new: float = 0
    num_new_found: float = 0

    @property
    def recalls(self) -> tuple[float, float]:
        """Recall@50 with the history among the candidates, and without it."""
        return self.num_found / max(1, self.num_events), self.num_new_found / max(1, self.num_new)


AskAhead = Callable[[UnsavedVersion, Examples], tuple[float, float, float, float]]
"""A version, and what is to come → the numbers of `Found`. It travels to the workers: a function of a module."""


class ProgressiveValidation:
    """Looks at the batches of a run before they are trained on.

    Args:
        run: The run.
        ask: Measures.
        every: Steps between two looks; 0 for the more the more items there are.
        ranks: The other ranks.
        tell: Takes each look.
    """

    def __init__(
        self, run: TrainingRun, ask: AskAhead, every: int, ranks: Collectives, tell: Callable[[Look], None]
    ) -> None:
        self._run = run
        self._ask = ask
        self._every = every
        self._ranks = ranks
        self._tell = tell
        self._looked_at = run.step
        self._last: deque[Found] = deque(maxlen=_LOOKS_OF_A_VERSION)

    @property
    def metrics(self) -> dict[str, float]:
        """What a version says: means over the last looks; nothing before the first."""
        if not self._last:
            return {}
        kept, removed = Found(*map(sum, zip(*self._last, strict=True))).recalls
        return {f"{PROGRESSIVE}_recall@50": kept, f"{PROGRESSIVE}_recall@50_removed": removed}

    def before_step(self, step: int, batch: Batch) -> None:
        """Look, if it is time. Collective.

        Args:
            step: Steps done.
            batch: What this rank will train on; it may be empty.
        """
        every = self._every or max(_FEWEST_STEPS, self._run.table.num_items // _ITEMS_PER_STEP)
        if step - self._looked_at < every:
            return
        started_s, self._looked_at = time.monotonic(), step
        found = Found(*self._ranks.sum(self._ask(self._run.unsaved(), batch.examples)))
        self._last.append(found)
        self._tell(Look(step, *found.recalls, is_best=False, took_s=time.monotonic() - started_s, of=PROGRESSIVE))
