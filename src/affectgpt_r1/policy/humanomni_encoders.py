"""HumanOmni's frozen encoders: SigLIP's patch grid of every frame, and Whisper's encoding of the sound as a whole."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.backbone import mel_filters
from affectgpt_r1.policy.encoders import STORED_BYTES

IMAGE_MEAN = IMAGE_STD = 0.5  # SigLIP's, of every channel
SELECTED_LAYER = -2  # of SigLIP's hidden states: the last layer is never used
SAMPLE_RATE, N_FFT, HOP = 16_000, 400, 160  # Whisper's spectrum: 25 ms windows, 10 ms apart
POOLED = 3  # of Whisper's states, which are 20 ms apart, this many are averaged


class PatchEncoder(nn.Module):
    """The patches of each frame after SigLIP's last layer but one; ``model`` is a ``SiglipVisionModel``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def settings(self) -> dict[str, object]:
        """Return all that the features depend on besides the weights and the media."""
        return {"patches": SELECTED_LAYER}

    @property
    def feature_bytes(self) -> int:
        """Return the bytes of a frame's features."""
        config = self.model.config
        return int(config.hidden_size * (config.image_size // config.patch_size) ** 2 * STORED_BYTES)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode ``(B, F, 3, H, W)`` uint8 RGB to ``(B, F, patches, hidden size)`` in the weights' type."""
        # Not widened: the patches of a clip are 1.2 million numbers, and are stored where features are.
        pixels = ((frames.flatten(0, 1).float() / 255.0 - IMAGE_MEAN) / IMAGE_STD).to(self.model.dtype)
        output = self.model(pixel_values=pixels, output_hidden_states=True)
        states: Tensor = output.hidden_states[SELECTED_LAYER]
        return states.reshape(*frames.shape[:2], *states.shape[1:])


class SoundEncoder(nn.Module):
    """Whisper's last hidden states of one log-mel of the sound, averaged three by three.

    ``model`` has Whisper's encoder as ``encoder``. Sound is cut or padded with silence to the encoder's length: 30 s.
    """

    filters: Tensor
    window: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        config = model.config
        self.num_samples = 2 * config.max_source_positions * HOP  # a convolution of stride 2 is between
        filters = mel_filters(config.num_mel_bins, N_FFT, SAMPLE_RATE)
        self.register_buffer("filters", filters.to(torch.get_default_device()), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    @property
    def settings(self) -> dict[str, object]:
        """Return all that the features depend on besides the weights and the media."""
        return {"pooled": POOLED}

    @property
    def feature_bytes(self) -> int:
        """Return the bytes of the sound's features."""
        config = self.model.config
        return int(config.d_model * (config.max_source_positions // POOLED) * STORED_BYTES)

    def forward(self, waveforms: Tensor, *, policy_trains: bool = True) -> Tensor:
        """Encode ``(B, 1, S)`` at 16 kHz to ``(B, positions // 3, hidden size)``; ``policy_trains`` is not read."""
        if waveforms.shape[1] != 1:
            raise ConfigError(
                f"data.num_windows={waveforms.shape[1]}: HumanOmni hears the sound as a whole; set data.num_windows=1 "
                f"data.window_seconds={self.num_samples / SAMPLE_RATE:g}"
            )
        states = self.model.encoder(self.log_mel(waveforms[:, 0]).to(self.model.dtype)).last_hidden_state
        pooled: Tensor = F.avg_pool1d(states.transpose(1, 2), POOLED).transpose(1, 2)
        return pooled

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Return Whisper's log-mel ``(B, mel bands, 2 * positions)`` of ``(B, S)``."""
        waveform = F.pad(waveform[:, : self.num_samples], (0, max(0, self.num_samples - waveform.shape[1])))
        spectrum = torch.stft(waveform.float(), N_FFT, HOP, window=self.window, return_complex=True)
        power = spectrum[..., :-1].abs().square()
        energies = (self.filters.T @ power).clamp(min=1e-10).log10()
        # At most 8 decades below the loudest value of the clip, then scaled to about [-1, 1].
        energies = torch.maximum(energies, energies.amax((1, 2), keepdim=True) - 8.0)
        return (energies + 4.0) / 4.0
