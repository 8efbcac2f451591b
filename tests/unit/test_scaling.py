import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.serve.config import AutoscalingPolicy

from mind_dist.config import ScalingConfig, ServingConfig
from mind_dist.serving.scaling import LAG, PARTITIONS, LagPolicy


def context(lags: dict[str, float], partitions: float = 4, target: int = 2) -> SimpleNamespace:
    told = {LAG: lags, PARTITIONS: dict.fromkeys(lags, partitions)}
    return SimpleNamespace(aggregated_metrics=told if lags else None, target_num_replicas=target)


def test_there_are_as_many_updaters_as_what_waits_gives_work_to() -> None:
    policy = LagPolicy(1000)
    assert policy(context({"a": 0, "b": 0}))[0] == 1
    assert policy(context({"a": 900, "b": 1200}))[0] == 3
    assert policy(context({"a": 90_000}))[0] == 4, "no more than partitions"
    assert policy(context({}, target=3))[0] == 3, "nothing is changed before anybody has told"
    assert policy(context({"a": 0}, partitions=0, target=3))[0] == 3, "nor before anybody knows"


def test_the_policy_needs_nothing_of_ours_where_it_runs(tmp_path: Path) -> None:
    policy = AutoscalingPolicy(  # type: ignore[no-untyped-call]  # the class has no types
        policy_function="mind_dist.serving.scaling.LagPolicy", policy_kwargs={"lag_per_updater": 10}
    )
    file = tmp_path / "policy"
    file.write_bytes(policy.get_serialized_policy_def() or b"")
    program = (
        "import sys; from ray import cloudpickle; policy = cloudpickle.loads(open(sys.argv[1], 'rb').read())(10); "
        "assert not any(name.startswith('mind_dist') for name in sys.modules); print(policy._lag_per_updater)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.stdout.strip() == "10"


def test_more_updaters_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scaling\.max_updaters"):
        ServingConfig(num_updaters=3, scaling=ScalingConfig(max_updaters=2))
