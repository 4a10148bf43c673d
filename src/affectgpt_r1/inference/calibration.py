"""Confidence that says how often it is right: the fraction of sampled answers, corrected on labelled clips.

Sampled answers agree with each other more often than with people, most of all after GRPO. Two curves, for words and for
clusters, are fitted on clips that were not trained on, and are stored beside the checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import CheckpointError, DataError
from affectgpt_r1.io.files import write_text
from affectgpt_r1.io.untrusted_files import json_lines, read_json
from affectgpt_r1.types import EmotionSet

KINDS = ("labels", "clusters")
NUM_BINS = 10  # of equal width, of the calibration error
Floats: TypeAlias = NDArray[np.float64]


class Judged(NamedTuple):
    """What sampled answers named: in which fraction ``(N,)`` of them, how many there were, and whether it was right."""

    fractions: Floats
    samples: int
    right: Floats


class Curve(NamedTuple):
    """A logistic curve over the log-odds of a fraction (Platt 1999)."""

    slope: float
    offset: float

    def __call__(self, fractions: Floats, samples: int) -> Floats:
        """Return the probabilities ``(N,)`` of being right."""
        return 1 / (1 + np.exp(-self.slope * _log_odds(fractions, samples) - self.offset))


Calibration: TypeAlias = Mapping[str, Curve]  # by KINDS


def apply_calibration(sure: Mapping[str, Any], curves: Calibration | None) -> dict[str, Any]:
    """Return the ``confidence`` of a row: fractions as they are, or as probabilities, and which of both they are."""
    if curves is None:
        return {**sure, "calibrated": False}

    def corrected(kind: str, named: Mapping[str, float]) -> dict[str, float]:
        values = curves[kind](np.array(list(named.values())), sure["samples"]).round(4)
        return dict(zip(named, values.tolist(), strict=True))

    clusters = {wheel: corrected("clusters", named) for wheel, named in sure["clusters"].items()}
    return {**sure, "labels": corrected("labels", sure["labels"]), "clusters": clusters, "calibrated": True}


def judge(rows: Iterable[Mapping[str, Any]], targets: Mapping[str, EmotionSet], lexicon: Lexicon) -> dict[str, Judged]:
    """Compare each row's ``confidence`` with what people answered, by word, and by cluster over all wheels."""
    found: dict[str, list[tuple[float, bool]]] = {kind: [] for kind in KINDS}
    samples = 0
    for row in rows:
        said = [word.strip().lower() for word in targets[row["name"]]]
        samples = row["confidence"]["samples"]
        found["labels"] += [(share, word in said) for word, share in row["confidence"]["labels"].items()]
        for wheel, shares in row["confidence"]["clusters"].items():
            meant = {lexicon.cluster(word, int(wheel.removeprefix("wheel"))) for word in said}
            found["clusters"] += [(share, cluster in meant) for cluster, share in shares.items()]
    if not all(found.values()):
        raise DataError("confidence cannot be compared with labels: no answer names a word that a wheel has")
    columns = {kind: np.array(pairs, np.float64).T for kind, pairs in found.items()}
    return {kind: Judged(fractions, samples, right) for kind, (fractions, right) in columns.items()}


def fit_curve(judged: Judged) -> Curve:
    """Fit a curve by Newton's method, to targets that are drawn in by one clip each way, as Platt does."""
    right = float(judged.right.sum())
    wanted = np.where(judged.right > 0, (right + 1) / (right + 2), 1 / (len(judged.right) - right + 2))
    inputs = np.stack([_log_odds(judged.fractions, judged.samples), np.ones_like(wanted)], axis=1)
    weights = np.zeros(2)
    for _ in range(50):
        found = 1 / (1 + np.exp(-inputs @ weights))
        curvature = (inputs * (found * (1 - found))[:, None]).T @ inputs
        weights = weights + np.linalg.lstsq(curvature, inputs.T @ (wanted - found), rcond=None)[0]
    return Curve(*weights.round(6).tolist())


def calibration_error(probabilities: Floats, right: Floats) -> float:
    """Return the expected calibration error over :data:`NUM_BINS` bins.

    >>> round(calibration_error(np.array([0.9, 0.9, 0.1]), np.array([1.0, 0.0, 0.0])), 3)
    0.3
    """
    bins = np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)
    return float(np.abs(np.bincount(bins, probabilities - right)).sum() / len(right))


def calibration_file(checkpoint: Path) -> Path:
    """Return where the curves of a checkpoint, or of an exported folder, are."""
    if checkpoint.is_dir():
        return checkpoint / "calibration.json"
    return checkpoint.with_name(f"{checkpoint.stem}.calibration.json")


def read_calibration(policy: Mapping[str, Any]) -> tuple[Calibration | None, str]:
    """Read the curves of a policy, and say why there are none where a file has another policy's.

    Args:
        policy: ``checkpoint``, ``digest`` and ``lexicon``, as in a row.
    """
    path = calibration_file(Path(policy["checkpoint"]))
    if not path.exists():
        return None, ""
    try:
        stored = read_json(path)
        for key in ("digest", "lexicon"):
            if stored[key] != policy[key]:
                return None, f"{path} is of another {key}: confidence is not calibrated; predict --calibrate fits again"
        curves = {kind: Curve(float(stored[kind]["slope"]), float(stored[kind]["offset"])) for kind in KINDS}
        if not all(math.isfinite(number) for curve in curves.values() for number in curve):
            raise ValueError("a number is not finite")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error!r}); delete it, or fit it again") from error
    return curves, ""


def compare_with_labels(
    answers: Path,
    targets: Mapping[str, EmotionSet],
    lexicon: Lexicon,
    policy: Mapping[str, Any],
    *,
    fit: bool,
    say: Callable[[str], None],
) -> None:
    """Say the calibration error of answered clips, and with ``fit`` store the curves that correct it.

    Args:
        answers: JSON lines of ``predict``, with ``confidence``.
        targets: What people answered, by clip.
        lexicon: Names the clusters.
        policy: ``checkpoint``, ``digest`` and ``lexicon``, as in a row.
        fit: ``answers`` are not calibrated, and are to be fitted.
        say: Prints a line.
    """
    rows = [row for _, row in json_lines(answers)]
    judged = judge(rows, targets, lexicon)
    errors = {kind: calibration_error(found.fractions, found.right) for kind, found in judged.items()}
    say(f"expected calibration error: words {errors['labels']:.3f}, clusters {errors['clusters']:.3f}")
    if not fit:
        return
    path = calibration_file(Path(policy["checkpoint"]))
    curves = {kind: fit_curve(found)._asdict() for kind, found in judged.items()}
    stored = {key: policy[key] for key in ("digest", "lexicon")}
    write_text(path, json.dumps({**stored, "clips": len(rows), **curves}, indent=2) + "\n")
    say(f"{path}: fitted to {len(rows)} clips; predict uses it from now on")


def _log_odds(fractions: Floats, samples: int) -> Floats:
    drawn_in = (fractions * samples + 0.5) / (samples + 1)  # neither 0 nor 1
    return np.log(drawn_in / (1 - drawn_in))
