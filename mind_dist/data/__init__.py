"""Logs and datasets → `Event` → `BehaviorSequence` → `Batch`."""
