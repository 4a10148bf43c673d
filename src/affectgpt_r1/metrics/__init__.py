"""Metrics over a corpus, each built on the pure functions in ``metrics.functional``."""
