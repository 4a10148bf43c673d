"""Manifest rows to clips: media are opened and closed where the item is made, in the worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from affectgpt_r1.data.clip_reader import read_faces, read_full_frames, read_sound
from affectgpt_r1.data.feature_store import FeatureStore
from affectgpt_r1.data.layouts.mer import audio_file, face_file, video_file
from affectgpt_r1.data.media.audio import WindowRule
from affectgpt_r1.data.media.video import DECODERS, ChannelOrder, FaceResize, FrameIndices, FrameResize
from affectgpt_r1.data.samplers import SampleKey
from affectgpt_r1.errors import ConfigError, DataError, MediaError
from affectgpt_r1.types import MODALITIES, Clip, Modality, UnreadableClip, Visual

if TYPE_CHECKING:  # it imports pandas, and `predict` reads no manifest
    from affectgpt_r1.data.layouts.manifest import ManifestRow

MAX_RESAMPLES = 10  # clips that are drawn in place of an unreadable one before the dataset gives up, as published


@dataclass(frozen=True)
class MediaSettings:
    """What is read of a clip, and in which shape; an unknown value raises ``ConfigError``."""

    modalities: tuple[Modality, ...] = MODALITIES
    visual: Visual = "face"
    num_frames: int = 8
    image_size: int = 224  # height and width in pixels
    channel_order: ChannelOrder = "bgr"  # of face-crop files
    num_windows: int = 8  # of audio
    window_seconds: float = 2.0
    decoder: str = "auto"  # key of DECODERS
    windows: WindowRule = "even"  # where audio windows start, see audio_windows
    frame_resize: FrameResize = "crop"  # the shortest edge is scaled; "squash" changes the aspect, as published
    frame_indices: FrameIndices = "floor"  # AffectGPT's; "middle" of equal segments: HumanOmni's
    face_resize: FaceResize = "antialias"  # see resize_faces
    # Where `predict` knows of no speech: "omit" the text modality, or "keep" its sentence with nothing in it, as
    # published. Clips of a data folder always keep it.
    empty_subtitle: Literal["omit", "keep"] = "omit"

    def __post_init__(self) -> None:
        _check_choice("modalities", self.modalities, MODALITIES)
        _check_choice("visual", [self.visual], ("face", "frame", "both", "image"))
        _check_choice("channel_order", [self.channel_order], ("bgr", "rgb"))
        _check_choice("decoder", [self.decoder], tuple(DECODERS))
        _check_choice("windows", [self.windows], ("even", "published"))
        _check_choice("frame_resize", [self.frame_resize], ("crop", "squash", "bicubic", "pad"))
        _check_choice("frame_indices", [self.frame_indices], ("floor", "middle"))
        _check_choice("face_resize", [self.face_resize], ("antialias", "cv2"))
        _check_choice("empty_subtitle", [self.empty_subtitle], ("omit", "keep"))
        for key in ("num_frames", "image_size", "num_windows", "window_seconds"):
            if isinstance(value := getattr(self, key), int | float) and value <= 0:
                raise ConfigError(f"data.{key}={value} must be above 0; a modality is left out by data.modalities")
        in_order = tuple(modality for modality in MODALITIES if modality in self.modalities)
        object.__setattr__(self, "modalities", in_order)


class ClipDataset(Dataset[Clip | UnreadableClip]):
    """Clips by :class:`SampleKey`; every draw depends on ``(seed, epoch, index)`` alone.

    Args:
        rows: The clips.
        root: Data folder.
        media: What to read.
        seed: Seed of modality dropout and resamples.
        modality_dropout: Probability of leaving a modality out of a clip's prompt, independently, but never all.
        features: Read in place of video and audio.
        cues: Recorded cues by clip name.
        on_unreadable: ``resample`` another clip (training) or ``drop`` it (evaluation).
        questions: Kinds of question, one drawn on each access; none asks the prompt's own.
    """

    def __init__(
        self,
        rows: Sequence[ManifestRow],
        root: Path,
        media: MediaSettings,
        *,
        seed: int,
        modality_dropout: float = 0.0,
        features: FeatureStore | None = None,
        cues: Mapping[str, Mapping[str, float]] | None = None,
        on_unreadable: Literal["resample", "drop"] = "drop",
        questions: Sequence[str] = (),
    ) -> None:
        self.rows = rows
        self.root = root
        self.media = media
        self.seed = seed
        self.modality_dropout = modality_dropout
        self.features = features
        self.cues = cues
        self.on_unreadable = on_unreadable
        self.questions = tuple(questions)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: SampleKey) -> Clip | UnreadableClip:
        """Read one clip; with ``on_unreadable="drop"`` return why it cannot be read.

        Raises:
            DataError: Neither the clip nor any of ``MAX_RESAMPLES`` others can be read.
        """
        rng = np.random.default_rng((self.seed, key.epoch, key.index))
        modalities = self._kept_modalities(rng)
        question = self.questions[int(rng.integers(len(self.questions)))] if self.questions else ""
        unreadable: list[UnreadableClip] = []
        row = self.rows[key.index]
        for _ in range(1 + MAX_RESAMPLES):
            try:
                return self._read(row, modalities, question, tuple(unreadable))
            except MediaError as error:
                unreadable.append(UnreadableClip(row.name, str(error)))
            if self.on_unreadable == "drop":
                return unreadable[0]
            row = self.rows[int(rng.integers(len(self.rows)))]
        reasons = "; ".join(clip.reason for clip in unreadable)
        raise DataError(f"{len(unreadable)} clips in a row could not be read: {reasons}")

    def _kept_modalities(self, rng: np.random.Generator) -> tuple[Modality, ...]:
        modalities = self.media.modalities
        kept = rng.random(len(modalities)) >= self.modality_dropout
        if not kept.any():
            kept[rng.integers(len(modalities))] = True
        return tuple(modality for modality, keep in zip(modalities, kept, strict=True) if keep)

    def _read(
        self, row: ManifestRow, modalities: tuple[Modality, ...], question: str, unreadable: tuple[UnreadableClip, ...]
    ) -> Clip:
        frames = context_frames = waveform = features = None
        if self.features is not None:
            features = self._read_features(self.features, row.name)
        else:
            frames, context_frames = self._read_video(row.name)
            if "audio" in self.media.modalities:
                waveform = read_sound(audio_file(self.root, row.name), self.media)
        return Clip(
            name=row.name,
            subtitle=row.subtitle,
            labels=row.labels,
            reason=row.reason,
            modalities=modalities,
            frames=frames,
            waveform=waveform,
            features=features,
            cues=None if self.cues is None else self.cues[row.name],
            unreadable=unreadable,
            context_frames=context_frames,
            question=question,
            annotations=row.annotations,
        )

    def _read_video(self, name: str) -> tuple[Tensor | None, Tensor | None]:
        """Return what is shown of a clip, and full frames in addition to face crops for ``visual=both``."""
        media = self.media
        if "video" not in media.modalities:
            return None, None
        frames = read_full_frames(video_file(self.root, name), media) if media.visual != "face" else None
        if media.visual not in ("face", "both"):
            return frames, None
        return read_faces(face_file(self.root, name), media), frames

    def _read_features(self, store: FeatureStore, name: str) -> dict[str, Tensor]:
        wanted: list[str] = [modality for modality in self.media.modalities if modality != "text"]
        if "video" in wanted and self.media.visual == "both":
            wanted.append("frame")
        if not wanted:
            return {}
        stored = store.read(name)
        if lacking := [modality for modality in wanted if modality not in stored]:
            raise DataError(f"{store.folder}: {name!r} has no {' and no '.join(lacking)} features; fill another store")
        return {name: stored[name] for name in wanted}


def _check_choice(key: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    unknown = [value for value in chosen if value not in known]
    if unknown or not chosen:
        raise ConfigError(f"data.{key}={list(chosen)} is unknown; choose among {', '.join(known)}")
