"""Checkpoint → index version → verify → activate → retire: how a model version reaches readers, and goes again.

The steps in their order are in `publish`, the way back in `rollback`. What comes from a run is copied first (`from_run`,
`copies`), for the run deletes its versions; `schedule` follows a run that is trained without end. Users' rows are made by the updaters (`mind_dist.views`);
`item_columns` gives items what they are filtered by; `compatibility` and `verification` are what a version must pass.
"""

from mind_dist.publishing.catching_up import CatchUp
from mind_dist.publishing.copies import PublishedCopies
from mind_dist.publishing.from_run import publish_from_run
from mind_dist.publishing.publish import Encoder, publish
from mind_dist.publishing.report import PublishReport
from mind_dist.publishing.rollback import rollback
from mind_dist.publishing.schedule import FollowedRun, ScheduledPublisher

__all__ = [
    "CatchUp",
    "Encoder",
    "FollowedRun",
    "PublishReport",
    "PublishedCopies",
    "ScheduledPublisher",
    "publish",
    "publish_from_run",
    "rollback",
]
