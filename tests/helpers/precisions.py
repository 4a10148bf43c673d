"""Policies in double precision, in which sums do not depend on their order to any digit that matters."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager

import pytest
import torch

from affectgpt_r1.engine import fast
from affectgpt_r1.engine.fused_linear_logps import TokenLogps


@contextmanager
def precision(dtype):
    """Weights, features, losses and the head in ``dtype``; our head itself always gives float32 log-probs."""

    def plain_head_logps(model, states, ids, *, temperature, entropy, **options):
        logps = (model.lm_head(states) / temperature).log_softmax(-1)
        entropies = -(logps.exp() * logps).sum(-1) if entropy else None
        return TokenLogps(logps.gather(-1, ids.unsqueeze(-1)).squeeze(-1), entropies)

    before = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        if dtype == torch.float64:
            patch.setattr(fast, "head_logps", plain_head_logps)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def cast(policy, batch, dtype):
    features = {name: one.to(dtype) for name, one in batch.features.items()}
    return policy.to(dtype), dataclasses.replace(batch, features=features)
