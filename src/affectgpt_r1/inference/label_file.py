"""Label a video file that nobody prepared, and measure what each modality contributed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from affectgpt_r1.data.clip_reader import read_full_frames, read_pictures, read_sound, resize_found_faces
from affectgpt_r1.data.collate import batch_to_device, collate
from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.data.layouts.spoken_text import MOST_CHARACTERS, limited
from affectgpt_r1.data.media.containers import Streams, inspect
from affectgpt_r1.data.media.faces import centre_square, face_crops
from affectgpt_r1.emotion.extraction import extract_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.wheels import NUM_WHEELS
from affectgpt_r1.errors import DataError, MediaError
from affectgpt_r1.metrics.functional.polarity import SIGNS, load_polarity
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.training.completions import parse_rollout
from affectgpt_r1.types import Clip, ClipBatch, Completion, Modality, Rollout, Sampling, TokenBatch

Faces: TypeAlias = Literal["detect", "centre"]

WITHOUT_TEXT = "give what is said by --subtitle, as an .srt next to the file, or as a text track inside it"


@dataclass(frozen=True)
class Predictor:
    """Answers clips one at a time, so that memory does not grow with their number.

    Attributes:
        policy: The trained policy.
        media: How its clips are read.
        sampling: How answers are decoded.
        lexicon: Names the clusters of the answered words.
        faces: ``detect`` crops the largest face of each frame, ``centre`` the middle of the frame.
        contributions: Answer again without each modality.
    """

    policy: MultimodalPolicy
    media: MediaSettings
    sampling: Sampling
    lexicon: Lexicon
    faces: Faces = "detect"
    contributions: bool = True

    def __call__(self, path: Path, subtitle: str | None = None) -> dict[str, Any]:
        """Answer one file.

        Args:
            path: Any file that FFmpeg reads.
            subtitle: What is said in it, ``""`` leaves the text modality out; None reads the file's subtitle track.

        Returns:
            A row of plain values: ``name`` and ``openset``, as ``affectgpt-r1 score`` reads them, ``file``, ``labels``,
            ``reasoning``, ``answer``, ``completion``, ``well_formed``, ``clusters`` (by wheel), ``unmapped``,
            ``polarity``, ``modalities``, ``notes``, ``contributions``, ``seconds``.

        Raises:
            MediaError: The file cannot be read, or holds nothing that the policy was trained on.
        """
        started = time.perf_counter()
        clip, notes = read_clip(path, subtitle, self.media, self.faces)
        return self.label(path, clip, notes, started)

    def label(self, path: Path, clip: Clip, notes: list[str], started: float) -> dict[str, Any]:
        """Answer a clip that was read from ``path``; ``started`` is when that began, by ``time.perf_counter``."""
        answer, contributions = self._answer(clip)
        if not answer["labels"]:
            answer["labels"] = list(extract_labels(answer["completion"], self.lexicon).labels)
            notes.append("the answer names no emotion: the labels are the emotion words found in the whole completion")
        return {
            "file": str(path),
            "name": path.stem,
            **answer,
            "openset": answer["labels"],
            **self._meaning(answer["labels"]),
            "modalities": list(clip.modalities),
            "notes": notes,
            "contributions": contributions,
            "seconds": round(time.perf_counter() - started, 3),
        }

    @torch.no_grad()
    def alternatives(self, clip: Clip, number: int, seed: int = 0) -> list[tuple[Completion, float]]:
        """Sample ``number`` completions at temperature 1.

        Returns:
            Each with its probability given the clip, ``exp`` of the sum of its tokens' log-probs.
        """
        batch = self.policy.with_features(batch_to_device(collate([clip]), self.policy.device))
        sampling = dataclasses.replace(self.sampling, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, seed=seed)
        rollout = self.policy.generate(batch, number, sampling)
        kind = self.policy.template.kind
        parsed = parse_rollout(rollout, batch.names, enable_thinking=self.policy.enable_thinking, kind=kind)
        logps = (self.policy.per_token_logps(batch, rollout.completions) * rollout.completions.mask).sum(-1)[0]
        return list(zip(parsed, logps.exp().tolist(), strict=True))

    @torch.no_grad()
    def _answer(self, clip: Clip) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the answer, and by modality what leaving it out changes."""
        batch = self.policy.with_features(batch_to_device(collate([clip]), self.policy.device))
        rollout = self.policy.generate(batch, 1, self.sampling)
        completion = self._parsed(rollout, batch)
        answer = {
            "labels": list(completion.labels),
            "reasoning": completion.reasoning,
            "answer": completion.answer,
            "completion": completion.text,
            "well_formed": completion.well_formed,
        }
        if not self.contributions or len(clip.modalities) == 1:
            return answer, {}
        full = self._log_probability(batch, rollout.completions)
        contributions: dict[str, Any] = {}
        for modality in clip.modalities:
            kept = tuple(kind for kind in clip.modalities if kind != modality)
            without = dataclasses.replace(batch, modalities=(kept,))
            labels = self._parsed(self.policy.generate(without, 1, self.sampling), batch).labels
            drop = full - self._log_probability(without, rollout.completions)
            contributions[modality] = {"log_probability": round(drop, 4), "labels_without": list(labels)}
        return answer, contributions

    def _parsed(self, rollout: Rollout, batch: ClipBatch) -> Completion:
        kind = self.policy.template.kind
        return parse_rollout(rollout, batch.names, enable_thinking=self.policy.enable_thinking, kind=kind)[0]

    def _log_probability(self, batch: ClipBatch, completions: TokenBatch) -> float:
        return float(self.policy.per_token_logps(batch, completions).sum())

    def _meaning(self, labels: Sequence[str]) -> dict[str, Any]:
        clusters: dict[str, list[str]] = {}
        for wheel in range(1, NUM_WHEELS + 1):
            named = {self.lexicon.cluster(label, wheel) for label in labels}
            clusters[f"wheel{wheel}"] = sorted(cluster for cluster in named if cluster is not None)
        sentiment = load_polarity().sentiment(tuple(labels))
        return {
            "clusters": clusters,
            "unmapped": [label for label in labels if label not in self.lexicon],
            "polarity": next(name for name, sign in SIGNS.items() if sign == sentiment),
        }


