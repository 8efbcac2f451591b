"""What each rank is at, told by a thread of its own → the name of the one that hangs.

A rank that hangs shows nowhere but in the others, which wait for it in a collective. So each sends, every two seconds,
its step and how many collectives it has begun: who is behind the others has not come to the one in which they wait, and
of whom nothing is heard hangs as a whole process. No torch: the monitor, which hears them all, starts at once.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SILENT_S = 15.0
"""A rank of which nothing was heard for so long, while another is, hangs: several signs are missing."""

STUCK_S = 60.0
"""A rank for which the others have waited so long in one collective is worth a word; it may be a large save."""

AWAITED_S = 5.0
"""The same once a group has failed: several signs of the rank that waited, and not a moment between two."""

_EVERY_S = 2.0


@dataclass
class Activity:
    """What this rank is at: written by the thread that trains, read by the one that tells of it.

    Attributes:
        step: Steps done.
        collectives: Collectives begun.
        since_s: When the one it is in was begun, by this process' monotonic clock; None outside of any.
    """

    step: int = 0
    collectives: int = 0
    since_s: float | None = None

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Take note of one while it lasts, of which there may be another within."""
        before = self.since_s
        self.since_s = before or time.monotonic()
        self.collectives += 1
        try:
            yield
        finally:
            self.since_s = before


@dataclass(frozen=True)
class Pulse:
    """One sign of life.

    Attributes:
        group: Which group of workers: they are replaced together.
        rank: Of the rank.
        world_size: Number of ranks.
        place: Its process and host.
        step: Steps done.
        collectives: Collectives begun.
        waiting_s: How long it has been in the one that it is in; 0 outside of any.
    """

    group: str
    rank: int
    world_size: int
    place: str
    step: int
    collectives: int
    waiting_s: float

    @property
    def name(self) -> str:
        """Name the rank and where it is."""
        return f"worker {self.rank} of {self.world_size} ({self.place})"


@dataclass(frozen=True)
class Hang:
    """A rank that hangs.

    Attributes:
        pulse: The last that was heard of it.
        for_s: For how long.
        is_silent: Whether the whole process does; else the others wait for it.
    """

    pulse: Pulse
    for_s: float
    is_silent: bool

    def __str__(self) -> str:
        what = "nothing was heard of it" if self.is_silent else "the others have waited for it in a collective"
        return f"{self.pulse.name} hangs at step {self.pulse.step}: {what} for {self.for_s:.0f} s"


@dataclass
class Pulses:
    """The last sign of each rank of the group that trains now.

    Attributes:
        group: Which one; empty before the first sign.
    """

    group: str = ""
    _heard: dict[int, tuple[Pulse, float]] = field(default_factory=dict)

    def hear(self, pulse: Pulse, now_s: float) -> None:
        """Take note of one; the first of another group begins anew."""
        if pulse.group != self.group:
            self.group, self._heard = pulse.group, {}
        self._heard[pulse.rank] = pulse, now_s

    def hang(self, now_s: float) -> Hang | None:
        """Return the rank that hangs, if one does, by the clock that `hear` is told."""
        ages = {rank: now_s - at_s for rank, (_, at_s) in self._heard.items()}
        quiet = [rank for rank, age_s in ages.items() if age_s > SILENT_S]
        if quiet and len(quiet) < len(ages):  # of all at once: the group has ended, or its network
            return self._silent(max(quiet, key=ages.__getitem__), now_s)
        return self._awaited(now_s, STUCK_S)

    def why(self, now_s: float, silent: Collection[int]) -> Hang | None:
        """Return the rank that hung when the group failed, if one did.

        Args:
            now_s: Now.
            silent: Ranks that have not answered Ray for too long.
        """
        known = [rank for rank in silent if rank in self._heard]
        return self._silent(known[0], now_s) if known else self._awaited(now_s, AWAITED_S)

    def _silent(self, rank: int, now_s: float) -> Hang:
        pulse, at_s = self._heard[rank]
        return Hang(pulse, now_s - at_s, is_silent=True)

    def _awaited(self, now_s: float, least_s: float) -> Hang | None:
        """Return the rank that has begun fewer collectives than one that has waited in its own for so long."""
        pulses = [pulse for pulse, _ in self._heard.values()]
        furthest = max(pulses, key=lambda pulse: pulse.collectives, default=None)
        behind = min(pulses, key=lambda pulse: pulse.collectives, default=None)
        if furthest is None or behind is None or behind.collectives == furthest.collectives:
            return None
        if furthest.waiting_s < least_s:
            return None
        return Hang(behind, furthest.waiting_s + now_s - self._heard[furthest.rank][1], is_silent=False)


@contextmanager
def pulse_of(
    activity: Activity, group: str, rank: int, world_size: int, tell: Callable[[Pulse], object]
) -> Iterator[None]:
    """Tell every two seconds what this rank is at, from a thread of its own."""
    place, ended = f"process {os.getpid()} at {socket.gethostname()}", threading.Event()

    def run() -> None:
        while not ended.wait(_EVERY_S):
            since_s = activity.since_s
            waiting_s = time.monotonic() - since_s if since_s is not None else 0.0
            tell(Pulse(group, rank, world_size, place, activity.step, activity.collectives, waiting_s))

    thread = threading.Thread(target=run, name="pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
