"""Rewards of a completion, their weighting and the length penalties."""
