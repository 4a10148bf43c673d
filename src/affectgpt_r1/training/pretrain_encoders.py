"""Encoder pretraining on synthetic clips: a stand-in for CLIP's and HuBERT's pretraining.

The small encoders regress the cues that the renderer recorded, and the audio encoder also the mean and deviation of the
window's log-mel spectrum. No real data set has such cues: metrics on top of these encoders hold for synthetic clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from affectgpt_r1.data.media.audio import log_mel
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.types import ClipBatch, LogValue, Phase, StageOutput

NUM_MELS = 32


class EncoderStage(nn.Module):
    """Regress recorded cues from time-averaged encoder features.

    Args:
        video_cues: Cues that show in the face.
        audio_cues: Cues that sound in the voice.
        video_size: Size of the video encoder's features.
        audio_size: Size of the audio encoder's features.
        log_mel_weight: Weight of the log-mel regression.
    """

    answers = False
    validation_logs = ("loss", "video_loss", "audio_loss", "log_mel_loss")

    def __init__(
        self,
        video_cues: Sequence[str],
        audio_cues: Sequence[str],
        video_size: int,
        audio_size: int,
        log_mel_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.video_cues = list(video_cues)
        self.audio_cues = list(audio_cues)
        self.video_head = nn.Linear(video_size, len(self.video_cues))
        self.audio_head = nn.Linear(audio_size, len(self.audio_cues))
        self.log_mel_head = nn.Linear(audio_size, 2 * NUM_MELS)
        self.log_mel_weight = log_mel_weight
        self.phase: Phase = nullcontext

    def prepare(self, policy: MultimodalPolicy) -> None:
        """Train the encoders and nothing else of the policy."""
        policy.requires_grad_(False)
        policy.encoders.unfreeze()

    def training_step(self, policy: MultimodalPolicy, batch: ClipBatch, *, seed: int) -> StageOutput:
        """See :class:`~affectgpt_r1.training.base.Stage`."""
        losses = self._losses(policy, batch)
        loss = losses["video_loss"] + losses["audio_loss"] + self.log_mel_weight * losses["log_mel_loss"]
        clips = float(len(batch))  # each of the losses is a mean over clips
        logs = {name: LogValue("mean", value.detach(), clips) for name, value in {"loss": loss, **losses}.items()}
        return StageOutput(loss, logs, num_items=clips)

    @torch.no_grad()
    def validation_step(self, policy: MultimodalPolicy, batch: ClipBatch) -> Mapping[str, Tensor]:
        """Return mean squared errors of the cues."""
        losses = self._losses(policy, batch)
        return {"loss": losses["video_loss"] + losses["audio_loss"], **losses}

    def _losses(self, policy: MultimodalPolicy, batch: ClipBatch) -> dict[str, Tensor]:
        if batch.waveforms is None or batch.frames is None:
            raise ConfigError(
                "stage=pretrain_encoders needs the media of both encoders: set data.modalities=[video,audio,text]"
            )
        features = policy.encoders(batch)
        audio = features["audio"]
        spectrum = log_mel(batch.waveforms, num_mels=NUM_MELS)
        moments = torch.cat([spectrum.mean(-2), spectrum.std(-2)], -1)
        return {
            "video_loss": F.mse_loss(self.video_head(features["video"].mean(1)), _stack(batch, self.video_cues)),
            "audio_loss": F.mse_loss(self.audio_head(audio.mean(1)), _stack(batch, self.audio_cues)),
            "log_mel_loss": F.mse_loss(self.log_mel_head(audio), moments),
        }


def _stack(batch: ClipBatch, names: Sequence[str]) -> Tensor:
    missing = [name for name in names if name not in batch.cues]
    if missing:
        raise ConfigError(
            f"The clips record no cue {missing[0]!r}: stage=pretrain_encoders needs data.cues_file of synthetic clips"
        )
    return torch.stack([batch.cues[name] for name in names], -1)
