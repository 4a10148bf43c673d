"""Sums that are the same in whatever order."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.engine.sampler import cumulative_sum, filter_logits, integer_cumulative_sum, invert_distribution


@pytest.fixture
def deterministic_accelerator(monkeypatch):
    """``trainer.deterministic=true`` on CUDA, whose floating-point cumulative sum raises, simulated on the CPU."""
    added = torch.Tensor.cumsum

    def cumsum(self, dim):
        if self.is_floating_point():
            raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation")
        return added(self, dim)

    monkeypatch.setattr("affectgpt_r1.engine.sampler.cumulative_sum", integer_cumulative_sum)
    monkeypatch.setattr(torch.Tensor, "cumsum", cumsum)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_integers_sum_to_what_floating_point_numbers_do(dtype):
    values = torch.rand(3, 5000, dtype=dtype, generator=torch.Generator().manual_seed(0)).pow(8)
    values[:, 100:200] = 0.0
    sums = integer_cumulative_sum(values)
    torch.testing.assert_close(sums, values.double().cumsum(-1), atol=1e-6, rtol=0)
    assert (sums.diff(dim=-1) >= 0).all()
    assert (sums[:, 99:200] == sums[:, 99:100]).all()  # a token of weight 0 is never drawn
    assert not integer_cumulative_sum(torch.zeros(2, 4)).any()
    assert cumulative_sum(values).equal(values.cumsum(-1))


@pytest.mark.usefixtures("deterministic_accelerator")
def test_deterministic_draws_and_filters_need_no_floating_point_sum(monkeypatch):
    weights = torch.rand(500, 300, generator=torch.Generator().manual_seed(1)).pow(4)
    weights[:, 40:60] = 0.0
    uniforms = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    drawn, kept = invert_distribution(weights, uniforms), filter_logits(weights.log(), top_k=0, top_p=0.7)
    monkeypatch.undo()
    assert (drawn == invert_distribution(weights, uniforms)).float().mean() > 0.99
    assert torch.equal(kept, filter_logits(weights.log(), top_k=0, top_p=0.7))
