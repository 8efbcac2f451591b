"""Composition roots for `ray job submit -- python -m jobs.NAME`: parse, build, call."""
