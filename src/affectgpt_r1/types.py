"""The shapes that flow through the package, and their glossary.

Shape letters, used in every docstring:

* ``B`` clips of a batch, ``G`` completions of a clip (``num_generations``), ``C`` completion tokens,
* ``P`` prompt tokens, ``V`` vocabulary, ``D`` hidden size,
* ``F`` video frames of a clip, ``W`` audio windows of a clip, ``S`` samples of an audio window.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor

Modality: TypeAlias = Literal["video", "audio", "text"]
MODALITIES: tuple[Modality, ...] = ("video", "audio", "text")

Visual: TypeAlias = Literal["face", "frame", "both", "image"]
"""What is seen of a clip: face crops, whole frames, both, or one still image."""

EmotionSet: TypeAlias = tuple[str, ...]
"""Emotion words of one clip, parsed and in order, duplicates kept (their number is reported)."""

Annotations: TypeAlias = Mapping[str, str | float]
"""What a label file says about a clip for AffectGPT's questions, beside labels and reason, by column."""


class UnreadableClip(NamedTuple):
    """A clip that could not be read, and why; it is counted and listed, never replaced by zeros."""

    name: str
    reason: str


@dataclass(frozen=True)
class Clip:
    """One clip as a dataset yields it.

    Attributes:
        name: The row's ``name``.
        subtitle: What is said, ``""`` where nothing is.
        labels: The target emotion words.
        reason: The target reasoning, ``""`` where the set has none.
        modalities: What the prompt may use; a dropped modality leaves its prompt segment out.
        frames: ``(F, 3, H, W)`` uint8, RGB: frames or face crops by ``data.visual``; None if not loaded.
        context_frames: ``(F, 3, H, W)`` uint8, RGB: whole frames beside face crops with ``data.visual=both``.
        waveform: ``(W, S)`` float32 in [-1, 1] at 16 kHz; None if not loaded.
        features: Frozen-encoder outputs read from the feature store, by modality, in place of media.
        cues: Recorded cues of a synthetic clip; only ``stage=pretrain_encoders`` asks for them.
        skipped: Clips that were drawn before this one and could not be read.
        question: The kind of question that is asked, drawn from ``data.questions``; ``""`` is the prompt's own.
        annotations: What that question and its answer need beside labels and reason.
    """

    name: str
    subtitle: str
    labels: EmotionSet
    reason: str
    modalities: tuple[Modality, ...]
    frames: Tensor | None = None
    waveform: Tensor | None = None
    features: Mapping[str, Tensor] | None = None
    cues: Mapping[str, float] | None = None
    skipped: tuple[UnreadableClip, ...] = ()
    context_frames: Tensor | None = None
    question: str = ""
    annotations: Annotations = field(default_factory=dict)


@dataclass(frozen=True)
class ClipBatch:
    """A collated batch of ``B`` clips.

    Attributes:
        names: ``B`` clip names.
        subtitles: ``B`` subtitles.
        labels: ``B`` target emotion sets.
        reasons: ``B`` target reasonings.
        modalities: ``B`` tuples of what each clip's prompt may use.
        frames: ``(B, F, 3, H, W)`` uint8 RGB, or None if the video modality is not loaded.
        waveforms: ``(B, W, S)`` float32, or None if the audio modality is not loaded.
        features: Frozen-encoder outputs in place of media: ``"video" -> (B, F, D_video)``,
            ``"audio" -> (B, W, D_audio)``; empty where media are given.
        cues: ``(B,)`` float32 per recorded cue; empty unless asked for.
        skipped: Clips that were drawn for this batch and could not be read.
        context_frames: ``(B, F, 3, H, W)`` uint8 RGB, whole frames beside face crops, or None.
        questions: ``B`` kinds of question; empty where every clip is asked the prompt's own.
        annotations: What the questions of ``B`` clips need beside labels and reasons; empty where they need nothing.
    """

    names: tuple[str, ...]
    subtitles: tuple[str, ...]
    labels: tuple[EmotionSet, ...]
    reasons: tuple[str, ...]
    modalities: tuple[tuple[Modality, ...], ...]
    frames: Tensor | None = None
    waveforms: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    cues: Mapping[str, Tensor] = field(default_factory=dict)
    skipped: tuple[UnreadableClip, ...] = ()
    context_frames: Tensor | None = None
    questions: tuple[str, ...] = ()
    annotations: tuple[Annotations, ...] = ()

    def __len__(self) -> int:
        """Number of clips ``B``."""
        return len(self.names)


