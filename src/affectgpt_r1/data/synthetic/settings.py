"""What a synthetic set is made of: sizes, noise, media format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from affectgpt_r1.errors import ConfigError

NoiseName: TypeAlias = Literal["none", "moderate", "hard"]
SplitName: TypeAlias = Literal["caption", "human", "validation", "test"]

SPLITS: tuple[SplitName, ...] = ("caption", "human", "validation", "test")
SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class NoiseRates:
    """Probabilities of a machine-like caption's errors."""

    flip: float = 0.0  # a claimed emotion is mistaken for a neighbour
    ignore_voice: float = 0.0  # the caption leaves out what only the voice shows
    drop: float = 0.0  # a claimed emotion is left out
    insert: float = 0.0  # the caption claims an emotion that nothing shows
    filler: float = 0.0  # the caption adds a vague word
    miss_sarcasm: float = 0.0  # the caption believes sarcastic words
    weak_cues: float = 0.0  # a clip, of any split, shows its cues faintly; only this alters media


NOISE: dict[NoiseName, NoiseRates] = {
    "none": NoiseRates(),
    "moderate": NoiseRates(
        flip=0.15, ignore_voice=0.6, drop=0.15, insert=0.2, filler=0.3, miss_sarcasm=0.7, weak_cues=0.2
    ),
    "hard": NoiseRates(
        flip=0.25, ignore_voice=0.75, drop=0.25, insert=0.35, filler=0.5, miss_sarcasm=0.8, weak_cues=0.8
    ),
}


@dataclass(frozen=True)
class RenderConfig:
    """Settings of a synthetic set; equal settings give byte-identical label files."""

    seed: int = 1  # draws every clip, with its split and number
    num_caption: int = 1500  # clips with noisy machine-like captions (*_mercaptionplus.csv), for SFT
    num_exact: int = 300  # clips with exact labels (*_ovmerd.csv), for RL
    num_validation: int = 150  # clips with exact labels
    num_test: int = 600  # clips with exact labels
    noise: NoiseName = "moderate"
    frame_size: int = 96  # side of the square video frames in pixels; even, as 4:2:0 video requires
    fps: int = 8
    min_seconds: float = 2.5
    max_seconds: float = 3.2

    def __post_init__(self) -> None:
        if self.noise not in NOISE:
            raise ConfigError(f"demo noise={self.noise!r} is unknown; choose one of {', '.join(NOISE)}")
        if self.seed < 0:
            raise ConfigError(f"demo seed={self.seed} is negative; choose a seed from 0 up")
        if min(self.size(split) for split in SPLITS) < 0:
            raise ConfigError("a demo split has a negative number of clips; give 0 or more")
        if self.frame_size < 48 or self.frame_size % 2:
            raise ConfigError(f"demo frame_size={self.frame_size} must be even and at least 48")
        if self.fps < 4:
            raise ConfigError(f"demo fps={self.fps} must be at least 4: eight face crops are cut from a clip")
        if not 2.0 <= self.min_seconds <= self.max_seconds:
            raise ConfigError("demo clips need 2 <= min_seconds <= max_seconds: audio is read in windows of 2 s")

    @property
    def rates(self) -> NoiseRates:
        """The noise probabilities."""
        return NOISE[self.noise]

    def size(self, split: SplitName) -> int:
        """Return the number of clips in ``split``."""
        return {
            "caption": self.num_caption,
            "human": self.num_exact,
            "validation": self.num_validation,
            "test": self.num_test,
        }[split]
