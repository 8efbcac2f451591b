"""All drills, in the order in which they are done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.drills.report import Run
from tests.drills.site import Site, Store
from tests.drills.stopped import frozen_at_random, frozen_in_each_step, killed_at_random, killed_in_each_step


@dataclass(frozen=True)
class Drill:
    """A fault, and what it is done to.

    Attributes:
        name: What it is asked for by.
        run: Does it; its docstring says what it does.
        stores: Where it is done.
    """

    name: str
    run: Callable[[Site], list[Run]]
    stores: tuple[Store, ...] = ("standalone",)


BOTH: tuple[Store, ...] = ("standalone", "lite")

DRILLS = (
    Drill("killed-in-each-step", killed_in_each_step),
    Drill("killed-at-random", killed_at_random, BOTH),
    Drill("frozen-in-each-step", frozen_in_each_step),
    Drill("frozen-at-random", frozen_at_random, BOTH),
)
