"""Label a video file that nobody prepared, and measure what each modality contributed."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from affectgpt_r1.data.collate import batch_to_device, collate
from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.emotion.extraction import extract_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.wheels import NUM_WHEELS
from affectgpt_r1.errors import DataError, MediaError
from affectgpt_r1.inference.calibration import Calibration, apply_calibration
from affectgpt_r1.inference.read_file import Faces, ReadOptions, Said, read_clips
from affectgpt_r1.metrics.functional.polarity import SIGNS, load_polarity
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.training.completions import parse_rollout
from affectgpt_r1.types import Clip, ClipBatch, Completion, EmotionSet, Rollout, Sampling, TokenBatch

NOBODY = "not answered: neither a face nor a voice is found"


@dataclass(frozen=True)
class Predictor:
    """Answers clips one at a time, so that memory does not grow with their number.

    Attributes:
        policy: The trained policy.
        media: How its clips are read.
        sampling: How answers are decoded.
        lexicon: Names the clusters of the answered words.
        faces: See :class:`~.read_file.ReadOptions`.
        contributions: Answer again without each modality.
        num_samples: Sampled answers that tell how sure the policy is; 0 asks for none.
        options: How files are read; its ``faces`` is replaced.
        require_person: A file, or a part of it, without face and voice gets a row that is not answered.
        provenance: What each row says of the policy, above all else.
        calibration: Turns the fractions of sampled answers into probabilities; None leaves them.
    """

    policy: MultimodalPolicy
    media: MediaSettings
    sampling: Sampling
    lexicon: Lexicon
    faces: Faces = "detect"
    contributions: bool = True
    num_samples: int = 0
    options: ReadOptions = field(default_factory=ReadOptions)
    require_person: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None

    def __call__(self, path: Path, subtitle: str | Said | None = None) -> dict[str, Any]:
        """Return the first of :meth:`rows`, the only one unless ``options`` asks for parts or for each person."""
        return next(self.rows(path, subtitle))

    def rows(self, path: Path, subtitle: str | Said | None = None) -> Iterator[dict[str, Any]]:
        """Answer one file.

        Args:
            path: Any file that FFmpeg reads.
            subtitle: What is said in it, ``""`` leaves the text modality out; None reads the file's subtitle track.

        Yields:
            A row of plain values: ``name`` and ``openset``, as ``affectgpt-r1 score`` reads them, ``file``, ``labels``
            (each once), ``reasoning``, ``answer``, ``completion``, ``well_formed``, ``clusters`` (by wheel),
            ``unmapped``, ``polarity``, ``confidence``, ``modalities``, ``notes``, ``contributions``, ``evidence``,
            ``seconds``, and of :class:`~.read_file.Reading` the ``facts``.

        Raises:
            MediaError: The file cannot be read, or holds nothing that the policy was trained on.
        """
        options = dataclasses.replace(self.options, faces=self.faces)
        started = time.perf_counter()
        for reading in read_clips(path, subtitle, self.media, options):
            facts = dict(reading.facts)
            if self.require_person and not reading.has_person:
                row = {"answered": False, "labels": [], "openset": [], "notes": [*reading.notes, NOBODY]}
                row = {**self.provenance, "file": str(path), "name": path.stem, **facts, **row}
            else:
                row = self.label(path, reading.clip, reading.notes, started)
                row = {**row, **facts, "evidence": reading.evidence}
            parts = [f"#{facts['person']}"] if options.person == "each" and "person" in facts else []
            parts += [f"@{facts['start']:g}"] if "start" in facts else []
            yield row | {"name": path.stem + "".join(parts)}
            started = time.perf_counter()

    def label(self, path: Path, clip: Clip, notes: list[str], started: float) -> dict[str, Any]:
        """Answer a clip that was read from ``path``; ``started`` is when that began, by ``time.perf_counter``."""
        answer, contributions = self._answer(clip)
        if not answer["labels"]:
            answer["labels"] = list(extract_labels(answer["completion"], self.lexicon).labels)
            notes.append("the answer names no emotion: the labels are the emotion words found in the whole completion")
        said = answer["labels"]
        return {
            **self.provenance,
            "file": str(path),
            "name": path.stem,
            **answer,
            "labels": list(dict.fromkeys(said)),
            "openset": said,
            **self._meaning(said),
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
    def sampled_fractions(self, batch: ClipBatch) -> list[dict[str, Any]]:
        """Return the ``confidence`` of each clip of an embedded batch: :func:`answer_fractions`, calibrated."""
        sampling = dataclasses.replace(self.sampling, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, seed=0)
        rollout = self.policy.generate(batch, self.num_samples, sampling)
        kind = self.policy.template.kind
        parsed = parse_rollout(rollout, batch.names, enable_thinking=self.policy.enable_thinking, kind=kind)
        answers = [completion.labels for completion in parsed]
        starts = range(0, len(answers), self.num_samples)
        counted = (answer_fractions(answers[start : start + self.num_samples], self.lexicon) for start in starts)
        return [apply_calibration(fractions, self.calibration) for fractions in counted]

    @torch.no_grad()
    def _answer(self, clip: Clip) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the answer, and by modality what leaving it out changes."""
        batch = self.policy.with_features(batch_to_device(collate([clip]), self.policy.device))
        rollout = self.policy.generate(batch, 1, self.sampling)
        completion = self._parsed(rollout, batch)
        answer: dict[str, Any] = {
            "labels": list(completion.labels),
            "reasoning": completion.reasoning,
            "answer": completion.answer,
            "completion": completion.text,
            "well_formed": completion.well_formed,
        }
        if self.num_samples:
            answer["confidence"] = self.sampled_fractions(batch)[0]
        if not self.contributions or len(clip.modalities) == 1:
            return answer, {}
        full = self._log_probability(batch, rollout.completions)
        contributions: dict[str, Any] = {}
        for modality in clip.modalities:
            kept = tuple(kind for kind in clip.modalities if kind != modality)
            without = dataclasses.replace(batch, modalities=(kept,))
            labels = self._parsed(self.policy.generate(without, 1, self.sampling), batch).labels
            drop = full - self._log_probability(without, rollout.completions)
            contributions[modality] = {
                "log_probability": round(drop, 4),
                "per_token": round(drop / completion.num_tokens, 4),
                "labels_without": list(dict.fromkeys(labels)),
            }
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


def predict_files(
    predictor: Predictor, subtitles: Mapping[Path, str | Said | None], failures: dict[Path, str]
) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of each file as they are answered, and None at the end of each file.

    Args:
        predictor: Answers a file.
        subtitles: What is said, by file; None where the file itself may say it.
        failures: Receives the reason for every file that could not be read.
    """
    for path, subtitle in subtitles.items():
        try:
            yield from predictor.rows(path, subtitle)
        except (MediaError, DataError) as error:  # DataError: its prompt is too long for the model
            failures[path] = str(error)
        yield None


def answer_fractions(answers: Sequence[EmotionSet], lexicon: Lexicon) -> dict[str, Any]:
    """Return in which fraction of answers each word, and each cluster of each wheel, is named; the surest first."""

    def fractions(named: Iterable[Iterable[str | None]]) -> dict[str, float]:
        counts = Counter(name for names in named for name in set(names) if name is not None)
        ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
        return {name: round(count / len(answers), 4) for name, count in ordered}

    words = [[label.strip().lower() for label in answer] for answer in answers]
    clusters = {
        f"wheel{wheel}": fractions([lexicon.cluster(word, wheel) for word in answer] for answer in words)
        for wheel in range(1, NUM_WHEELS + 1)
    }
    return {"samples": len(answers), "labels": fractions(words), "clusters": clusters}
