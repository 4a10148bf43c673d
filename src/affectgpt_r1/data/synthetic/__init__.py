"""Render synthetic clips in the published layout, to run everything without gated data."""
