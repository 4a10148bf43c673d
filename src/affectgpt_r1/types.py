"""The shapes that flow through the package, and their glossary.

Shape letters, used in every docstring:

* ``B`` clips of a batch, ``G`` completions of a clip (``num_generations``), ``C`` completion tokens,
* ``P`` prompt tokens, ``V`` vocabulary, ``D`` hidden size,
* ``F`` video frames of a clip, ``W`` audio windows of a clip, ``S`` samples of an audio window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:  # the scorer works without torch
    from torch import Tensor

Modality: TypeAlias = Literal["video", "audio", "text"]
MODALITIES: tuple[Modality, ...] = ("video", "audio", "text")
Visual: TypeAlias = Literal["face", "frame", "both", "image"]  # face crops, full frames, both, or one still image
EmotionSet: TypeAlias = tuple[str, ...]  # of one clip, parsed and in order; duplicates are kept, and counted in reports
Annotations: TypeAlias = Mapping[str, str | float]  # other columns of a label file, for AffectGPT's questions
Phase: TypeAlias = Callable[[str], AbstractContextManager[Any]]  # a context for the named phase of a step


class UnreadableClip(NamedTuple):
    """A clip that could not be read, and why; it is counted and listed, never replaced by zeros."""

    name: str
    reason: str


@dataclass(frozen=True)
class Clip:
    """One clip as a dataset yields it."""

    name: str
    subtitle: str  # what is said, "" for nothing
    labels: EmotionSet  # target emotion words
    reason: str  # target reasoning, "" where the set has none
    modalities: tuple[Modality, ...]  # what the prompt may use; a dropped one leaves its segment out
    frames: Tensor | None = None  # (F, 3, H, W) uint8 RGB: frames or face crops, by data.visual; None if not loaded
    waveform: Tensor | None = None  # (W, S) float32 in [-1, 1] at 16 kHz; None if not loaded
    features: Mapping[str, Tensor] | None = None  # frozen-encoder outputs by modality, in place of media
    cues: Mapping[str, float] | None = None  # of a synthetic clip; only stage=pretrain_encoders asks for them
    unreadable: tuple[UnreadableClip, ...] = ()  # clips that were drawn before this one and could not be read
    context_frames: Tensor | None = None  # (F, 3, H, W) uint8 RGB: full frames next to face crops, data.visual=both
    question: str = ""  # drawn from data.questions; "" is the prompt's own
    annotations: Annotations = field(default_factory=dict)  # what the question needs beyond labels and reason


@dataclass(frozen=True)
class ClipBatch:
    """A collated batch of ``B`` clips; see :class:`Clip` for the fields."""

    names: tuple[str, ...]
    subtitles: tuple[str, ...]
    labels: tuple[EmotionSet, ...]
    reasons: tuple[str, ...]
    modalities: tuple[tuple[Modality, ...], ...]
    frames: Tensor | None = None  # (B, F, 3, H, W) uint8 RGB; None if the video modality is not loaded
    waveforms: Tensor | None = None  # (B, W, S) float32; None if the audio modality is not loaded
    features: Mapping[str, Tensor] = field(default_factory=dict)  # "video": (B, F, D_video), "audio": (B, W, D_audio)
    cues: Mapping[str, Tensor] = field(default_factory=dict)  # (B,) float32 per cue
    unreadable: tuple[UnreadableClip, ...] = ()  # clips that were drawn for this batch and could not be read
    context_frames: Tensor | None = None  # (B, F, 3, H, W) uint8 RGB
    questions: tuple[str, ...] = ()  # empty where every clip is asked the prompt's own
    annotations: tuple[Annotations, ...] = ()  # empty where no question needs any
    supervised: ClipBatch | None = None  # labelled clips for the supervised part of a mixed loss

    def __len__(self) -> int:
        """Return the number of clips ``B``."""
        return len(self.names)


class TokenBatch(NamedTuple):
    """Completions as tokens, right-padded."""

    ids: Tensor  # (B, G, C) int64
    mask: Tensor  # (B, G, C) float32; 1 on completion tokens up to and including the stop token


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn."""

    temperature: float = 1.0  # divides the logits; 0 decodes greedily
    top_p: float = 1.0  # nucleus mass in (0, 1]; 1 keeps every token
    top_k: int = 0  # number of most likely tokens kept; 0 keeps every token
    min_p: float = 0.0  # least probability kept, relative to the most likely token's (Nguyen et al. 2024); 0 keeps all
    stop_strings: Sequence[str] = ()  # end a completion as a stop token does, and stay in it
    max_completion_length: int = 32  # tokens, the stop token included
    # Where no generator is given, draw by this seed and the clips' names: the same clips get the same answers, and the
    # global generator is not used. None draws from the global one.
    seed: int | None = None


