import logging

import pytest

from mind_dist.observability import METRICS, InMemoryMetrics, configure_logging


def test_a_log_line_ends_in_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mind_dist")
    before = (logger.handlers, logger.level, logger.propagate)
    try:
        configure_logging()
        logging.getLogger("mind_dist.test").info("batch applied", extra={"fields": {"events": 3}})
        logging.getLogger("mind_dist.test").info("saved", extra={"fields": {"uri": "s3://key:secret@bucket/v"}})
    finally:
        logger.handlers, logger.level, logger.propagate = before
    applied, saved = capsys.readouterr().err.splitlines()
    assert applied.endswith("INFO mind_dist.test batch applied events=3")
    assert saved.endswith("INFO mind_dist.test saved uri=s3://***@bucket/v")


def test_metrics_add_set_and_observe_by_name() -> None:
    metrics = InMemoryMetrics()
    metrics.add("mind_dist_events_applied", 2)
    metrics.add("mind_dist_events_applied")
    metrics.set("mind_dist_lag_records", 7, partition="0")
    metrics.observe("mind_dist_freshness_seconds", 0.1)
    assert metrics.values == {"mind_dist_events_applied": 3, "mind_dist_lag_records": 7}
    assert metrics.observed == {"mind_dist_freshness_seconds": [0.1]}


def test_every_histogram_has_rising_boundaries() -> None:
    for metric in METRICS.values():
        assert list(metric.boundaries) == sorted(metric.boundaries)
        assert bool(metric.boundaries) == (metric.kind == "histogram")
