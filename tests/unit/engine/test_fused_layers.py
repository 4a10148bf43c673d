import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affectgpt_r1.engine.fused_layers import fuse_layers, gated_projection, gated_silu, rms_norm


def plain_norm(states, weight, epsilon):
    return states / (states.square().mean(-1, keepdim=True) + epsilon).sqrt() * weight


def leaves(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]


@given(seed=st.integers(0, 99), rows=st.integers(0, 4), width=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_norm_has_the_values_and_gradients_of_its_formula(seed, rows, width):
    states, weight = leaves(seed, (2, rows, width), (width,))
    torch.testing.assert_close(rms_norm(states, weight, 1e-6), plain_norm(states, weight, 1e-6), atol=1e-12, rtol=1e-10)
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(states.shape, dtype=torch.float64, generator=generator)
    ours = torch.autograd.grad(rms_norm(states, weight, 0.1), (states, weight), gradient)
    slow = torch.autograd.grad(plain_norm(states, weight, 0.1), (states, weight), gradient)
    for one, other in zip(ours, slow, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)


def test_gradients_against_finite_differences():
    assert torch.autograd.gradcheck(lambda states, weight: rms_norm(states, weight, 1e-3), leaves(1, (3, 5), (5,)))
    assert torch.autograd.gradcheck(gated_silu, leaves(2, (3, 5), (3, 5)))
    assert torch.autograd.gradcheck(gated_projection, leaves(6, (2, 3, 5), (2, 3, 5), (4, 5)))


@pytest.mark.parametrize("function", [lambda states, weight: rms_norm(states, weight, 1e-3), gated_silu])
def test_gradients_of_gradients_are_refused_not_wrong(function):
    states, weight = leaves(5, (3, 5), (5,) if function is not gated_silu else (3, 5))
    (gradient,) = torch.autograd.grad(function(states, weight).square().sum(), states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_gated_silu_is_its_formula():
    gate, up = leaves(3, (4, 6), (4, 6))
    torch.testing.assert_close(gated_silu(gate, up), gate * torch.sigmoid(gate) * up, atol=1e-14, rtol=0)


def test_a_fused_projection_equals_its_formula():
    gate, up, weight = leaves(7, (2, 4, 6), (2, 4, 6), (3, 6))
    ours, slow = gated_projection(gate, up, weight), gated_silu(gate, up) @ weight.T
    torch.testing.assert_close(ours, slow, atol=1e-14, rtol=0)
    gradient = torch.randn(ours.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    expected = torch.autograd.grad(slow, (gate, up, weight), gradient)
    for one, other in zip(torch.autograd.grad(ours, (gate, up, weight), gradient), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=0)
    gated_projection(gate, up, weight.requires_grad_(False)).sum().backward()
    assert weight.grad is None


def test_a_frozen_norm_weight_gets_no_gradient():
    states, weight = leaves(4, (3, 5), (5,))
    rms_norm(states, weight.requires_grad_(False), 1e-6).sum().backward()
    assert weight.grad is None
    assert states.grad.abs().max() > 0


def small_model():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=29, hidden_size=16, intermediate_size=24, **sizes))


def step(model, ids):
    model.zero_grad()
    logits = model(input_ids=ids).logits
    logits.float().logsumexp(-1).sum().backward()
    return logits.detach(), {name: one.grad for name, one in model.named_parameters()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.05)])
def test_a_model_keeps_its_logits_gradients_and_names(dtype, tolerance):
    model = small_model().to(dtype)
    fused, ids = copy.deepcopy(model), torch.arange(12).view(2, 6)
    fuse_layers(fused)
    assert fused.state_dict().keys() == model.state_dict().keys()
    (logits, gradients), (other_logits, other_gradients) = step(model, ids), step(fused, ids)
    torch.testing.assert_close(other_logits, logits, atol=tolerance, rtol=tolerance)
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, atol=tolerance, rtol=20 * tolerance)


def kept_floats(model, ids):
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.model(input_ids=ids).last_hidden_state
    return sum(kept.values()) if output.requires_grad else 0


def test_the_graph_keeps_less():
    model, ids = small_model(), torch.arange(24).view(1, 24)
    before = kept_floats(model, ids)
    fuse_layers(model)
    width, intermediate, layers, norms = 16, 24, 2, 5
    assert before - kept_floats(model, ids) == 24 * (2 * layers * intermediate + norms * width)


def test_a_fused_model_is_copied_and_pickled(tmp_path):
    model, ids = small_model(), torch.arange(6).view(1, 6)
    fuse_layers(model)
    logits = model(input_ids=ids).logits
    torch.save(model, tmp_path / "model.pt")
    copies = [copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)]
    with torch.no_grad():
        model.model.norm.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
    for one in copies:
        assert torch.equal(one(input_ids=ids).logits, logits)
