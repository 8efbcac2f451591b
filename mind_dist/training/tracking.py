"""Progress and evaluations of a run → TensorBoard or MLflow, by packages that only those who ask for them install.

A tracker never stops a run: the first write that fails is a warning, and further ones are left out.
"""

from __future__ import annotations

import importlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import xxhash

from mind_dist.errors import ConfigError
from mind_dist.training.run_monitor import Look, TrainProgress

logger = logging.getLogger(__name__)

_WRITE_EVERY_S = 5.0
"""Time between two writes of progress: a server far away answers one request after the other."""

_RUN_TAG = "mind_dist.run"
"""Tag with a digest of a run's directory, by which MLflow's run of ours is found when it goes on."""


class Tracker(Protocol):
    """Where figures go."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write what is known after a step."""
        ...

    def close(self, *, failed: bool = False) -> None:
        """Write what is still in memory, and end; say so where the run has failed."""
        ...


class TensorBoardTracker:
    """Writes event files, which `tensorboard --logdir DIRECTORY` shows.

    Args:
        directory: Where they go; a run that goes on adds a file.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, directory: str) -> None:
        _required("tensorboard", "tensorboard")
        self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(directory)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, *, failed: bool = False) -> None:  # noqa: ARG002 - event files have no place for it
        """See `Tracker`."""
        self._writer.close()


class MlflowTracker:
    """Writes metrics of one run of MLflow's, on the server that `MLFLOW_TRACKING_URI` names.

    Args:
        experiment: MLflow's experiment; made where there is none of that name.
        run: The run's directory: whoever trains in it goes on with the same run of MLflow's.
        name: What MLflow shows it by.
        settings: What is shown beside it, once; sections within sections are parameters with dots in their names.

    Raises:
        ConfigError: MLflow is not installed, or its server refuses.
    """

    def __init__(self, experiment: str, run: str, name: str, settings: Mapping[str, Any]) -> None:
        mlflow = _required("mlflow", "mlflow")
        try:
            self._client: Any = mlflow.MlflowClient()
            self._run_id = self._open(experiment, run, name, settings)
        except mlflow.exceptions.MlflowException as error:
            first_line = str(error).partition("\n")[0]
            raise ConfigError("mlflow", f"the server that MLFLOW_TRACKING_URI names refuses: {first_line}") from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._client.log_metric(self._run_id, name.replace("@", "_at_"), value, step=step)

    def close(self, *, failed: bool = False) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")

    def _open(self, experiment: str, run: str, name: str, settings: Mapping[str, Any]) -> str:
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        key = xxhash.xxh3_64_hexdigest(run.encode())  # a filter cannot quote every path
        runs = self._client.search_runs([experiment_id], f"tags.`{_RUN_TAG}` = '{key}'", max_results=1)
        if runs:
            self._client.update_run(runs[0].info.run_id, status="RUNNING")
            return str(runs[0].info.run_id)
        opened = str(self._client.create_run(experiment_id, run_name=name, tags={_RUN_TAG: key}).info.run_id)
        param = importlib.import_module("mlflow.entities").Param
        self._client.log_batch(
            opened, params=[param(setting, str(value)) for setting, value in _flat("", {"run": run, **settings})]
        )
        return opened


class Tracking:
    """Hands progress and evaluations to trackers.

    Args:
        trackers: To whom.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)
        self._written_s = -math.inf
        self._step = -1

    def progress(self, progress: TrainProgress) -> None:
        """Write how far the run is, now and then."""
        if progress.step > self._step and time.monotonic() - self._written_s >= _WRITE_EVERY_S:
            self._written_s, self._step = time.monotonic(), progress.step
            self._write(progress.step, {"loss": progress.loss, "examples_per_s": progress.examples_per_s})

    def look(self, look: Look) -> None:
        """Write what came of an evaluation."""
        self._write(look.step, look.metrics)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for tracker in list(self._trackers):
            try:
                tracker.write(step, finite)
            except Exception as error:  # noqa: BLE001 - whatever a server or a disk says: training is worth more
                fields = {"tracker": type(tracker).__name__, "error": error}
                logger.warning("figures are not tracked any more", extra={"fields": fields})
                self._trackers.remove(tracker)

    def close(self, *, failed: bool = False) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            try:
                tracker.close(failed=failed)
            except Exception as error:  # noqa: BLE001 - as above
                logger.warning("a tracker did not end well", extra={"fields": {"error": error}})


@contextmanager
def tracking(trackers: Sequence[Tracker]) -> Iterator[Tracking]:
    """Yield what hands figures to trackers, and close these afterwards, whatever happens."""
    opened = Tracking(trackers)
    try:
        yield opened
    except BaseException:
        opened.close(failed=True)
        raise
    opened.close()


def _flat(path: str, values: object) -> Iterator[tuple[str, object]]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _flat(f"{path}.{name}" if path else name, value)
    else:
        yield path, values


def _required(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(extra, f"{package} is not installed: pip install 'mind_dist[{extra}]'") from error
