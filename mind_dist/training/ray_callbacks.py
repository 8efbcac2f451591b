"""What Ray Train's controller is about to do → what the run is asked for or told first.

These run in the controller, on the driver's node. Ray's own notice to workers (`ray.train.get_preemption_info`) is a
barrier that each step would pay for; here the monitor asks rank 0, and the step's own first collective agrees on it.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller.state import PreemptingState, ResizingState, TrainControllerState
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroup

logger = logging.getLogger(__name__)

_SAVE_EVERY_S = 30.0
"""Time between two saves while a node is about to go: what is trained in between is lost with it."""

_SAVE_WITHIN_S = 60.0
"""How long a group that is to be restarted with more workers may take for its save."""

_ASK_EVERY_S = 0.2


class SaveBeforeRestart(ControllerCallback, WorkerGroupCallback):
    """Has the run saved before a group of workers is replaced by one of another size, or loses a node it was told of.

    Args:
        monitor: Handle of the RunMonitor.
    """

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor
        self._asked_s = 0.0
        self._workers: WorkerGroup | None = None

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Take note of whom to ask."""
        self._workers = worker_group

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """Ask for a save where Ray has decided to restart the workers, and has not done so yet."""
        if isinstance(current_state, ResizingState):
            decision = current_state.scaling_decision
            assert isinstance(decision, ResizeDecision)
            self._save_and_wait(f"there is room for {decision.num_workers} workers")
        elif isinstance(current_state, PreemptingState):  # it is entered anew at each poll, until the node's time is up
            now_s = time.monotonic()
            if not isinstance(previous_state, PreemptingState) or now_s - self._asked_s >= _SAVE_EVERY_S:
                self._asked_s = now_s
                ranks = ", ".join(map(str, current_state.preemption_info.preempted_ranks))
                self._monitor.ask_to_save.remote(f"the nodes of these workers are about to go: {ranks}")

    def _save_and_wait(self, why: str) -> None:
        """Ask for a save and wait until it is done: as soon as this returns, Ray ends the workers.

        The controller waits here, so what workers report is taken here: none goes on while its last report is not.
        """
        assert self._workers is not None
        ray.get(self._monitor.ask_to_save.remote(why))
        give_up_s = time.monotonic() + _SAVE_WITHIN_S
        while not ray.get(self._monitor.has_saved.remote()):
            failed = self._workers.poll_status(timeout=_ASK_EVERY_S).errors
            if failed or time.monotonic() > give_up_s:
                problem = "a worker failed before the save" if failed else f"no save within {_SAVE_WITHIN_S:.0f} s"
                logger.warning("%s: the workers go on from the one before", problem)
                return
            time.sleep(_ASK_EVERY_S)


class TellFailures(UserCallback):
    """Tells the monitor why a group of workers has failed, before it is replaced.

    Args:
        monitor: Handle of the RunMonitor.
    """

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Tell what each rank has raised or died of, and which hang."""
        silent = [rank for rank, error in worker_exceptions.items() if isinstance(error, WorkerHealthCheckTimeoutError)]
        self._monitor.fail.remote(tuple(silent), {rank: _brief(error) for rank, error in worker_exceptions.items()})


def _brief(error: Exception) -> str:
    """Return an error in a line: what it was is in the first, and Ray's own word for a dead worker says nothing."""
    if isinstance(error, WorkerHealthCheckFailedError):
        error = error.health_check_failure
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