def read_clip(path: Path, subtitle: str | None, media: MediaSettings, faces: Faces) -> tuple[Clip, list[str]]:
    """Read a file as the policy's training clips were read; returns notes on what is missing, too.

    A modality that the file lacks is left out of the prompt, never made of zeros. Where no frame shows a face, the
    middle of each frame replaces it.

    Raises:
        MediaError: See :class:`Predictor`.
    """
    streams = inspect(path, with_text=subtitle is None and "text" in media.modalities)
    subtitle, about_cut = _cut(streams.text if subtitle is None else subtitle)
    recorded: dict[Modality, bool] = {"video": streams.has_video, "audio": streams.has_audio, "text": bool(subtitle)}
    # An empty subtitle sentence alone is nothing to answer from.
    has_any = any(recorded[kind] for kind in media.modalities)
    present = {**recorded, "text": bool(subtitle) or media.empty_subtitle == "keep"}
    kept = tuple(kind for kind in media.modalities if present[kind])
    if not has_any:
        raise MediaError(f"{path}: has none of the modalities that the policy reads ({', '.join(media.modalities)})")
    frames = context_frames = waveform = None
    notes = [*streams.notes, *about_cut]
    if "video" in kept:
        frames, context_frames, about_faces = _seen(path, media, streams, faces)
        notes += about_faces
    if "audio" in kept:
        waveform = read_sound(path, media, streams)
    lacking = [kind for kind in media.modalities if kind not in kept]
    if own := [kind for kind in lacking if kind != "text"]:
        notes.append(f"answered without {' and '.join(own)}, which the file does not have")
    if "text" in lacking:
        notes.append(f"answered without text: {WITHOUT_TEXT}")
    return Clip(path.name, subtitle, (), "", kept, frames, waveform, context_frames=context_frames), notes


def predict_files(
    predictor: Predictor, subtitles: Mapping[Path, str | None], failures: dict[Path, str]
) -> Iterator[dict[str, Any] | None]:
    """Yield a row for each file, None for one that could not be answered.

    Args:
        predictor: Answers a file.
        subtitles: What is said, by file; None where the file itself may say it.
        failures: Receives the reason for every file that could not be read.
    """
    for path, subtitle in subtitles.items():
        try:
            row: dict[str, Any] | None = predictor(path, subtitle)
        except (MediaError, DataError) as error:  # DataError: its prompt is too long for the model
            failures[path] = str(error)
            row = None
        yield row


def _cut(said: str) -> tuple[str, list[str]]:
    said = said.strip()
    if len(read := limited(said)) == MOST_CHARACTERS < len(said):
        return read, [f"of {len(said)} characters that are said, the first {MOST_CHARACTERS} are read"]
    return read, []


def _seen(path: Path, media: MediaSettings, streams: Streams, faces: Faces) -> tuple[Tensor, Tensor | None, list[str]]:
    """Return the frames that ``data.visual`` asks for, for ``both`` the full frames as well, and notes on faces."""
    full_frames = read_full_frames(path, media, streams) if media.visual != "face" else None
    if full_frames is not None and media.visual != "both":
        return full_frames, None, []
    pictures = read_pictures(path, media, streams)
    detected = face_crops(pictures) if faces == "detect" else [None] * len(pictures)
    crops = [crop for crop in detected if crop is not None]
    notes = []
    if not crops:
        crops = [centre_square(picture) for picture in pictures]
        notes = ["no face found: the middle of each frame replaces it"] if faces == "detect" else []
    elif len(crops) < len(pictures):
        notes = [f"a face in {len(crops)} of {len(pictures)} frames, repeated for the others"]
        crops = [crops[index * len(crops) // len(pictures)] for index in range(len(pictures))]
    return resize_found_faces(crops, media), full_frames, notes
