"""HumanOmni at toy width: geometry, order and constants of the published model, training, and its folder."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.build_policy import build_modules
from affectgpt_r1.policy.hf_export import export_policy, load_exported
from affectgpt_r1.policy.humanomni_fusion import ChannelNorm, HumanOmniFusion, PatchBranch
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import Sampling
from helpers.toy_humanomni import QUESTION, humanomni_config, toy_batch, toy_config, toy_policy

GREEDY = Sampling(temperature=0.0, max_completion_length=8)
# What the published model has and never uses
UNUSED = ("bert.pooler",)


@pytest.fixture(scope="module")
def policy(tokenizer_file):
    return toy_policy(tokenizer_file).eval()


def test_the_published_parameters():
    config = humanomni_config("humanomni_05b")
    for key in ("tokenizer", "engine", "share_prefix", "attention"):
        del config[key]
    with torch.device("meta"):
        language_model, encoders, fusion = build_modules(vocab_size=None, **{**config, "weights": None})
    assert fusion.num_tokens == {"video": 392, "audio": 500}
    total = sum(param.numel() for module in (language_model, encoders, fusion) for param in module.parameters())
    assert total == 1_373_177_925
    assert len(language_model.state_dict()) - 1 + len(encoders.state_dict()) + len(fusion.state_dict()) == 1322
    shapes = {name: tuple(tensor.shape) for name, tensor in fusion.state_dict().items()}
    assert shapes["video.stage1.0.conv1.conv.weight"] == (896, 768, 1, 1)
    assert shapes["video.stage1.0.excite.reduce.weight"] == (192, 896, 1, 1)
    assert shapes["body.stage2.1.excite.expand.weight"] == (896, 224, 1, 1)
    assert shapes["body.stage1.1.conv2.conv.weight"] == (896, 1, 3, 3)
    assert shapes["video.sampler.weight"] == (896, 896, 2, 2, 2)
    assert "video.stage2.0.shortcut.conv.weight" not in shapes


def test_the_norm_is_over_channels_with_epsilon_1e_5():
    states = 0.01 * torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    mean, variance = states.mean(1, keepdim=True), states.var(1, keepdim=True, unbiased=False)
    torch.testing.assert_close(ChannelNorm(6)(states), (states - mean) / (variance + 1e-5).sqrt())


def test_a_step_sees_its_frame_and_the_one_before():
    torch.manual_seed(0)
    branch, grid = PatchBranch(8, 12).eval(), torch.randn(1, 4, 8, 6, 6)
    before = branch(grid).unflatten(1, (4, 9)).detach()
    changed = grid.clone()
    changed[:, 2] += 1.0
    moved = (branch(changed).unflatten(1, (4, 9)) - before).abs().amax((0, 2, 3))
    assert (moved > 0).tolist() == [False, False, True, True]


def test_tokens_are_in_the_order_of_time_height_width():
    branch, grid = PatchBranch(8, 8), torch.randn(1, 2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    branch.stage1 = branch.stage2 = torch.nn.Identity()  # which would spread a change over the frame
    changed = grid.clone()
    changed[:, 1, :, 5, 0] += 1.0  # of the second frame the lower left corner: row 2, column 0 of 3 x 3
    with torch.no_grad():
        moved = (branch(changed) - branch(grid)).abs().sum(-1)[0]
    assert moved.nonzero().flatten().tolist() == [9 + 2 * 3]


@pytest.mark.parametrize(("index", "part"), [(0, "video"), (1, "body"), (2, "face")])
def test_the_gates_weights_are_of_video_body_and_face(policy, index, part):
    features = policy.encoders(toy_batch())
    fusion: HumanOmniFusion = policy.fusion
    bias = fusion.gate[2].bias
    kept = bias.detach().clone()
    with torch.no_grad():
        bias[index] += 1000.0
        mixed = fusion(features, [QUESTION] * 2)["video"]
        bias.copy_(kept)
        grid = features["video"].unflatten(2, (6, 6)).permute(0, 1, 4, 2, 3)
        alone = getattr(fusion, part)(grid)
    torch.testing.assert_close(mixed, alone)
    assert mixed.shape == (2, 72, 128)


def test_another_question_weighs_otherwise_and_each_clip_has_its_own(policy):
    with torch.no_grad():
        both = policy.fusion.question_weights(["What is felt?", QUESTION, "What is felt?"])
        alone = policy.fusion.question_weights([QUESTION])
    assert both[0].equal(both[2])
    assert not torch.allclose(both[0], both[1], atol=1e-4)
    torch.testing.assert_close(both[1:2], alone, atol=1e-5, rtol=1e-5)  # padding does not change it
    torch.testing.assert_close(both.sum(-1), torch.ones(3))


def test_the_face_reading_halves_each_frames_grid(policy):
    grid = torch.randn(2, 8, 64, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        patches = policy.fusion.face.readout(grid.permute(0, 1, 3, 4, 2))
        expected = F.avg_pool2d(patches.flatten(0, 1).permute(0, 3, 1, 2), 2)  # bilinear, half the size: means of 2 x 2
        found = policy.fusion.face(grid)
    expected = expected.flatten(2).transpose(1, 2).unflatten(0, (2, 8)).flatten(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_sound_becomes_whispers_log_mel(policy):
    from transformers import WhisperFeatureExtractor

    waveform = toy_batch().waveforms[:, 0, :7000]
    extract = WhisperFeatureExtractor(feature_size=32, chunk_length=1)
    extract.n_samples, extract.nb_max_frames = 9_600, 60
    expected = extract([row.numpy() for row in waveform], sampling_rate=16_000, return_tensors="pt").input_features
    found = policy.encoders.audio.log_mel(waveform)
    assert found.shape == expected.shape == (2, 32, 60)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_sound_features_are_means_of_three_positions(policy):
    batch = toy_batch()
    encoder = policy.encoders.audio
    with torch.no_grad():
        states = encoder.model.encoder(encoder.log_mel(batch.waveforms[:, 0])).last_hidden_state
        found = encoder(batch.waveforms)
    torch.testing.assert_close(found, states.unflatten(1, (10, 3)).mean(2))


def test_frames_features_are_siglips_last_layer_but_one(policy):
    batch, model = toy_batch(), policy.encoders.video.model
    pixels = batch.frames.flatten(0, 1).float() / 127.5 - 1
    with torch.no_grad():
        states = model.embeddings(pixels)
        for layer in model.encoder.layers[:-1]:
            states = layer(states, attention_mask=None)
            states = states[0] if isinstance(states, tuple) else states
        found = policy.encoders.video(batch.frames)
    torch.testing.assert_close(found.flatten(0, 1), states, atol=1e-5, rtol=1e-5)


def test_several_windows_of_sound_and_another_number_of_frames_are_refused(policy):
    batch = toy_batch()
    with pytest.raises(ConfigError, match=r"data\.num_windows=2: .* set data\.num_windows=1 data\.window_seconds=0\.6"):
        policy.encoders(dataclasses.replace(batch, waveforms=batch.waveforms.repeat(1, 2, 1)))
    with pytest.raises(ConfigError, match=r"data\.num_frames=4, but model\.num_frames=8"):
        policy.embed_prompts(dataclasses.replace(batch, frames=batch.frames[:, :4]))


def test_the_prompt_is_tokenised_in_pieces(policy):
    encode = policy.tokenizer.encode
    head = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<vi_start>"
    tail = f"<au_end>\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    pieces = [encode(text, add_special_tokens=False) for text in (head, "<vi_end>\n<au_start>", tail)]
    frame, audio = policy.media_ids["<FrameHere>"], policy.media_ids["<AudioHere>"]
    assert policy.prompt_ids(toy_batch(1)) == [[*pieces[0], *[frame] * 72, *pieces[1], *[audio] * 10, *pieces[2]]]


def test_what_ends_an_answer(policy, tokenizer_file):
    thinking = toy_policy(tokenizer_file, enable_thinking=True)
    assert thinking.template.targets(toy_batch(1)) == ["<think>A smile.</think>\n<answer>happy</answer>"]
    end = policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert policy.tokenizer.decode(policy.turn_ids) == "<|im_end|>\n"
    assert policy.special_tokens.stop_ids == [end]
    assert policy.encode_targets(toy_batch()).ids[0, 0].tolist()[-len(policy.turn_ids) :] == policy.turn_ids


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_missing_modality_leaves_the_prompt(policy, modality):
    text = policy.template.prompts(toy_batch(1, modalities=((modality,),)))[0]
    assert ("<vi_start>" in text, "<au_start>" in text) == (modality == "video", modality == "audio")
    batch = toy_batch(modalities=((modality,), ("video", "audio")))
    assert policy.generate(batch, 1, GREEDY).completions.ids.shape[0] == 2


class Letters:
    name = "letters"

    def __call__(self, *, completions, targets):
        return [sum(map(str.isalpha, completion.text)) / max(1, len(completion.text)) for completion in completions]


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_step_trains_every_part(tokenizer_file, stage):
    policy = toy_policy(tokenizer_file).train()
    batch = policy.with_features(toy_batch())
    rewards = WeightedRewards({"letters": Letters()}, {"letters": 1.0})
    grpo = GRPOStage(rewards, load_lexicon("bundled"), Sampling(max_completion_length=6), num_generations=4)
    step = SFTStage() if stage == "sft" else grpo
    policy.disable_dropout()
    step.training_step(policy, batch, seed=0).loss.backward()
    still = [
        name
        for name, param in policy.trainable_parameters().items()
        if param.grad is None or not param.grad.abs().sum() > 0
    ]
    # No embedding of an absent token type trains, nor what the published model never reads.
    assert [name for name in still if not any(part in name for part in UNUSED)] == []
    assert all(param.grad is None for param in policy.encoders.parameters())


def test_media_reach_both_passes(policy):
    batch = toy_batch()
    rollout = policy.generate(batch, 2, GREEDY)
    scored = policy.per_token_logps(batch, rollout.completions)
    torch.testing.assert_close(scored * rollout.completions.mask, rollout.per_token_logps, atol=1e-4, rtol=1e-4)
    ramp = torch.arange(48, dtype=torch.uint8)  # noise of another seed would look and sound alike
    changed = {
        "frames": (5 * ramp).expand(batch.frames.shape),
        "waveforms": (torch.arange(9_600) / 10).sin().expand(batch.waveforms.shape),
    }
    for key, media in changed.items():
        other = dataclasses.replace(batch, **{key: media})
        assert (policy.per_token_logps(other, rollout.completions) - scored).abs().max() > 1e-3
        drawn = policy.generate(other, 2, GREEDY).per_token_logps
        assert drawn.shape != rollout.per_token_logps.shape or not torch.allclose(drawn, rollout.per_token_logps)


def test_both_engines_agree(policy, tokenizer_file):
    reference = toy_policy(tokenizer_file, engine="reference").eval()
    batch = toy_batch()
    expected, found = (each.generate(batch, 2, GREEDY) for each in (reference, policy))
    assert found.completions.ids.equal(expected.completions.ids)
    torch.testing.assert_close(found.per_token_logps, expected.per_token_logps, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("train_question_encoder", [True, False])
def test_an_exported_folder_gives_the_same_tokens(tokenizer_file, tmp_path, train_question_encoder):
    changes = {"train_question_encoder": train_question_encoder}
    policy = toy_policy(tokenizer_file, seed=3, **changes).eval()
    folder = tmp_path / "out"
    model = toy_config(tokenizer_file, **changes)
    arguments = {"processor": {"num_frames": 8}, "max_completion_length": 24, "card": "# Card\n"}
    export_policy(policy, model, folder, kind="merged", **arguments)
    loaded = load_exported(folder)
    expected, found = (each.generate(toy_batch(), 1, GREEDY) for each in (policy, loaded))
    assert found.completions.ids.equal(expected.completions.ids)
    torch.testing.assert_close(found.per_token_logps, expected.per_token_logps, atol=1e-5, rtol=1e-5)
