"""AffectGPT's projectors: media tokens for the language model, and the pre-fused tokens of audio and video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.qformer import QFormer

# How each part is pooled; `none` gives it no tokens, and its sentence leaves the prompt. The choice `none` is the
# paper's ablation without pre-fusion, `multi` shows the pre-fused token alone (the mode `multiface_text`: where audio
# or video is missing, neither is seen), and `mean` has no pre-fusion of its own in the published code.
FUSIONS: Mapping[str, Mapping[str, str]] = {
    "attention": {"video": "attention", "audio": "attention", "multi": "attention"},
    "qformer": {"video": "qformer", "audio": "qformer", "multi": "qformer"},
    "mean": {"video": "mean", "audio": "mean", "multi": "attention"},
    "none": {"video": "attention", "audio": "attention", "multi": "none"},
    "multi": {"video": "none", "audio": "none", "multi": "attention"},
}

NUM_QUERIES: Mapping[str, int] = {"video": 32, "audio": 8, "multi": 16}  # Q-Former tokens of each part
NUM_POSITIONS: Mapping[str, int] = {"video": 32, "audio": 8, "multi": 264}  # position tables of the Q-Formers


class LinearAttentionPooling(nn.Module):
    """``P(sum_t w_t h_t)`` with ``w_t = a . h_t + b``."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.attention = nn.Linear(input_size, 1)
        self.projection = nn.Linear(input_size, output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``(N, T, input_size)`` over time to ``(N, 1, output_size)``."""
        # The published weights have no softmax over t.
        token: Tensor = self.projection((self.attention(features) * features).sum(1, keepdim=True))
        return token


class MeanPooling(nn.Module):
    """``P(mean_t h_t)``."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(input_size, output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``(N, T, input_size)`` over time to ``(N, 1, output_size)``."""
        token: Tensor = self.projection(features.mean(1, keepdim=True))
        return token


class QueryPooling(nn.Module):
    """``P(Q-Former(h))``."""

    def __init__(self, input_size: int, output_size: int, num_queries: int, num_positions: int) -> None:
        super().__init__()
        self.reader = QFormer(input_size, num_queries, num_positions)
        self.projection = nn.Linear(self.reader.hidden_size, output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Read ``(N, T, input_size)``; return ``(N, Q, output_size)``."""
        tokens: Tensor = self.projection(self.reader(features))
        return tokens


class PreFusion(nn.Module):
    """The ``multi`` token: video and audio merged before the language model sees them."""

    def __init__(self, video_size: int, audio_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.video = nn.Linear(video_size, hidden_size)
        self.audio = nn.Linear(audio_size, hidden_size)
        self.joint = nn.Linear(2 * hidden_size, hidden_size)
        self.scores = nn.Linear(hidden_size, 2)
        self.projection = nn.Linear(hidden_size, output_size)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """Fuse ``(N, F, video_size)`` and ``(N, W, audio_size)`` to ``(N, 1, output_size)``."""
        # v' = L(mean_t v), a' = L(mean_t a), s = L(L([v'; a'])) in R^2, token = L(s_0 v' + s_1 a'): linear throughout,
        # as published.
        video, audio = self.video(video.mean(1, keepdim=True)), self.audio(audio.mean(1, keepdim=True))
        scores = self.scores(self.joint(torch.cat([video, audio], dim=-1)))
        token: Tensor = self.projection(scores[..., :1] * video + scores[..., 1:] * audio)
        return token


class QueryPreFusion(nn.Module):
    """The ``multi`` tokens of a Q-Former over both sequences, video first."""

    def __init__(self, video_size: int, audio_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.video = nn.Linear(video_size, hidden_size)
        self.audio = nn.Linear(audio_size, hidden_size)
        self.reader = QFormer(hidden_size, NUM_QUERIES["multi"], NUM_POSITIONS["multi"])
        self.projection = nn.Linear(self.reader.hidden_size, output_size)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """Fuse ``(N, F, video_size)`` and ``(N, W, audio_size)`` to ``(N, Q, output_size)``."""
        tokens: Tensor = self.projection(self.reader(torch.cat([self.video(video), self.audio(audio)], 1)))
        return tokens


class MediaFusion(nn.Module, ABC):
    """What a policy asks of the fusion of a model family.

    Attributes:
        num_tokens: Media tokens of a clip by name; those in ``shown`` are in a prompt with every modality.
    """

    num_tokens: dict[str, int]

    @abstractmethod
    def forward(self, features: Mapping[str, Tensor], instructions: Sequence[str] = ()) -> dict[str, Tensor]:
        """Return media tokens ``(N, Q, output_size)`` by name, of features by name and the ``N`` clips' questions."""

    @property
    @abstractmethod
    def shown(self) -> tuple[str, ...]:
        """Return the names in ``num_tokens`` that a prompt with every modality shows."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the floating type of the weights."""
        return next(self.parameters()).dtype


class Fusion(MediaFusion):
    """Media tokens of every modality, and with pre-fusion those of audio and video together.

    ``Q`` is 1 except for Q-Formers.

    Args:
        video_size: Size of the video encoder's features.
        audio_size: Size of the audio encoder's features.
        hidden_size: Hidden size of the pre-fusion.
        output_size: Hidden size of the language model.
        kind: A key of :data:`FUSIONS`, or the kind of each part: ``{"video": ..., "audio": ..., "multi": ...}``.
        image: Add the projector of still images.
    """

    def __init__(
        self,
        video_size: int,
        audio_size: int,
        hidden_size: int,
        output_size: int,
        kind: str | Mapping[str, str] = "attention",
        *,
        image: bool = False,
    ) -> None:
        super().__init__()
        kinds = FUSIONS.get(kind) if isinstance(kind, str) else kind
        if kinds is None or set(kinds) != set(NUM_QUERIES):
            raise ConfigError(
                f"model.fusion={kind} is unknown; choose among {', '.join(FUSIONS)}, or give video, audio and multi"
            )
        self.video = _pooling("video", kinds["video"], video_size, output_size)
        self.audio = _pooling("audio", kinds["audio"], audio_size, output_size)
        self.multi = _pre_fusion(kinds["multi"], video_size, audio_size, hidden_size, output_size)
        self.image = MeanPooling(video_size, output_size) if image else None
        if self.multi is None and (self.video is None or self.audio is None):
            raise ConfigError(
                f"model.fusion={kind}: video and audio need tokens of their own where they are not merged; "
                "leave a modality out by data.modalities"
            )
        queries = {part: NUM_QUERIES[part] if kinds[part] == "qformer" else 1 for part in kinds}
        self.num_tokens: dict[str, int] = {**queries, "frame": queries["video"], "image": 1}

    def forward(self, features: Mapping[str, Tensor], instructions: Sequence[str] = ()) -> dict[str, Tensor]:
        """Return media tokens ``(N, Q, output_size)`` by name.

        Args:
            features: ``"video" -> (N, F, video_size)`` of face crops or frames, ``"frame" -> (N, F, video_size)`` of
                frames in addition to face crops, ``"audio" -> (N, W, audio_size)``; each where there is one.
            instructions: Not read here.

        Returns:
            The given names whose part has tokens, and ``multi`` where video and audio are given; a model of still
            images has ``image`` instead of ``video`` and ``multi``.
        """
        features = {name: values.to(self.dtype) for name, values in features.items()}
        # Face crops and full frames share one projector, as published.
        parts = {"video": self.video, "frame": self.video, "audio": self.audio}
        if self.image is not None and "video" in features:
            features["image"], parts["image"] = features.pop("video"), self.image
        tokens = {name: part(values) for name, values in features.items() if (part := parts[name]) is not None}
        if self.multi is not None and {"video", "audio"} <= features.keys():
            tokens["multi"] = self.multi(features["video"], features["audio"])
        return tokens

    @property
    def shown(self) -> tuple[str, ...]:
        """Return the parts that have tokens, among ``video``, ``audio`` and ``multi``."""
        return tuple(name for name in NUM_QUERIES if getattr(self, name) is not None)


def _pooling(part: str, kind: str, input_size: int, output_size: int) -> nn.Module | None:
    if kind == "none":
        return None
    if kind == "attention":
        return LinearAttentionPooling(input_size, output_size)
    if kind == "mean":
        return MeanPooling(input_size, output_size)
    if kind == "qformer":
        return QueryPooling(input_size, output_size, NUM_QUERIES[part], NUM_POSITIONS[part])
    raise ConfigError(f"model.fusion.{part}={kind} is unknown; choose among attention, qformer, mean, none")


def _pre_fusion(
    kind: str, video_size: int, audio_size: int, hidden_size: int, output_size: int
) -> PreFusion | QueryPreFusion | None:
    if kind == "none":
        return None
    if kind not in ("attention", "qformer"):
        raise ConfigError(f"model.fusion.multi={kind} is unknown; choose among attention, qformer, none")
    fusion = PreFusion if kind == "attention" else QueryPreFusion
    return fusion(video_size, audio_size, hidden_size, output_size)
