"""Batches → model version: the item table, the plain loop, the Ray Train shell."""
