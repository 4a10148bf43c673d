"""The fast engine against the reference engine: tokens, log-probs, entropies and gradients.

In float64 both agree to the last digits. In float32 they order sums otherwise, but run all of the fast engine's code.

Prompts hold media and are of unequal lengths, and so are the completions; each clip has a group of them.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from affectgpt_r1.engine import fast as engine_fast
from affectgpt_r1.engine import graph_decoder
from affectgpt_r1.engine.fused_decoder import has_fused_layers
from affectgpt_r1.types import Sampling, TokenBatch

MIXED = (("video", "audio", "text"), ("video", "text"), ("audio",), ("text",))
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = {
    "full": {},
    "lora": {"lora": {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": PROJECTIONS}},
    "lora on the head": {"lora": {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "lm_head"]}},
    "grouped queries": {"language_model": {"num_key_value_heads": 2}},
    "qwen3": {"language_model": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 24}},
    "untied": {"language_model": {"tie_word_embeddings": False}},
    "repeated prompts": {"share_prefix": False},
    "checkpointing": {"gradient_checkpointing": True},
}
SAMPLINGS = {
    "sampled": Sampling(max_completion_length=14),
    "greedy": Sampling(temperature=0.0, max_completion_length=14),
    "nucleus": Sampling(temperature=0.7, top_p=0.9, top_k=40, max_completion_length=14),
    "min_p": Sampling(temperature=1.3, min_p=0.05, max_completion_length=14),
    "stop string": Sampling(stop_strings=("a",), max_completion_length=14),
}
# Measured: 1e-5 nats, and 1e-5 of a gradient's largest element. Sums of a few hundred terms are ordered otherwise.
TOLERANCE = 3e-5
EXACT = 1e-12  # in float64, of each gradient's own largest element; measured: 3e-14


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=KINDS)
def policies(request, make_policy, tiny_config):
    """The same policy on either engine, whose completions end at different lengths, and whose adapters are not 0."""
    changes = dict(KINDS[request.param])
    changes["language_model"] = {**tiny_config["language_model"], **changes.get("language_model", {})}
    built = []
    for engine in ("fast", "reference"):
        policy = make_policy(engine=engine, **changes).train()
        with torch.no_grad():
            head = policy.language_model.get_output_embeddings().weight  # where tied, of the embeddings, too
            head[policy.turn_ids[0]] *= -3.0
            for name, parameter in policy.trainable_parameters().items():
                if "lora_B" in name:
                    parameter.normal_(std=0.1, generator=generator(5))
        built.append(policy)
    return built


@pytest.fixture(scope="module")
def batch(make_batch):
    return make_batch(modalities=MIXED)


@pytest.fixture(scope="module")
def completions() -> TokenBatch:
    """``(4, 3, 9)`` tokens; some completions have one token, one has none."""
    lengths = torch.tensor([[9, 1, 4], [2, 9, 9], [1, 1, 1], [7, 0, 3]])
    ids = torch.randint(7, 380, (4, 3, 9), generator=generator(9))
    return TokenBatch(ids, (torch.arange(9) < lengths.unsqueeze(-1)).float())


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_tokens_are_equal(policies, batch, sampling, monkeypatch):
    """Of the fast engine's decoder for CPUs, too, and of the one for CUDA, whose steps run here without a graph."""
    policy, reference = policies
    expected = reference.generate(batch, 3, sampling, generator(1))
    rollouts, model = [policy.generate(batch, 3, sampling, generator(1))], policy.language_model
    monkeypatch.setattr(graph_decoder, "SMALLEST_BUCKET", 4)  # completions of 14 tokens reach three buckets
    monkeypatch.setattr(engine_fast, "decodes_by_graph", lambda model, *_: has_fused_layers(model))
    assert has_fused_layers(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for kernel in ("auto", "plain") if sampling is SAMPLINGS["sampled"] else ("auto",):
        monkeypatch.setattr(model, "attention_kernel", kernel)
        rollouts.append(policy.generate(batch, 3, sampling, generator(1)))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    for rollout in rollouts:
        assert torch.equal(rollout.completions.ids, expected.completions.ids)
        assert torch.equal(rollout.completions.mask, expected.completions.mask)
        assert torch.equal(rollout.truncated, expected.truncated)
        assert rollout.texts == expected.texts
        torch.testing.assert_close(rollout.per_token_logps, expected.per_token_logps, atol=TOLERANCE, rtol=0)
    assert expected.prefix_cache is None


def test_completions_end_at_many_lengths(policies, batch):
    rollout = policies[1].generate(batch, 3, SAMPLINGS["sampled"], generator(1))
    assert len(set(rollout.completions.mask.sum(-1).flatten().tolist())) >= 2


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_entropies_and_their_gradients_are_equal(policies, batch, completions, temperature):
    weights = torch.randn(completions.ids.shape, generator=generator(2))
    results = []
    for policy in policies:
        scored = policy.logps_and_entropies(batch, completions, temperature, entropy_gradient=True)
        loss = ((scored.per_token_logps + 0.1 * scored.entropies) * weights).mean()
        results.append((scored, gradients(policy, loss)))
    (fast, fast_gradients), (reference, reference_gradients) = results
    for ours, expected in zip(fast, reference, strict=True):
        torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=0)
    assert_close(fast_gradients, reference_gradients)


