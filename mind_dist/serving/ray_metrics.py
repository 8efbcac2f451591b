"""`Metrics` by Ray, which exports them to Prometheus."""

from __future__ import annotations

from typing import Any

from ray.util import metrics as ray_metrics

from mind_dist.observability import METRICS, Metric


class RayMetrics:
    """`Metrics` that Ray exports to Prometheus."""

    def __init__(self) -> None:
        self._metrics = {name: _ray_metric(name, metric) for name, metric in METRICS.items()}

    def add(self, name: str, value: float = 1.0, **tags: str) -> None:
        """Raise a counter."""
        if value > 0:  # Ray refuses to add nothing
            self._metrics[name].inc(value, tags)

    def set(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge."""
        self._metrics[name].set(value, tags)

    def observe(self, name: str, value: float, **tags: str) -> None:
        """Put a value into a histogram."""
        self._metrics[name].observe(value, tags)


def _ray_metric(name: str, metric: Metric) -> Any:
    match metric.kind:
        case "counter":
            return ray_metrics.Counter(name, metric.description, metric.tags)
        case "gauge":
            return ray_metrics.Gauge(name, metric.description, metric.tags)
        case "histogram":
            return ray_metrics.Histogram(name, metric.description, list(metric.boundaries), metric.tags)
