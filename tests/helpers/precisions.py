"""Policies in double precision, in which sums do not depend on their order to any digit that matters."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager

import torch


@contextmanager
def precision(dtype):
    """Let new tensors, such as those of losses, be in ``dtype``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def cast(policy, batch, dtype):
    features = {name: values.to(dtype) for name, values in batch.features.items()}
    return policy.to(dtype), dataclasses.replace(batch, features=features)
