"""What the monitor knows of a run → log lines, each once, and what the caller is shown."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from mind_dist.training.run_monitor import Deal, Fallback, Look, RunState, TrainProgress
from mind_dist.training.settings import TrainSettings
from mind_dist.training.watching import FEWEST_USERS

logger = logging.getLogger(__name__)

_DEAL_EVENLY = "take as many workers as divide the partitions, or prepare with num_buckets a multiple of the workers"


class RunLog:
    """Logs what is new and not as it should be, and passes on progress and evaluations.

    Args:
        on_progress: Called with each progress.
        on_look: Called with each evaluation by the valid users.
        may_watch: Whether there is somebody to open the valid users.

    Attributes:
        fallback: The version that workers went on from where newer ones were damaged.
        failure: Why the last group of workers that was lost has failed; empty where none was.
    """

    def __init__(
        self, on_progress: Callable[[TrainProgress], None], on_look: Callable[[Look], None], *, may_watch: bool
    ) -> None:
        self.fallback: Fallback | None = None
        self.failure = ""
        self._on_progress = on_progress
        self._on_look = on_look
        self._may_watch = may_watch
        self._deal: Deal | None = None
        self._hanging = ("", -1)
        self.begin()

    def begin(self) -> None:
        """Expect the words of another monitor."""
        self.failure = ""
        self._num_looks = self._num_failures = self._num_saves = 0

    def tell(self, state: RunState, settings: TrainSettings) -> None:
        """Log and pass on what is new."""
        if state.fallback not in (None, self.fallback):
            self.fallback = state.fallback
            fields = {"version": state.fallback.version_uri, "damaged": "; ".join(state.fallback.damaged)}
            logger.warning("newer versions are damaged, training goes on from an earlier one", extra={"fields": fields})
        for why in state.saves_asked[self._num_saves :]:
            logger.warning("saving before the workers are replaced", extra={"fields": {"why": why}})
        self._num_saves = len(state.saves_asked)
        self._tell_failures(state)
        if state.deal not in (None, self._deal):
            self._deal = state.deal
            self._tell_deal(state.deal, state.num_watching, settings)
        if state.progress is not None:
            self._on_progress(state.progress)
        for look in state.looks[self._num_looks :]:
            self._on_look(look)
        self._num_looks = len(state.looks)

    def _tell_failures(self, state: RunState) -> None:
        for failure in state.failures[self._num_failures :]:
            self.failure = failure
            logger.warning("a group of workers has failed", extra={"fields": {"why": failure}})
        self._num_failures = len(state.failures)
        if state.hang is not None and self._hanging != (state.hang.pulse.group, state.hang.pulse.rank):
            self._hanging = (state.hang.pulse.group, state.hang.pulse.rank)
            logger.warning("a worker hangs", extra={"fields": {"which": str(state.hang)}})

    def _tell_deal(self, deal: Deal, num_watching: int | None, settings: TrainSettings) -> None:
        logger.info("workers train", extra={"fields": {"workers": len(deal.partitions)}})
        if warning := deal.warning():
            logger.warning(warning, extra={"fields": dataclasses.asdict(deal) | {"advice": _DEAL_EVENLY}})
        if num_watching == 0 and settings.is_watched and self._may_watch:
            fewest = {"fewest": FEWEST_USERS, "epochs": settings.training.num_epochs}
            logger.warning("too few valid users to watch the run: its length is set", extra={"fields": fewest})
