"""Training steps take the weight's gradient from the forward pass where the loss can be guessed, and the same one."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.functional import vocabulary
from affectgpt_r1.policy import language_model
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.stages.grpo import GRPOStage
from affectgpt_r1.stages.rollouts import select_clips
from affectgpt_r1.stages.sft import SFTStage
from affectgpt_r1.types import Sampling


class LetterReward:
    """Differs between random completions."""

    name = "letters"

    def __call__(self, *, completions, targets) -> list[float | None]:
        return [sum(map(str.isalpha, one.text)) / max(1, len(one.text)) for one in completions]


@pytest.fixture
def walks_again(monkeypatch):
    calls = []
    again = vocabulary._gradients_by_logits
    monkeypatch.setattr(
        vocabulary, "_gradients_by_logits", lambda *args, **kwargs: calls.append(1) or again(*args, **kwargs)
    )
    return calls


def grpo(**options):
    return GRPOStage(
        WeightedRewards({"letters": LetterReward()}, {"letters": 1.0}),
        load_lexicon("bundled"),
        Sampling(max_completion_length=10),
        num_generations=4,
        **options,
    )


def gradients(policy, stage, batch, *, visits):
    """Of the last of some steps; the loss is divided and scaled as by gradient accumulation and mixed precision."""
    stage.prepare(policy)
    policy.train()
    parameters = policy.trainable_parameters()
    optimizer = torch.optim.SGD(parameters.values(), lr=3e-5)
    for visit in range(visits):
        optimizer.zero_grad()
        clips = select_clips(batch, []) if visit else batch
        (stage.training_step(policy, clips, seed=7).loss * 1024 / 3).backward()
        if visit + 1 < visits:
            optimizer.step()
    return {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}


@pytest.mark.parametrize(
    ("options", "guessed"),
    [
        ({"loss_type": "grpo", "beta": 0.04}, True),
        ({"loss_type": "dapo", "beta": 0.04, "num_iterations": 3, "mask_truncated_completions": True}, True),
        ({"importance_sampling_level": "sequence"}, False),
        ({"top_entropy_quantile": 0.3}, False),
        ({"entropy_coef": 0.1}, False),
    ],
)
def test_grpo(make_policy, make_batch, walks_again, monkeypatch, options, guessed):
    visits = options.get("num_iterations", 1)
    mine = gradients(make_policy(), grpo(**options), make_batch(), visits=visits)
    assert bool(walks_again) is not guessed
    unguessed = language_model.vocabulary_scores
    monkeypatch.setattr(
        language_model, "vocabulary_scores", lambda *args, **kwargs: unguessed(*args, **{**kwargs, "guess": None})
    )
    expected = gradients(make_policy(), grpo(**options), make_batch(), visits=visits)
    assert len(walks_again) >= visits
    assert any(one.any() for one in expected.values())
    for name, one in expected.items():
        torch.testing.assert_close(mine[name], one, atol=1e-4 * one.abs().max().item(), rtol=0, msg=name)


def test_sft(tiny_policy, make_batch, walks_again):
    gradients(tiny_policy, SFTStage(), make_batch(), visits=1)
    assert not walks_again
