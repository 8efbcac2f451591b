"""Kafka → fresh user rows, and user → candidates: plain cores and their Ray Serve shell."""
