"""Executors of more than one slot: a process for each card, or a Ray cluster."""
