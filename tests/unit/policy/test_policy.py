"""Media in generation and in the update, and that both see the same prompts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.training.rollout_buffer import without_long_prompts
from affectgpt_r1.types import ClipBatch, Sampling, TokenBatch

MIXED = (("video", "audio", "text"), ("video", "text"), ("audio",), ("text",))
SAMPLING = Sampling(max_completion_length=14)
SEED = 1  # of a draw whose completions end at four lengths or more


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weighted_gradients(policy: MultimodalPolicy, batch: ClipBatch, completions: TokenBatch) -> dict[str, torch.Tensor]:
    """Gradients of a weighted mean of log-probs, as an advantage would weight them."""
    weights = torch.randn(completions.ids.shape, generator=generator(2)) * completions.mask
    policy.zero_grad()
    ((policy.per_token_logps(batch, completions) * weights).sum() / completions.mask.sum()).backward()
    return {name: parameter.grad.clone() for name, parameter in policy.trainable_parameters().items()}


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize(("temperature", "training"), [(1.0, True), (0.7, False)])
def test_update_sees_what_generation_saw(policy, make_batch, share_prefix, temperature, training):
    batch = make_batch(modalities=MIXED)
    policy.train(training)
    policy.engine.share_prefix = share_prefix
    sampling = dataclasses.replace(SAMPLING, temperature=temperature)
    rollout = policy.generate(batch, 4, sampling, generator(SEED))
    assert policy.training is training
    prompt_lengths = policy.embed_prompts(batch).mask.sum(1)
    completion_lengths = rollout.completions.mask.sum(-1).flatten()
    assert len(set(prompt_lengths.tolist())) == 4
    assert len(set(completion_lengths.tolist())) >= 4
    logps = policy.per_token_logps(batch, rollout.completions, temperature)
    assert (logps - rollout.per_token_logps).abs().max().item() < 1e-4
    assert not rollout.per_token_logps.requires_grad


def test_generation_is_without_dropout(make_lora_policy, make_batch):
    policy = make_lora_policy(dropout=0.5)
    policy.train()
    rollout = policy.generate(make_batch(), 2, SAMPLING, generator())
    dropped = policy.per_token_logps(make_batch(), rollout.completions)
    exact = policy.eval().per_token_logps(make_batch(), rollout.completions)
    assert (exact - rollout.per_token_logps).abs().max().item() < 1e-4
    assert (exact - dropped).abs().max().item() > 1e-2


def test_log_probs_with_and_without_a_shared_prefix_agree(policy, make_batch, completions):
    batch, results = make_batch(modalities=MIXED), []
    policy.language_model.double()  # rounding alone reaches 1e-5 in single precision
    for policy.engine.share_prefix in (True, False):
        scores = policy.logps_and_entropies(batch, completions)
        gradients = weighted_gradients(policy, batch, completions)
        results.append((scores.per_token_logps.detach(), scores.entropies, gradients))
    for first, second in zip(results[0][:2], results[1][:2], strict=True):
        torch.testing.assert_close(first, second, atol=2e-6, rtol=0)
    assert set(results[0][2]) == set(results[1][2])
    for name, gradient in results[0][2].items():
        torch.testing.assert_close(gradient, results[1][2][name], atol=1e-6, rtol=1e-5, msg=name)


def test_log_probs_are_zero_where_the_mask_is_zero(policy, make_batch, completions):
    scores = policy.logps_and_entropies(make_batch(), completions)
    hidden = completions.mask == 0
    assert (scores.per_token_logps[hidden] == 0).all()
    assert (scores.entropies[hidden] == 0).all()
    assert (scores.per_token_logps[~hidden] < 0).all()
    assert not scores.entropies.requires_grad


def test_a_clip_alone_has_the_log_probs_that_it_has_in_a_batch(policy, make_batch, completions):
    batch = make_batch(modalities=MIXED)
    together = policy.per_token_logps(batch, completions)
    for clip in range(4):
        alone = dataclasses.replace(
            batch,
            names=batch.names[clip : clip + 1],
            subtitles=batch.subtitles[clip : clip + 1],
            labels=batch.labels[clip : clip + 1],
            reasons=batch.reasons[clip : clip + 1],
            modalities=batch.modalities[clip : clip + 1],
            frames=batch.frames[clip : clip + 1],
            waveforms=batch.waveforms[clip : clip + 1],
        )
        tokens = TokenBatch(completions.ids[clip : clip + 1], completions.mask[clip : clip + 1])
        torch.testing.assert_close(policy.per_token_logps(alone, tokens)[0], together[clip], atol=2e-5, rtol=0)


def change_one_modality(batch: ClipBatch, modality: str, clip: int) -> ClipBatch:
    """The same batch but for one modality of one clip."""
    if modality == "text":
        subtitles = list(batch.subtitles)
        subtitles[clip] = "I did not expect that."
        return dataclasses.replace(batch, subtitles=tuple(subtitles))
    if modality == "video":
        frames = batch.frames.clone()
        frames[clip] = 255 - frames[clip]
        return dataclasses.replace(batch, frames=frames)
    waveforms = batch.waveforms.clone()
    waveforms[clip] = 0.8 * torch.sin(torch.arange(32_000) * (2 * torch.pi * 220 / 16_000))  # noise becomes a tone
    return dataclasses.replace(batch, waveforms=waveforms)


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("modality", ["video", "audio", "text"])
@pytest.mark.parametrize("clip", [0, 2])
def test_each_modality_reaches_both_passes_of_its_clip_and_of_no_other(
    make_policy, make_batch, completions, modality, clip, share_prefix
):
    policy = make_policy(share_prefix=share_prefix)
    batch = make_batch()
    changed = change_one_modality(batch, modality, clip)
    greedy = Sampling(temperature=0.0, max_completion_length=1)
    passes = {
        "update": [policy.per_token_logps(one, completions).detach() for one in (batch, changed)],
        "generation": [policy.generate(one, 1, greedy).per_token_logps for one in (batch, changed)],
    }
    for name, (before, after) in passes.items():
        difference = (before - after).abs().flatten(1).amax(1)
        others = [row for row in range(4) if row != clip]
        assert difference[clip] > 1e-3, name
        assert (difference[others] < 1e-5).all(), name


@pytest.mark.parametrize("modality", ["video", "audio", "text"])
def test_a_modality_left_out_of_the_prompt_has_no_effect(tiny_policy, make_batch, completions, modality):
    kept = tuple(kind for kind in ("video", "audio", "text") if kind != modality)
    batch = make_batch(modalities=(kept,) * 4)
    changed = change_one_modality(batch, modality, 1)
    before, after = (tiny_policy.per_token_logps(one, completions) for one in (batch, changed))
    torch.testing.assert_close(before, after, atol=1e-6, rtol=0)


def test_features_replace_media(policy, make_batch, completions):
    batch = make_batch()
    features = policy.with_features(batch)
    assert features.frames is None
    assert features.waveforms is None
    assert {name: tuple(one.shape) for name, one in features.features.items()} == {
        "video": (4, 3, 64),
        "audio": (4, 2, 64),
    }
    torch.testing.assert_close(
        policy.per_token_logps(features, completions), policy.per_token_logps(batch, completions), atol=1e-6, rtol=0
    )
    drawn = [policy.generate(one, 2, SAMPLING, generator()).completions.ids for one in (batch, features)]
    assert torch.equal(*drawn)


def test_media_that_were_not_loaded_are_an_error(tiny_policy, make_batch, completions):
    with pytest.raises(ConfigError, match=r"FaceHere|MultiHere"):
        tiny_policy.per_token_logps(make_batch(frames=None), completions)
    with pytest.raises(ConfigError, match=r"AudioHere|MultiHere"):
        tiny_policy.generate(make_batch(waveforms=None), 1, SAMPLING)


def test_no_position_beyond_those_of_the_model_is_used(policy, make_batch, completions):
    positions = policy.language_model.config.max_position_embeddings
    with pytest.raises(DataError, match=rf"clip\w* has \d+ tokens, .*5000 characters .*has {positions} positions"):
        policy.per_token_logps(make_batch(subtitles=("a" * 5000,) * 4), completions)
    long, short = make_batch(), make_batch(subtitles=("a" * 40, "", "", ""))
    free = policy.generate(short, 2, SAMPLING, generator())
    lengths = [len(row) for row in policy.prompt_ids(short)]
    policy.language_model.config.max_position_embeddings = max(lengths) + 2
    assert policy.too_long(long, [2] * 4) == {}
    reasons = policy.too_long(short, [3, 1, 1, 1])
    assert list(reasons) == [0]
    assert f"has {lengths[0]} tokens" in reasons[0]
    assert "and 3 more are to follow" in reasons[0]
    # Each completion ends where the positions of its own clip do; the other clips' answers are not cut.
    room = torch.tensor([[positions] for positions in (max(lengths) + 2 - length for length in lengths)])
    rollout = policy.generate(short, 2, SAMPLING, generator())
    expected = free.completions.mask.sum(-1).clamp(max=room)
    assert torch.equal(rollout.completions.mask.sum(-1), expected)
    cut = free.completions.mask.sum(-1) > room
    assert cut[0].any()
    assert torch.equal(rollout.truncated, free.truncated | cut)
    kept = without_long_prompts(policy, make_batch(subtitles=("a" * 500, "", "", "")))
    assert (len(kept), kept.unreadable[0].name) == (3, make_batch().names[0])


def test_frozen_encoders_take_no_gradient_and_stay_in_evaluation_mode(policy, make_batch, completions):
    policy.train()
    gradients = weighted_gradients(policy, make_batch(), completions)
    assert not policy.encoders.training
    assert all(parameter.grad is None for parameter in policy.encoders.parameters())
    assert not any(name.startswith("encoders.") for name in gradients)


def test_what_trains(make_policy, make_lora_policy):
    full, lora = make_policy().trainable_parameters(), make_lora_policy().trainable_parameters()
    assert {name.split(".")[0] for name in full} == {"language_model", "fusion"}
    assert all("lora_" in name or name.startswith("fusion.") for name in lora)
    # 4 layers, 2 targets, A and B of rank 4 at hidden size 128.
    assert sum(one.numel() for name, one in lora.items() if "lora_" in name) == 4 * 2 * 2 * 4 * 128
    assert {name for name in full if name.startswith("fusion.")} == {
        name for name in lora if name.startswith("fusion.")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": None, "dropout": None}, r"model\.lora lacks alpha, dropout; give all four keys"),
        ({"rank": 4}, r"model\.lora knows no rank; "),
        ({"r": 0}, r"model\.lora: .*positive.*; give all four keys"),
        ({"target_modules": ["query"]}, r"model\.lora: .*query.*; give all four keys"),
    ],
)
def test_lora_settings_that_cannot_be_used_are_named(make_policy, change, message):
    given = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj"], **change}
    with pytest.raises(ConfigError, match=message):
        make_policy(lora={key: value for key, value in given.items() if value is not None})


def test_every_trainable_parameter_gets_a_gradient(policy, make_batch, completions):
    gradients = weighted_gradients(policy, make_batch(), completions)
    without = [name for name, gradient in gradients.items() if not gradient.abs().max() > 0]
    assert without == []


def test_same_generator_same_completions(policy, make_batch):
    batch = make_batch()
    first, again, other = (policy.generate(batch, 3, SAMPLING, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.completions.ids, again.completions.ids)
    assert first.texts == again.texts
    assert first.texts != other.texts


def test_texts_are_the_tokens_without_the_stop(policy, make_batch):
    rollout = policy.generate(make_batch(), 4, SAMPLING, generator())
    ids, lengths = rollout.completions.ids, rollout.completions.mask.sum(-1).int()
    assert len(rollout.texts) == 4
    for clip in range(4):
        for row in range(4):
            kept = ids[clip, row, : lengths[clip, row]].tolist()
            if not rollout.truncated[clip, row]:
                assert kept.pop() in (policy.turn_ids[0], policy.tokenizer.eos_token_id)
            assert rollout.texts[clip][row] == policy.tokenizer.decode(kept, skip_special_tokens=False)
    assert rollout.truncated.any()
    assert not rollout.truncated.all()


def test_no_completion_holds_a_media_placeholder(tiny_policy, make_batch):
    with torch.no_grad():
        tiny_policy.language_model.get_input_embeddings().weight[list(tiny_policy.media_ids.values())] *= 20.0
    rollout = tiny_policy.generate(make_batch(), 8, SAMPLING, generator())
    assert not torch.isin(rollout.completions.ids, torch.tensor(list(tiny_policy.media_ids.values()))).any()


@pytest.mark.parametrize("enable_thinking", [False, True])
def test_targets_are_the_template_and_the_stop(make_policy, make_batch, enable_thinking):
    policy, batch = make_policy(enable_thinking=enable_thinking), make_batch()
    tokens = policy.encode_targets(batch)
    for clip in range(4):
        row = tokens.ids[clip, 0][tokens.mask[clip, 0].bool()].tolist()
        target = policy.template.target(batch.labels[clip], batch.reasons[clip])
        assert policy.tokenizer.decode(row, skip_special_tokens=False) == f"{target}###"
        assert row[-1:] == policy.turn_ids
