"""HumanOmni's projectors (Zhao et al. 2025): three readings of the frames, mixed by what is asked, and the sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.fusion import MediaFusion

NORM_EPSILON = 1e-5
NUM_BLOCKS = 2  # of a stage
MOST_QUESTION_TOKENS = 512  # that BERT has positions for


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPSILON)

    def forward(self, states: Tensor) -> Tensor:
        """Normalise ``(N, channels, H, W)``."""
        return super().forward(states.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNorm(nn.Module):
    """A convolution without bias that keeps the size, and its norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.norm = ChannelNorm(outputs)

    def forward(self, states: Tensor) -> Tensor:
        """Return ``(N, outputs, H, W)`` of ``(N, inputs, H, W)``."""
        normed: Tensor = self.norm(self.conv(states))
        return normed


class SqueezeExcite(nn.Module):
    """Scale channels by what the whole picture shows (Hu et al. 2018)."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, states: Tensor) -> Tensor:
        """Return ``states`` ``(N, channels, H, W)``, scaled."""
        mean = states.mean((2, 3), keepdim=True)
        factor: Tensor = self.expand(F.silu(self.reduce(mean))).sigmoid()
        return states * factor


class Bottleneck(nn.Module):
    """RegNet's bottleneck (Radosavovic et al. 2020) with a depthwise convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, kernel=3, groups=outputs)
        self.excite = SqueezeExcite(outputs, inputs // 4)  # a quarter of the block's inputs, as timm has it
        self.conv3 = ConvNorm(outputs, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else ConvNorm(inputs, outputs)

    def forward(self, states: Tensor) -> Tensor:
        """Return ``(N, outputs, H, W)`` of ``(N, inputs, H, W)``."""
        inner = self.conv3(self.excite(F.silu(self.conv2(F.silu(self.conv1(states))))))
        return F.silu(inner + self.shortcut(states))


class PatchBranch(nn.Module):
    """A stage on every frame, a halving of the grid that sees the frame before, another stage, and a readout."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        sizes = [inputs, *[outputs] * NUM_BLOCKS]
        self.stage1 = nn.Sequential(*(Bottleneck(*sizes[i : i + 2]) for i in range(NUM_BLOCKS)))
        self.sampler = nn.Conv3d(outputs, outputs, 2, stride=(1, 2, 2), padding=(1, 0, 0))
        self.stage2 = nn.Sequential(*(Bottleneck(outputs, outputs) for _ in range(NUM_BLOCKS)))
        self.readout = nn.Sequential(nn.Linear(outputs, outputs), nn.GELU(), nn.Linear(outputs, outputs))

    def forward(self, grid: Tensor) -> Tensor:
        """Return ``(B, F * H/2 * W/2, outputs)`` of ``(B, F, inputs, H, W)``."""
        count, frames = grid.shape[:2]
        states = self.stage1(grid.flatten(0, 1)).unflatten(0, (count, frames)).transpose(1, 2)
        # Padded by one frame on both sides, kernel 2: step t sees frames t - 1 and t. The step after the last is cut.
        states = F.silu(self.sampler(states))[:, :, :frames]
        states = self.stage2(states.transpose(1, 2).flatten(0, 1)).unflatten(0, (count, frames))
        tokens: Tensor = self.readout(states.permute(0, 1, 3, 4, 2).flatten(1, 3))
        return tokens


class FaceBranch(nn.Module):
    """A perceptron on every patch, and a bilinear halving of the grid."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.readout = nn.Sequential(nn.Linear(inputs, outputs), nn.GELU(), nn.Linear(outputs, outputs))

    def forward(self, grid: Tensor) -> Tensor:
        """Return ``(B, F * H/2 * W/2, outputs)`` of ``(B, F, inputs, H, W)``."""
        states = self.readout(grid.permute(0, 1, 3, 4, 2)).flatten(0, 1).permute(0, 3, 1, 2)
        halved = F.interpolate(states, size=[edge // 2 for edge in grid.shape[-2:]], mode="bilinear")
        return halved.view(*grid.shape[:2], *halved.shape[1:]).permute(0, 1, 3, 4, 2).flatten(1, 3)


class HumanOmniFusion(MediaFusion):
    """Media tokens of video and audio; BERT reads the question and weighs the three readings of the frames.

    Args:
        video_size: Size of a patch's features.
        audio_size: Size of the sound's features.
        output_size: Hidden size of the language model.
        question_encoder: BERT; trains with the projectors unless its weights are frozen.
        question_tokenizer: Of BERT; None where none is loaded, to count parameters.
        gate_size: Hidden size of the gate.
        num_frames: Frames ``F`` of a clip.
        grid: Patches along an edge of a frame.
        num_sounds: Features of a clip's sound.
    """

    def __init__(
        self,
        video_size: int,
        audio_size: int,
        output_size: int,
        question_encoder: Any,
        question_tokenizer: Any,
        *,
        gate_size: int,
        num_frames: int,
        grid: int,
        num_sounds: int,
    ) -> None:
        super().__init__()
        self.video = PatchBranch(video_size, output_size)
        self.body = PatchBranch(video_size, output_size)
        self.face = FaceBranch(video_size, output_size)
        self.bert = question_encoder
        self.gate = nn.Sequential(nn.Linear(question_encoder.config.hidden_size, gate_size), nn.GELU())
        self.gate.append(nn.Linear(gate_size, 3))
        self.audio = nn.Sequential(nn.Linear(audio_size, output_size), nn.GELU(), nn.Linear(output_size, output_size))
        self.question_tokenizer = question_tokenizer
        self.num_frames, self.grid = num_frames, grid
        self.num_tokens = {"video": num_frames * (grid // 2) ** 2, "audio": num_sounds}

    @property
    def shown(self) -> tuple[str, ...]:
        """Return ``video`` and ``audio``."""
        return tuple(self.num_tokens)

    def forward(self, features: Mapping[str, Tensor], instructions: Sequence[str] = ()) -> dict[str, Tensor]:
        """Return ``video`` and ``audio`` tokens, ``(N, num_tokens, output_size)``, where there are features.

        Args:
            features: ``"video" -> (N, F, patches, video_size)``, ``"audio" -> (N, sounds, audio_size)``.
            instructions: The question of each clip.
        """
        tokens: dict[str, Tensor] = {}
        if "audio" in features:
            tokens["audio"] = self.audio(features["audio"].to(self.dtype))
        if "video" in features:
            patches = features["video"].to(self.dtype)
            if patches.shape[1] != self.num_frames:
                raise ConfigError(
                    f"data.num_frames={patches.shape[1]}, but model.num_frames={self.num_frames}; set both alike"
                )
            # (N, F, H * W, video_size) to (N, F, video_size, H, W)
            grid = patches.transpose(2, 3).reshape(*patches.shape[:2], -1, self.grid, self.grid)
            readings = torch.stack([self.video(grid), self.body(grid), self.face(grid)], 1)  # (N, 3, T, D)
            # Softmax weights of video, body and face in this order, as published.
            weights = self.question_weights(instructions).to(readings.dtype)
            tokens["video"] = (weights[:, :, None, None] * readings).sum(1)
        return tokens

    def question_weights(self, instructions: Sequence[str]) -> Tensor:
        """Return the weights ``(N, 3)`` of the three readings by the clips' questions."""
        distinct = list(dict.fromkeys(instructions))  # a run asks every clip the same
        device = next(self.bert.parameters()).device
        read = self.question_tokenizer(distinct, truncation=True, max_length=MOST_QUESTION_TOKENS)["input_ids"]
        longest = max(map(len, read))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in read], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in read], device=device)
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]  # at [CLS]
        weights: Tensor = self.gate(states).softmax(-1)
        return weights[[distinct.index(question) for question in instructions]]
