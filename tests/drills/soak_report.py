"""What came of a soak: `tests.drills.soak`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tests.drills.report import BROKER, Figures, Outcome, Run
from tests.findings import Findings

REPLICAS = 2
WARM_UP = 0.25
"""Share of the time after which memory is looked at."""
MAX_GROWTH_MB = 20.0
"""Memory that a replica may gain after the warm-up."""
MAX_DRIFT = 0.05
"""The same as a share, by which a soak of half an hour is judged."""
MAX_FRESHNESS_MS = 1000.0
"""What the 99th percentile from event to row may be."""


@dataclass
class Memory:
    """A replica's resident memory over time."""

    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Return it at the end of the warm-up and at the end of all, each over a tenth of the time, and the slope between."""
        seconds, megabytes = np.array(self.seconds), np.array(self.megabytes)
        warm = seconds >= seconds[-1] * WARM_UP
        tenth = max(1, len(seconds) // 10)
        return {
            "start_mb": round(float(np.median(megabytes[warm][:tenth])), 1),
            "end_mb": round(float(np.median(megabytes[-tenth:])), 1),
            "slope_mb_per_h": round(float(np.polyfit(seconds[warm], megabytes[warm], 1)[0]) * 3600, 1),
        }


@dataclass
class Report:
    """What came of a soak."""

    duration_s: float
    events_sent: int
    events_applied: int
    events_skipped: int
    view_repairs: int
    rows_compared: int
    rows_different: int
    replica_restarts: int
    memory: dict[str, dict[str, float]]
    freshness_ms: list[dict[str, float]]
    not_ready: int
    warnings: list[str]

    def outcome(self) -> Outcome:
        """Return it as a row of the report of all drills."""
        grown = [of["end_mb"] / of["start_mb"] - 1 for of in self.memory.values()]
        figures: Figures = {
            "minutes": round(self.duration_s / 60, 1),
            "num_events": self.events_sent,
            "freshness_p99_ms": round(max((each.get("p99", 0.0) for each in self.freshness_ms), default=0.0)),
            "memory_drift_percent": round(100 * max(grown, default=0.0), 1),
            "num_view_repairs": self.view_repairs,
        }
        problems = self.problems()
        if max(grown, default=0.0) > MAX_DRIFT:
            problems.append(f"memory drifted by {max(grown):.1%}")
        if float(figures["freshness_p99_ms"]) > MAX_FRESHNESS_MS:
            problems.append(f"p99 of freshness is {figures['freshness_p99_ms']} ms")
        missing = self.events_sent - self.events_applied
        found = Findings(max(0, missing), max(0, -missing), stale_rows=self.rows_different)
        return Outcome.of("soak", BROKER, "lite", [Run(found, figures, tuple(problems))])

    def problems(self) -> list[str]:
        """Return what is not as it must be."""
        growth = {pid: of["end_mb"] - of["start_mb"] for pid, of in self.memory.items()}
        checks = {
            f"{self.events_applied} of {self.events_sent} events applied": self.events_applied == self.events_sent,
            f"{self.rows_different} of {self.rows_compared} rows differ": not self.rows_different
            and self.rows_compared,
            f"{self.view_repairs} rows had to be repaired": not self.view_repairs,
            f"{self.replica_restarts} replicas were restarted": not self.replica_restarts,
            f"memory grew by {growth} MB": len(growth) == REPLICAS and max(growth.values()) <= MAX_GROWTH_MB,
            f"/readyz complained {self.not_ready} times: {self.warnings}": not self.not_ready and not self.warnings,
        }
        return [problem for problem, is_fine in checks.items() if not is_fine]
