"""AffectGPT's projectors: one token a modality, and the pre-fused token of audio and video."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearAttentionPooling(nn.Module):
    """``P(sum_t w_t h_t)`` with ``w_t = a . h_t + b``: the published weights have no softmax.

    Args:
        input_size: Size of the encoder's features.
        output_size: Hidden size of the language model.
    """

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.attention = nn.Linear(input_size, 1)
        self.projection = nn.Linear(input_size, output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``(N, T, input_size)`` over time to ``(N, output_size)``."""
        token: Tensor = self.projection((self.attention(features) * features).sum(1))
        return token


class PreFusion(nn.Module):
    """The ``multi`` token: video and audio merged before the language model sees them.

    ``v' = L(mean_t v)``, ``a' = L(mean_t a)``, ``s = L(L([v'; a']))`` in R^2, ``token = L(s_0 v' + s_1 a')``; linear
    throughout, as published.

    Args:
        video_size: Size of the video encoder's features.
        audio_size: Size of the audio encoder's features.
        hidden_size: Common size of v' and a' (1,024 in the paper).
        output_size: Hidden size of the language model.
    """

    def __init__(self, video_size: int, audio_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.video = nn.Linear(video_size, hidden_size)
        self.audio = nn.Linear(audio_size, hidden_size)
        self.joint = nn.Linear(2 * hidden_size, hidden_size)
        self.scores = nn.Linear(hidden_size, 2)
        self.projection = nn.Linear(hidden_size, output_size)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """Fuse ``(N, F, video_size)`` and ``(N, W, audio_size)`` to ``(N, output_size)``."""
        video, audio = self.video(video.mean(1)), self.audio(audio.mean(1))
        scores = self.scores(self.joint(torch.cat([video, audio], dim=-1)))
        token: Tensor = self.projection(scores[:, :1] * video + scores[:, 1:] * audio)
        return token


class AttentionFusion(nn.Module):
    """The published ``attention`` fusion: a video token, an audio token and the pre-fused token.

    Args:
        video_size: Size of the video encoder's features.
        audio_size: Size of the audio encoder's features.
        hidden_size: Hidden size of the pre-fusion.
        output_size: Hidden size of the language model.
    """

    def __init__(self, video_size: int, audio_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.video = LinearAttentionPooling(video_size, output_size)
        self.audio = LinearAttentionPooling(audio_size, output_size)
        self.multi = PreFusion(video_size, audio_size, hidden_size, output_size)

    def forward(self, video: Tensor | None, audio: Tensor | None) -> dict[str, Tensor]:
        """Media tokens by name.

        Args:
            video: ``(N, F, video_size)`` or None.
            audio: ``(N, W, audio_size)`` or None.

        Returns:
            ``(N, output_size)`` under ``video`` and ``audio`` where given, and under ``multi`` where both are.
        """
        tokens: dict[str, Tensor] = {}
        if video is not None:
            tokens["video"] = self.video(video)
        if audio is not None:
            tokens["audio"] = self.audio(audio)
        if video is not None and audio is not None:
            tokens["multi"] = self.multi(video, audio)
        return tokens
