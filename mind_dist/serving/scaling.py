"""How many updaters there should be: as many as the events that wait give work to, and no more than there are partitions.

Ray sends this module, by value, to Serve's controller, where our package need not be installed: it imports nothing of it.
"""

from __future__ import annotations

import math
from typing import Any

LAG = "mind_dist_lag"
PARTITIONS = "mind_dist_partitions"


class LagPolicy:
    """An autoscaling policy of Ray Serve; Serve applies the bounds and the delays.

    Args:
        lag_per_updater: Records that may wait for each updater.
    """

    def __init__(self, lag_per_updater: int) -> None:
        self._lag_per_updater = lag_per_updater

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return how many replicas there should be, and what is kept for the next call.

        Args:
            context: `ray.serve.config.AutoscalingContext`, with what `UpdaterReplica.record_autoscaling_stats` told.
        """
        told = context.aggregated_metrics or {}
        num_partitions = math.ceil(max(told.get(PARTITIONS, {}).values(), default=0))
        if not num_partitions:  # nobody knows anything yet
            return context.target_num_replicas, {}
        wanted = math.ceil(sum(told.get(LAG, {}).values()) / self._lag_per_updater)
        return max(1, min(wanted, num_partitions)), {}
