"""Synthetic clips in the published layout, for running the whole job without gated data."""
