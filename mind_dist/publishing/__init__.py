"""Checkpoint → index version → verify → activate → retire: how a model version reaches readers, and goes again.

publish.py        the steps in their order, and the way back
backfill.py       users of the new version, from the version before or from a dataset
item_columns.py   the catalog's columns, to filter by
verification.py   what a version must show first
"""

from mind_dist.publishing.backfill import dataset_users
from mind_dist.publishing.publish import Encoder, PublishReport, publish, rollback

__all__ = ["Encoder", "PublishReport", "dataset_users", "publish", "rollback"]
