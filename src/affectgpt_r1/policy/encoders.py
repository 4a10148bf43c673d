"""The frozen encoders: images and waveforms to features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from affectgpt_r1.types import ClipBatch

WaveformNormalization: TypeAlias = Literal["none", "clip", "joint"]

# CLIP's channel means (Radford et al. 2021).
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)  # CLIP's channel standard deviations
AVERAGED_HIDDEN_LAYERS = 4  # AffectGPT averages HuBERT's last four hidden layers
# Raised when the encoders compute other features from the same weights, so that stored features are not mistaken
FEATURES_VERSION = 2
STORED_BYTES = 2  # of a number in the feature store


class VideoEncoder(nn.Module):
    """CLIP's projected image features of each frame; ``model`` is a ``CLIPVisionModelWithProjection``."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: Any, image_mean: Sequence[float] = IMAGE_MEAN, image_std: Sequence[float] = IMAGE_STD
    ) -> None:
        super().__init__()
        self.model = model
        self.scaling = (tuple(image_mean), tuple(image_std))
        self.register_buffer("mean", torch.tensor(image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(image_std).view(3, 1, 1), persistent=False)

    @property
    def feature_size(self) -> int:
        """Return the size of a frame's features."""
        return int(self.model.config.projection_dim)

    @property
    def feature_bytes(self) -> int:
        """Return the bytes of a frame's features."""
        return STORED_BYTES * self.feature_size

    @property
    def settings(self) -> dict[str, object]:
        """Return all that the features depend on besides the weights and the media."""
        return {} if self.scaling == (IMAGE_MEAN, IMAGE_STD) else {"image_scaling": self.scaling}

    def forward(self, frames: Tensor) -> Tensor:
        """Encode ``(B, F, 3, H, W)`` uint8 RGB to ``(B, F, feature_size)``."""
        pixels = (frames.flatten(0, 1).float() / 255.0 - self.mean) / self.std
        features: Tensor = self.model(pixel_values=pixels.to(self.model.dtype)).image_embeds
        return features.float().reshape(*frames.shape[:2], features.shape[-1])


class AudioEncoder(nn.Module):
    """HuBERT: the mean of the last four hidden layers, averaged over each window's time."""

    def __init__(self, model: Any, normalization: WaveformNormalization = "clip") -> None:
        super().__init__()
        self.model = model
        self.normalization = normalization

    @property
    def feature_size(self) -> int:
        """Return the size of a window's features."""
        return int(self.model.config.hidden_size)

    @property
    def feature_bytes(self) -> int:
        """Return the bytes of a window's features."""
        return STORED_BYTES * self.feature_size

    @property
    def settings(self) -> dict[str, object]:
        """Return all that the features depend on besides the weights and the media."""
        return {"waveform_normalization": self.normalization}

    def forward(self, waveforms: Tensor, *, policy_trains: bool = True) -> Tensor:
        """Encode ``(B, W, S)`` at 16 kHz to ``(B, W, feature_size)``."""
        # `joint` is as published: zero mean and unit variance over the full batch in training, and per clip at
        # inference, which answers one clip at a time. A frozen encoder is in evaluation mode, so `policy_trains` tells.
        if self.normalization != "none":
            dims = (0, 1, 2) if self.normalization == "joint" and policy_trains else (1, 2)
            centred = waveforms - waveforms.mean(dims, keepdim=True)
            waveforms = centred / (centred.square().mean(dims, keepdim=True) + 1e-7).sqrt()
        with _tensor_cores(waveforms.device):
            output = self.model(waveforms.flatten(0, 1).to(self.model.dtype), output_hidden_states=True)
        # transformers 5 leaves the encoder's closing norm out of hidden_states[-1]; the published features have it.
        layers = torch.stack([*output.hidden_states[1:-1], output.last_hidden_state][-AVERAGED_HIDDEN_LAYERS:])
        features: Tensor = layers.float().mean(0).mean(1)
        return features.reshape(*waveforms.shape[:2], features.shape[-1])


@contextmanager
def _tensor_cores(device: torch.device) -> Iterator[None]:
    """Let CUDA multiply single precision by tensor cores (TF32), several times faster.

    It rounds factors to 11 bits, as the feature store does features.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Encoders(nn.Module):
    """Both encoders, frozen unless ``stage=pretrain_encoders`` trains them.

    Those of another model family have the same ``model``, ``settings`` and ``forward``, and features of other shapes.
    """

    def __init__(self, video: Any, audio: Any) -> None:
        super().__init__()
        self.video = video
        self.audio = audio
        self.frozen = True
        self.freeze()

    def freeze(self) -> None:
        """Stop training the encoders; they also stay in evaluation mode."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def unfreeze(self) -> None:
        """Train the encoders."""
        self.frozen = False
        self.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> Encoders:
        """Switch the mode; frozen encoders stay in evaluation mode, so that their features never vary."""
        super().train(mode and not self.frozen)
        return self

    @property
    def settings(self) -> dict[str, object]:
        """Return all that the features depend on besides the weights and the media."""
        return {"version": FEATURES_VERSION, **self.audio.settings, **self.video.settings}

    @property
    def feature_bytes(self) -> dict[str, int]:
        """Return the bytes of the features of a frame and of a window of sound, as they are stored."""
        return {"video": self.video.feature_bytes, "audio": self.audio.feature_bytes}

    def forward(self, batch: ClipBatch, *, policy_trains: bool = True) -> Mapping[str, Tensor]:
        """Return features by modality: those that the batch carries, or else those of its media.

        ``"video" -> (B, F, D_video)`` and ``"audio" -> (B, W, D_audio)``, where the batch has them; with
        ``data.visual=both`` also ``"frame"``, of the full frames.
        """
        if batch.features:
            return batch.features
        features: dict[str, Tensor] = {}
        device = next(self.parameters()).device.type
        # Never under autocast: features computed in training, for the store or to answer are the same.
        with torch.no_grad() if self.frozen else nullcontext(), torch.autocast(device, enabled=False):
            if batch.frames is not None:
                features["video"] = self.video(batch.frames)
            if batch.context_frames is not None:
                features["frame"] = self.video(batch.context_frames)
            if batch.waveforms is not None:
                features["audio"] = self.audio(batch.waveforms, policy_trains=policy_trains)
        return features
