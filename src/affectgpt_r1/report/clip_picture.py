"""Draw the README's picture: what a policy saw, heard and read of a clip, its answer, and the wheel that scores it.

``python -m affectgpt_r1.report.clip_picture`` reads what ``affectgpt-r1 evaluate`` and ``render`` wrote. It draws the
clip whose score is nearest to the mean of all clips: an average answer, not the best one.
"""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Wedge

from affectgpt_r1.data.layouts.manifest import read_columns
from affectgpt_r1.data.layouts.mer import audio_file, video_file
from affectgpt_r1.data.media.audio import read_waveform
from affectgpt_r1.data.media.video import read_frames
from affectgpt_r1.emotion.bundled import load_bundled
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.files import clear_write_errors, replacing
from affectgpt_r1.report.wheel_drawing import WHEEL, overlap

NUM_FRAMES = 3
INK, PALE, HIT, EXTRA = "#1f2328", "#d0d7de", "#14598f", "#b4541a"
_LARGE, _SMALL = 17, 13  # points at a width of 7.2 inches; a telephone shows the picture half as wide


def average_answer(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the answer whose ``f1`` is nearest to the mean; clips without a score are left out.

    >>> average_answer([{"f1": 0.0}, {"f1": 1.0}, {"f1": None}, {"f1": 0.4}])
    {'f1': 0.4}

    Raises:
        ConfigError: No answer has a score.
    """
    scored = [answer for answer in answers if answer["f1"] is not None]
    if not scored:
        raise ConfigError("none of the answers has a score: take the file of another evaluation")
    mean = fmean(answer["f1"] for answer in scored)
    return min(scored, key=lambda answer: abs(answer["f1"] - mean))


def draw_clip(answer: dict[str, Any], data: Path, lexicon: Lexicon) -> Figure:
    """Draw one answer.

    Args:
        answer: A line of ``predictions/<system>.jsonl``: ``name``, ``openset``, ``target`` and ``f1``.
        data: The data folder that holds the clip.
        lexicon: Its first wheel is drawn.
    """
    name = answer["name"]
    figure = Figure(figsize=(7.2, 6.9), dpi=160, facecolor="white")
    for index, frame in enumerate(read_frames(video_file(data, name), NUM_FRAMES)):
        axes = _area(figure, (0.03 + 0.32 * index, 0.655, 0.30, 0.315))
        axes.imshow(frame)
    _draw_waveform(_area(figure, (0.03, 0.55, 0.94, 0.085)), read_waveform(audio_file(data, name))[0])
    subtitle = textwrap.fill(read_columns(data / "subtitle_chieng.csv", "english")[name], 50) or "nothing is said"
    figure.text(0.5, 0.53, f"“{subtitle}”", size=_LARGE, color=INK, style="italic", ha="center", va="top")
    _draw_words(figure, answer, lexicon)
    _draw_wheel(_area(figure, (0.40, -0.03, 0.60, 0.53)), answer, lexicon)
    return figure


def _area(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    axes = figure.add_axes(place)
    axes.axis("off")
    return axes


def _draw_waveform(axes: Axes, waveform: np.ndarray) -> None:
    pieces = np.array_split(waveform, 400)
    axes.fill_between(range(400), [piece.min() for piece in pieces], [piece.max() for piece in pieces], color=HIT)
    axes.margins(x=0)


def _draw_words(figure: Figure, answer: dict[str, Any], lexicon: Lexicon) -> None:
    """List answer and target; a word of the answer has the colour of its sector."""
    hits = overlap(answer["openset"], answer["target"], lexicon).hits
    lines: list[tuple[str, str, int, str]] = [("The policy’s answer", INK, _SMALL, "normal")]
    for word in answer["openset"]:
        is_hit = lexicon.cluster(word, WHEEL) in hits
        lines.append((word, HIT if is_hit else EXTRA, _LARGE, "bold"))
    lines.append(("Exact labels (synthetic clip)", INK, _SMALL, "normal"))
    lines.extend((word, INK, _LARGE, "bold") for word in answer["target"])
    lines.append((f"F1 {100 * answer['f1']:.0f}, mean of five wheels", INK, _SMALL, "normal"))
    y = 0.43
    for text, colour, size, weight in lines:
        y -= 0.02 if size == _SMALL and y < 0.43 else 0.0
        figure.text(0.04, y, text, color=colour, size=size, weight=weight, va="top")
        y -= 0.042 if size == _SMALL else 0.046


def _draw_wheel(axes: Axes, answer: dict[str, Any], lexicon: Lexicon) -> None:
    """Draw the wheel's sectors clockwise from the top: in both filled, in one of the two outlined."""
    clusters = overlap(answer["openset"], answer["target"], lexicon)
    names = lexicon.clusters(WHEEL)
    step = 360 / len(names)
    for index, name in enumerate(names):
        start = 90 - (index + 1) * step
        is_hit, is_miss, is_extra = (name in part for part in clusters)
        edge = HIT if is_hit or is_miss else EXTRA if is_extra else PALE
        sector = Wedge((0, 0), 1, start + 1, start + step - 1, width=0.55, facecolor=HIT if is_hit else "white")
        sector.set(edgecolor=edge, linewidth=3 if is_miss or is_extra else 1, linestyle=":" if is_extra else "-")
        axes.add_patch(sector)
        if is_hit or is_miss or is_extra:
            angle = math.radians(start + step / 2)
            kind = "hit" if is_hit else "missed" if is_miss else "extra"
            x, y = 1.08 * math.cos(angle), 1.08 * math.sin(angle)
            side = "center" if abs(x) < 0.3 else "left" if x > 0 else "right"
            level = "center" if abs(y) < 0.7 else "bottom" if y > 0 else "top"
            axes.text(x, y, f"{name}:\n{kind}", color=edge, size=_SMALL, ha=side, va=level, weight="bold")
    axes.set(xlim=(-1.95, 1.95), ylim=(-1.75, 1.75), aspect="equal")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture of one evaluation's answers."""
    parser = argparse.ArgumentParser(description="Draw the README's picture of an average answer.")
    parser.add_argument("--answers", type=Path, default=Path("outputs/demo-no_think-seed1/predictions/grpo.jsonl"))
    parser.add_argument("--data", type=Path, default=Path("data/synthetic"))
    parser.add_argument("--output", type=Path, default=Path("docs/clip.png"))
    options = parser.parse_args(arguments)
    answers = [json.loads(line) for line in options.answers.read_text("utf-8").splitlines()]
    figure = draw_clip(average_answer(answers), options.data, load_bundled())
    with clear_write_errors(options.output), replacing(options.output) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    print(options.output)


if __name__ == "__main__":
    main()
