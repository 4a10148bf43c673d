"""Lookups in a tied embedding against plain autograd: the same gradient, in one buffer."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from affectgpt_r1.engine.fused_linear_logps import InputEmbedding, fused_linear_logps
from affectgpt_r1.types import Sampling

VOCABULARY, WIDTH = 31, 6
FIRST, SECOND = torch.tensor([[3, 3, 0], [7, 30, 3]]), torch.tensor([3, 9])


class TinyModel(nn.Module):
    def __init__(self, *, tied=True, **options):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH, dtype=torch.float64, **options)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=torch.float64)
        if tied:
            self.lm_head.weight = self.embedding.weight

    def get_input_embeddings(self):
        return self.embedding


def loss(look_up, weight):
    """Two lookups, the second with a state of the first, and scores by the head."""
    states = torch.cat([look_up(FIRST).flatten(0, 1), look_up(SECOND)]).tanh().cumsum(0)
    return fused_linear_logps(
        states, weight(), torch.arange(len(states)), precomputed_grads=lambda logps, _: logps * 0 + 1
    ).logps


def gradients(model, *, handed_on, backward=torch.Tensor.backward):
    model.zero_grad()
    look_up = InputEmbedding(model) if handed_on else model.embedding
    weight = (lambda: look_up.weight) if handed_on else (lambda: model.lm_head.weight)
    backward(loss(look_up, weight).sum())
    return model.embedding.weight.grad


@pytest.mark.parametrize("options", [{}, {"padding_idx": 3}])
def test_the_gradient_is_that_of_plain_autograd(options):
    model = TinyModel(**options)
    expected = gradients(model, handed_on=False).clone()
    torch.testing.assert_close(gradients(model, handed_on=True), expected, atol=1e-14, rtol=0)
    assert expected.abs().min(1).values.gt(0).any()


def test_gradients_of_micro_batches_add_up_and_none_is_changed_later():
    model = TinyModel()
    expected = gradients(model, handed_on=False).clone()
    first = gradients(model, handed_on=True)
    kept = first.clone()
    embedding = InputEmbedding(model)
    (two,) = torch.autograd.grad(loss(embedding, lambda: embedding.weight).sum(), model.embedding.weight)
    assert torch.equal(first, kept)
    torch.testing.assert_close(two, expected, atol=1e-14, rtol=0)
    embedding = InputEmbedding(model)
    (loss(embedding, lambda: embedding.weight).sum() / 2).backward()
    torch.testing.assert_close(model.embedding.weight.grad, 1.5 * expected, atol=1e-13, rtol=0)


def test_lookups_whose_head_is_not_used():
    model = TinyModel()
    embedding = InputEmbedding(model)
    (embedding(FIRST).square().sum() + embedding(SECOND).sum()).backward()
    handed_on = model.embedding.weight.grad.clone()
    model.zero_grad()
    (model.embedding(FIRST).square().sum() + model.embedding(SECOND).sum()).backward()
    torch.testing.assert_close(handed_on, model.embedding.weight.grad, atol=1e-14, rtol=0)


def test_two_heads_and_a_second_backward_pass():
    model = TinyModel()
    expected = 2 * gradients(model, handed_on=False)
    model.zero_grad()
    embedding = InputEmbedding(model)
    scores = loss(embedding, lambda: embedding.weight).sum()
    scores.backward(retain_graph=True)
    scores.backward()
    torch.testing.assert_close(model.embedding.weight.grad, expected, atol=1e-13, rtol=0)
    model.zero_grad()
    look_ups = [InputEmbedding(model), InputEmbedding(model)]
    sum(loss(one, lambda one=one: one.weight).sum() for one in look_ups).backward()
    torch.testing.assert_close(model.embedding.weight.grad, expected, atol=1e-13, rtol=0)


class CountMatrices(TorchDispatchMode):
    """Counts the results of operations that are as large as the embedding and have memory of their own."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        output = function(*arguments, **(options or {}))
        if isinstance(output, torch.Tensor) and output.shape == (VOCABULARY, WIDTH):
            self.found.add(output.untyped_storage().data_ptr())
        return output


def test_the_backward_pass_makes_no_second_matrix():
    model, counts = TinyModel(), []
    for handed_on in (False, True):
        with CountMatrices() as count:
            gradients(
                model, handed_on=handed_on, backward=lambda loss, count=count: (count.found.clear(), loss.backward())
            )
        counts.append(len(count.found - {model.embedding.weight.data_ptr(), model.embedding.weight.grad.data_ptr()}))
    assert counts[0] > 0
    assert counts[1] == 0


def frozen(model):
    model.embedding.weight.requires_grad_(False)


def hooked(model):
    model.embedding.register_forward_hook(lambda module, inputs, output: output * 2)


@pytest.mark.parametrize("change", [frozen, hooked])
def test_other_lookups_are_those_of_the_module(change):
    model = TinyModel()
    change(model)
    embedding = InputEmbedding(model)
    assert embedding.weight is None
    assert torch.equal(embedding(FIRST), model.embedding(FIRST))


@pytest.mark.parametrize(
    "options", [{"tied": False}, {"sparse": True}, {"max_norm": 1.0}, {"scale_grad_by_freq": True}]
)
def test_other_embeddings_pass_no_weight_on(options):
    assert InputEmbedding(TinyModel(**options)).weight is None


def test_without_gradient_no_weight_is_passed_on():
    model = TinyModel()
    embedding = InputEmbedding(model)
    with torch.no_grad():
        assert torch.equal(embedding(FIRST), model.embedding(FIRST))
    assert embedding.weight is model.embedding.weight


@pytest.mark.parametrize("share_prefix", [True, False])
def test_an_update_of_a_policy_with_and_without(make_policy, make_batch, monkeypatch, share_prefix):
    policy = make_policy(share_prefix=share_prefix).train()
    assert policy.language_model.lm_head.weight is policy.language_model.get_input_embeddings().weight
    batch = policy.with_features(make_batch())
    results = []
    for tied in (True, False):
        if not tied:
            monkeypatch.setattr("affectgpt_r1.engine.fused_linear_logps._can_chain_gradient", lambda *_: False)
        policy.zero_grad()
        drawn = policy.generate(batch, 3, Sampling(max_completion_length=5), torch.Generator().manual_seed(1))
        for _ in range(2):  # the first continues the prompts' pass, the second repeats it
            policy.per_token_logps(batch, drawn.completions).sum().backward()
        results.append(policy.language_model.lm_head.weight.grad)
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
