"""The encoders against their formulas."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.policy.backbone import build_encoders
from affectgpt_r1.policy.encoders import IMAGE_MEAN, IMAGE_STD


@pytest.fixture
def make_encoders(tiny_config):
    def build(normalization: str = "clip", **audio):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build_encoders(
                tiny_config["video_encoder"], {**tiny_config["audio_encoder"], **audio}, normalization
            )

    return build


def test_video_features_are_clips_projection_of_each_frame(make_encoders, make_batch):
    encoders, frames = make_encoders(), make_batch().frames
    pixels = frames[1, 2].float().div(255)
    for channel in range(3):
        pixels[channel] = (pixels[channel] - IMAGE_MEAN[channel]) / IMAGE_STD[channel]
    expected = encoders.video.model(pixel_values=pixels[None]).image_embeds[0]
    features = encoders.video(frames)
    assert features.shape == (4, 3, 64)
    torch.testing.assert_close(features[1, 2], expected, atol=1e-5, rtol=1e-5)


def test_audio_features_average_the_last_four_layers_over_time(make_encoders, make_batch):
    encoders, waveforms = make_encoders("none", num_hidden_layers=5), make_batch().waveforms
    output = encoders.audio.model(waveforms[2, 1][None], output_hidden_states=True)
    assert len(output.hidden_states) == 6  # the input of the first layer, and five outputs
    normed = torch.nn.functional.layer_norm(output.hidden_states[-1], (64,))  # the closing norm, with fresh weights
    torch.testing.assert_close(normed, output.last_hidden_state, atol=1e-5, rtol=1e-5)
    expected = sum(state[0].mean(0) for state in (*output.hidden_states[2:-1], normed)) / 4
    features = encoders.audio(waveforms)
    assert features.shape == (4, 2, 64)
    torch.testing.assert_close(features[2, 1], expected, atol=1e-5, rtol=1e-5)


def test_normalisation_by_clip_hears_no_loudness_and_no_other_clip(make_encoders, make_batch):
    encoders, waveforms = make_encoders("clip"), make_batch().waveforms
    features = encoders.audio(waveforms)
    torch.testing.assert_close(encoders.audio(0.1 * waveforms + 0.1), features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoders.audio(waveforms[1:2])[0], features[1], atol=1e-5, rtol=1e-5)


def test_joint_normalisation_is_over_the_batch_as_published(make_encoders, make_batch):
    waveforms = make_batch().waveforms
    centred = (waveforms - waveforms.mean()) / waveforms.std(correction=0)
    torch.testing.assert_close(
        make_encoders("joint").audio(waveforms), make_encoders("none").audio(centred), atol=1e-5, rtol=1e-5
    )
    quiet = torch.cat([waveforms[:1], 1e-3 * waveforms[1:]])
    changed, kept = make_encoders("joint").audio(quiet)[0], make_encoders("joint").audio(waveforms)[0]
    assert (changed - kept).abs().max() > 5e-5


def test_joint_normalisation_is_by_clip_where_the_policy_does_not_train(make_encoders, tiny_policy, make_batch):
    batch = make_batch()
    joint, by_clip = make_encoders("joint"), make_encoders("clip")
    heard = joint(batch, policy_trains=False)["audio"]
    assert torch.equal(heard, by_clip(batch)["audio"])
    assert (joint(batch)["audio"] - heard).abs().max() > 1e-6
    tiny_policy.encoders.audio.normalization = "joint"
    trained = tiny_policy.train().with_features(batch).features["audio"]
    answered = tiny_policy.eval().with_features(batch).features["audio"]
    assert (trained - answered).abs().max() > 1e-6
    tiny_policy.encoders.audio.normalization = "clip"
    assert torch.equal(tiny_policy.with_features(batch).features["audio"], answered)


def test_without_normalisation_loudness_is_heard(make_encoders, make_batch):
    encoders, waveforms = make_encoders("none"), make_batch().waveforms
    assert (encoders.audio(0.01 * waveforms) - encoders.audio(waveforms)).abs().max() > 1e-3


def test_encoders_read_what_the_batch_has(make_encoders, make_batch):
    encoders = make_encoders()
    assert set(encoders(make_batch())) == {"video", "audio"}
    assert set(encoders(make_batch(frames=None))) == {"audio"}
    assert encoders(make_batch(frames=None, waveforms=None)) == {}
    stored = {"video": torch.ones(4, 3, 64)}
    assert encoders(make_batch(features=stored)) is stored


def test_freezing(make_encoders, make_batch):
    encoders = make_encoders().train()
    assert not encoders.training
    assert not encoders(make_batch())["video"].requires_grad
    encoders.unfreeze()
    assert encoders.training
    assert all(value.requires_grad for value in encoders(make_batch()).values())
    encoders.freeze()
    encoders.train()
    assert not any(module.training for module in encoders.modules())
    assert not any(parameter.requires_grad for parameter in encoders.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_the_same_while_training_for_the_store_and_to_answer(make_encoders, make_batch, dtype):
    """Autocast is on while training, where ``data.feature_store=null``, and off elsewhere."""
    encoders, batch = make_encoders().to(dtype), make_batch(2)
    expected = encoders(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoders(batch)
    assert found.keys() == expected.keys() == {"video", "audio"}
    for name, features in found.items():
        assert features.dtype == torch.float32
        assert torch.equal(features, expected[name]), name
