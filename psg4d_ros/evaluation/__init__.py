"""Replay and metrics."""