class TokenBatch(NamedTuple):
    """Completions as tokens, right-padded."""

    ids: Tensor  # (B, G, C) int64
    mask: Tensor  # (B, G, C) float32; 1 on completion tokens up to and including the stop token


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. ``temperature == 0`` decodes greedily.

    Attributes:
        temperature: Divides the logits; 0 takes the most likely token.
        top_p: Nucleus mass in (0, 1]; 1 keeps every token.
        top_k: Number of most likely tokens kept; 0 keeps every token.
        min_p: Least probability kept, as a share of the most likely token's; 0 keeps every token (Nguyen et al. 2024).
        stop_strings: Texts that end a completion like a stop token; they stay in it.
        max_completion_length: Most tokens of a completion, the stop token included.
        seed: Where no generator is given, draw by this seed and the clips' names, so that the same clips are always
            answered alike and the global generator is not used; None draws from the global one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop_strings: Sequence[str] = ()
    max_completion_length: int = 32
    seed: int | None = None


@dataclass
class PrefixCache:
    """A rollout's pass over its prompts, in the autograd graph, and what it was computed from.

    Attributes:
        prefill: The engine's pass; None once an update has taken it, since a graph is differentiated once.
        batch: The clips.
        weights: Address, version and first element of every trainable weight.
    """

    prefill: Any
    batch: ClipBatch
    weights: Sequence[tuple[int, int, float]]


class Rollout(NamedTuple):
    """``G`` completions for each of ``B`` clips, and the log-probs under which they were drawn."""

    completions: TokenBatch  # (B, G, C)
    per_token_logps: Tensor  # (B, G, C), without gradient
    texts: list[list[str]]  # B lists of G decoded completions, stop token left out
    truncated: Tensor  # (B, G) bool: reached max_completion_length before a stop token
    prefix_cache: PrefixCache | None = None  # what generation computed and the update of these clips may reuse


@dataclass(frozen=True)
class Completion:
    """One completion, parsed once and read by every reward and metric.

    Attributes:
        text: The decoded completion.
        reasoning: What stands between the think tags, None where there is none.
        answer: What stands between the answer tags, None where there is none.
        labels: The emotion words of the answer, duplicates kept.
        well_formed: Whether each tag that the prompt mode asks for stands exactly once, in order, non-empty.
        num_tokens: Completion tokens, the stop token included.
        truncated: Whether the token limit ended it.
        clip: Name of the clip that it answers.
        group: Which group of the rollout it belongs to; completions of one group answer one prompt.
    """

    text: str
    reasoning: str | None
    answer: str | None
    labels: EmotionSet
    well_formed: bool
    num_tokens: int = 0
    truncated: bool = False
    clip: str = ""
    group: int = 0


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
    """A logged value with what it was taken over, so that micro-batches and processes can be pooled exactly.

    ``float()`` of it is what is logged.

    Attributes:
        reduction: How values are pooled; ``std`` is the unbiased standard deviation.
        value: The mean (of a ``std``, too), the extreme or the sum.
        weight: Tokens, completions, clips or seconds that a mean was taken over; 0 where there were none, and ``value``
            is then what is logged if no other batch has any.
        squares: Of a ``std``, the sum of squared differences from the mean.
    """

    reduction: Literal["mean", "std", "min", "max", "sum"]
    value: Tensor | float
    weight: Tensor | float = 1.0
    squares: Tensor | float = 0.0

    def __float__(self) -> float:
        """What is logged; a ``std`` of fewer than two values is 0."""
        if self.reduction != "std":
            return float(self.value)
        weight = float(self.weight)
        return math.sqrt(float(self.squares) / (weight - 1)) if weight > 1 else 0.0


@dataclass(frozen=True)
class StageOutput:
    """What a stage returns for one batch.

    Attributes:
        loss: Scalar with gradient.
        logs: Values by log name, without the ``train/`` prefix. A plain number is a mean that weighs as much as any
            other batch's.
        records: Rows for the completions table; empty where the stage samples nothing.
        num_items: What the loss was divided by, such as target tokens, averaged over processes and the same in each.
            Under gradient accumulation the gradients of a step are ``sum(num_items * grad) / sum(num_items)``. With 1
            for every batch, that is the mean over micro-batches.
        generation_logs: Names of the logs that describe a whole generation batch and repeat at each step of it.
    """

    loss: Tensor
    logs: Mapping[str, LogValue | Tensor | float]
    records: Sequence[CompletionRecord] = ()
    num_items: Tensor | float = 1.0
    generation_logs: Collection[str] = ()
