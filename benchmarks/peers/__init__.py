"""Ours beside the best peer of every kind: ``python -m benchmarks.peers``."""
