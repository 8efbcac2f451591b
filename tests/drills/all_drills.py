"""All drills, in the order in which they are done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.drills.membership import partitions_added, replicas_come_and_go, topic_made_anew
from tests.drills.outages import broker_killed, milvus_frozen, milvus_killed, milvus_wiped
from tests.drills.publishing import first_publish_fails, publish_and_roll_back
from tests.drills.report import Run
from tests.drills.site import Site, Store
from tests.drills.stopped import frozen_at_random, frozen_in_each_step, killed_at_random, killed_in_each_step
from tests.drills.users import forgotten, new_users
from tests.drills.whole_log import whole_log


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
    Drill("broker-killed", broker_killed),
    Drill("milvus-killed", milvus_killed, BOTH),
    Drill("milvus-frozen", milvus_frozen, BOTH),
    Drill("milvus-wiped", milvus_wiped, BOTH),
    Drill("whole-log", whole_log),
    Drill("replicas-come-and-go", replicas_come_and_go),
    Drill("partitions-added", partitions_added),
    Drill("topic-made-anew", topic_made_anew, BOTH),
    Drill("first-publish-fails", first_publish_fails, BOTH),
    Drill("publish-and-roll-back", publish_and_roll_back),
    Drill("forgotten", forgotten, BOTH),
    Drill("new-users", new_users),
)
