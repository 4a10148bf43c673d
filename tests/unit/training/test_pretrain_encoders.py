"""Tower pretraining against a slow reference, and what it trains."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.data.media.audio import log_mel
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.training.pretrain_encoders import EncoderStage

UNREAD_ENCODER_WEIGHTS = {"encoders.audio.model.masked_spec_embed"}  # spectra are not masked


@pytest.fixture
def encoders() -> EncoderStage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EncoderStage(["smile", "blush"], ["pitch"], 64, 64, log_mel_weight=0.5)


CUES = {name: torch.tensor([0.1, -0.5, 1.0, 0.3]) * sign for name, sign in (("smile", 1), ("blush", -1), ("pitch", 2))}


def test_tower_loss_is_the_squared_error_of_cues_and_spectrum(tiny_policy, make_batch, encoders):
    batch = make_batch(cues=CUES)
    encoders.prepare(tiny_policy)
    output = encoders.training_step(tiny_policy, batch, seed=0)
    with torch.no_grad():
        features = tiny_policy.encoders(batch)
        video = encoders.video_head(features["video"].mean(1))
        audio = encoders.audio_head(features["audio"].mean(1))
        spectrum = log_mel(batch.waveforms, num_mels=32)
        moments = torch.cat([spectrum.mean(-2), spectrum.std(-2)], -1)
        errors = {
            "video_loss": ((video - torch.stack([CUES["smile"], CUES["blush"]], 1)) ** 2).mean(),
            "audio_loss": ((audio[:, 0] - CUES["pitch"]) ** 2).mean(),
            "log_mel_loss": ((encoders.log_mel_head(features["audio"]) - moments) ** 2).mean(),
        }
    for name, error in errors.items():
        assert float(output.logs[name]) == pytest.approx(error.item(), rel=1e-5)
    total = errors["video_loss"] + errors["audio_loss"] + 0.5 * errors["log_mel_loss"]
    assert output.loss.item() == pytest.approx(total.item(), rel=1e-5)
    validated = encoders.validation_step(tiny_policy, batch)
    assert validated["loss"].item() == pytest.approx((errors["video_loss"] + errors["audio_loss"]).item(), rel=1e-5)


def test_tower_stage_trains_the_towers_and_its_heads_alone(tiny_policy, make_batch, encoders):
    encoders.prepare(tiny_policy)
    tiny_policy.train()
    assert tiny_policy.encoders.training
    assert all(name.startswith("encoders.") for name in tiny_policy.trainable_parameters())
    encoders.training_step(tiny_policy, make_batch(cues=CUES), seed=0).loss.backward()
    assert all(one.grad is not None for one in encoders.parameters())
    trained = {name for name, one in tiny_policy.named_parameters() if one.grad is not None}
    encoders_weights = {name for name, _ in tiny_policy.named_parameters() if name.startswith("encoders.")}
    assert trained <= encoders_weights
    assert encoders_weights - trained <= UNREAD_ENCODER_WEIGHTS


def test_tower_stage_lowers_its_loss(tiny_policy, make_batch, encoders):
    encoders.prepare(tiny_policy)
    batch = make_batch(cues=CUES)
    optimizer = torch.optim.AdamW([*tiny_policy.trainable_parameters().values(), *encoders.parameters()], lr=2e-3)
    losses = []
    for _ in range(6):
        loss = encoders.training_step(tiny_policy, batch, seed=0).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_clips_without_cues_or_media_are_an_error(tiny_policy, make_batch, encoders):
    encoders.prepare(tiny_policy)
    with pytest.raises(ConfigError, match="'blush'"):
        encoders.training_step(tiny_policy, make_batch(cues={"smile": CUES["smile"], "pitch": CUES["pitch"]}), seed=0)
    with pytest.raises(ConfigError, match=r"data\.modalities"):
        encoders.training_step(tiny_policy, make_batch(cues=CUES, waveforms=None), seed=0)
