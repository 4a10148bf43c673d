"""Collective operations, sharded weights, and processes that end together."""