def test_in_float64_log_probs_entropies_and_gradients_are_equal(policies, batch, completions, monkeypatch):
    norms = [part for policy in policies for part in policy.modules() if type(part).__name__.endswith("RMSNorm")]
    monkeypatch.setattr(type(norms[0]), "forward", exact_norm)
    weights = torch.randn(completions.ids.shape, generator=generator(2), dtype=torch.float64)
    results = []
    for policy in policies:
        policy.double()
        try:
            scored = policy.logps_and_entropies(batch, completions, 0.7, entropy_gradient=True)
            loss = ((scored.per_token_logps + 0.1 * scored.entropies) * weights).mean()
            results.append((scored, gradients(policy, loss)))
        finally:
            policy.float()  # exactly what it was
    (fast, fast_gradients), (reference, reference_gradients) = results
    for ours, expected in zip(fast, reference, strict=True):
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, expected, atol=EXACT, rtol=0)
    for name, expected in reference_gradients.items():
        error = (fast_gradients[name] - expected).abs().max().item()
        assert error <= EXACT * expected.abs().max().item(), (name, error)


def test_gradients_that_were_precomputed_are_equal(policies, batch, completions):
    """Of a plain mean, such as SFT's loss, the fast engine takes the head's gradient in the forward pass."""
    assert_close(*(gradients(policy, policy.per_token_logps(batch, completions).sum()) for policy in policies))


def test_an_update_that_reuses_the_rollouts_prefill_is_equal(policies, batch):
    results = []
    for policy in policies:
        features = policy.with_features(batch)
        rollout = policy.generate(features, 3, SAMPLINGS["sampled"], generator(1))
        weights = torch.randn(rollout.completions.ids.shape, generator=generator(3))
        logps = policy.per_token_logps(features, rollout.completions, prefix_cache=rollout.prefix_cache)
        results.append(gradients(policy, (logps * weights).sum()))
    assert_close(*results)


def exact_norm(norm, states: torch.Tensor) -> torch.Tensor:
    """As transformers' own, which computes in float32 whatever the weights are."""
    return F.rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)


def gradients(policy, loss) -> dict[str, torch.Tensor]:
    policy.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in policy.trainable_parameters().items()}


def assert_close(fast: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> None:
    assert fast.keys() == reference.keys()
    largest = max(expected.abs().max().item() for expected in reference.values())
    for name, expected in reference.items():
        # A single number, such as a bias of the fusion, and a gradient far below the others are small differences of
        # large ones: float32 rounds the terms, so their error is judged by the largest gradient.
        scale = max(expected.abs().max().item(), 0.1 * largest) if expected.numel() > 1 else largest
        error = (fast[name] - expected).abs().max().item()
        assert error <= TOLERANCE * scale, (name, error, expected.abs().max().item(), largest)
