"""Checkpoint → index version → verify → activate → retire: how a model version reaches readers, and goes again.

The steps in their order, and the way back, are in `publish`. `backfill` brings the users, from the version before or
from a dataset; `log_hand_over` lets the updaters of one version go on from those of another; `item_columns` gives items
what they are filtered by; `compatibility` and `verification` are what a version must pass.
"""

from mind_dist.publishing.backfill import dataset_users
from mind_dist.publishing.compatibility import check_id_type
from mind_dist.publishing.log_hand_over import KafkaHandOver
from mind_dist.publishing.publish import Encoder, PublishReport, publish, rollback

__all__ = ["Encoder", "KafkaHandOver", "PublishReport", "check_id_type", "dataset_users", "publish", "rollback"]
