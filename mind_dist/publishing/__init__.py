"""Checkpoint → index version → verify → activate → retire: how a model version reaches readers, and goes again.

The steps in their order, and the way back, are in `publish`. Users' rows are made by the updaters (`mind_dist.views`);
`item_columns` gives items what they are filtered by; `compatibility` and `verification` are what a version must pass.
"""

from mind_dist.publishing.publish import CatchUp, Encoder, PublishReport, publish, rollback

__all__ = ["CatchUp", "Encoder", "PublishReport", "publish", "rollback"]
