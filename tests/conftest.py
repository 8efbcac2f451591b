"""Shapes are checked in tests and free in production: jaxtyping's import hook, with beartype, over the model."""

import os
import signal
import tempfile

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook
from xdist.scheduler import LoadScopeScheduling

# Several processes run tests, each with less than a core: threads that wait for each other in turns take four times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Read by Apache Kafka's scripts. Brokers of tests live for minutes, in which Java's second compiler costs more than it
# gives back: with the first one alone it takes 7.7 s of processor time until a broker answers, with both 10.8.
os.environ.setdefault("KAFKA_OPTS", "-XX:TieredStopAtLevel=1")

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray looks at it when it is imported, before its cluster is there

# What processes of a node share of versions goes away with the tests, and is inherited by all that they start.
_cache = tempfile.TemporaryDirectory(prefix="mind-dist-cache-")
os.environ["MIND_DIST_CACHE"] = _cache.name

# A shell has its background jobs ignore Ctrl-C, and what we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

install_import_hook("mind_dist.model", "beartype.beartype")

settings.register_profile("shared machine", deadline=None)  # a busy machine is not a failure
settings.load_profile("shared machine")

pytest_plugins = ["tests.services"]

_TRAINING = "Ray trains"
_SERVING = "Ray serves"
_JOBS = "jobs on Ray"
_SERVICES = "brokers and Milvus"
_FIRST = (_TRAINING, _SERVING, _JOBS, _SERVICES, "tests/integration/")
"""What takes longest comes first, so that the last minutes are many small files."""

_TOGETHER = {
    "tests/contracts/": _SERVICES,
    "tests/drills/test_drills.py": _SERVICES,
    "tests/integration/test_lineages.py": _SERVICES,
    "tests/integration/test_train_on_kafka.py": _SERVICES,
    "tests/drills/test_soak.py": _SERVING,
    "tests/e2e/test_demo.py": _SERVING,
    "tests/integration/test_deployments.py": _SERVING,
    "tests/integration/test_http_neighbors.py": _SERVING,
    "tests/integration/test_killed.py": _SERVING,
    "tests/integration/test_readme_recipe.py": _SERVING,
    "tests/integration/test_scaling.py": _SERVING,
    "tests/integration/test_serv": _SERVING,
    "tests/integration/test_train_on_growing_topic.py": _SERVING,
    "tests/e2e/": _JOBS,
    "tests/integration/test_news.py": _JOBS,
    "tests/integration/test_prepare": _JOBS,
    "tests/integration/test_publish_schedule_job.py": _JOBS,
    "tests/integration/test_streaming_training.py": _JOBS,
    "tests/integration/test_train_on_ray_hanging.py": _JOBS,
    "tests/integration/test_train_on_ray": _TRAINING,
    "tests/integration/test_train_on_two_nodes.py": _TRAINING,
    "tests/integration/test_train_on_s3.py": _TRAINING,
}
"""Beginnings of the names of files that run in one process, one after the other: they share what they start."""


class ByServices(LoadScopeScheduling):  # type: ignore[misc]  # the library is untyped
    """Hands out together what shares services, and all other tests by file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((name for start, name in _TOGETHER.items() if file.startswith(start)), file)

    def _assign_work_unit(self, node: object) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=_turn), last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: object) -> None:
        if self._pending_of(self.assigned_work[node]) < 2:  # else it would take minutes of work behind a long test
            super()._reschedule(node)


def _turn(scope: str) -> int:
    return next((place for place, start in enumerate(_FIRST) if scope.startswith(start)), len(_FIRST))


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByServices:
    """Return who says which process runs what."""
    return ByServices(config, log)