@dataclass
class PrefixCache:
    """A rollout's pass over its prompts, in the autograd graph, and what it was computed from."""

    prefill: Any  # the engine's pass; None once an update has taken it, since a graph is differentiated once
    batch: ClipBatch
    weights: Sequence[tuple[int, int, float]]  # address, version and first element of every trainable weight


class Rollout(NamedTuple):
    """``G`` completions for each of ``B`` clips, and the log-probs under which they were drawn."""

    completions: TokenBatch  # (B, G, C)
    per_token_logps: Tensor  # (B, G, C), without gradient
    texts: list[list[str]]  # B lists of G decoded completions, without the stop token
    truncated: Tensor  # (B, G) bool: reached max_completion_length before a stop token
    prefix_cache: PrefixCache | None = None  # what generation computed and the update of these clips may reuse


@dataclass(frozen=True)
class Completion:
    """One completion, parsed once and read by every reward and metric."""

    text: str  # as decoded
    reasoning: str | None  # between the think tags, None where there are none
    answer: str | None  # between the answer tags, None where there are none
    labels: EmotionSet  # of the answer
    well_formed: bool  # each tag that the prompt mode asks for occurs exactly once, in order, and encloses something
    num_tokens: int = 0  # the stop token included
    truncated: bool = False  # the token limit ended it
    clip: str = ""  # name of the clip that it answers
    group: int = 0  # of the rollout; completions of one group answer one prompt
    subtitle: str = ""  # what is said in the clip, for a reward that compares with it


@dataclass(frozen=True)
class CompletionRecord:
    """One row of the completions table."""

    name: str
    prompt: str
    target: str
    completion: str
    rewards: Mapping[str, float | None]
    reward: float
    advantage: float


@dataclass(frozen=True)
class LogValue:
    """A logged value with its weight, so that micro-batches and processes are pooled exactly; ``float()`` is logged."""

    reduction: Literal["mean", "std", "min", "max", "sum"]  # how values are pooled; std is unbiased
    value: Tensor | float  # the mean (also of a std), the extreme or the sum
    # Tokens, completions, clips or seconds that a mean is over. With 0, value is logged if no other batch has any.
    weight: Tensor | float = 1.0
    squares: Tensor | float = 0.0  # of a std: sum of squared differences from the mean

    def __float__(self) -> float:
        """Return what is logged; a ``std`` of fewer than two values is 0."""
        if self.reduction != "std":
            return float(self.value)
        weight = float(self.weight)
        return math.sqrt(float(self.squares) / (weight - 1)) if weight > 1 else 0.0


@dataclass(frozen=True)
class StageOutput:
    """What a stage returns for one batch."""

    loss: Tensor  # scalar with gradient
    logs: Mapping[str, LogValue | Tensor | float]  # by name without "train/"; a plain number is a mean of weight 1
    records: Sequence[CompletionRecord] = ()  # for the completions table
    # What the loss was divided by, averaged over processes and the same in each. Under gradient accumulation a step's
    # gradient is sum(num_items * grad) / sum(num_items); with 1 for every batch, that is the mean over micro-batches.
    num_items: Tensor | float = 1.0
    generation_logs: Collection[str] = ()  # logs that describe a generation batch and repeat at each step of it
