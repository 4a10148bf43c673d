"""Draw the README's picture: what a policy saw, heard and read of a clip, its answer, and the wheel that scores it.

``python tests/tools/clip_picture.py`` reads what ``affectgpt-r1 evaluate`` and ``render`` wrote. It draws an
average answer, not the best one, on which one of the five wheels disagrees with the other four.
"""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
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
INK, PALE, HIT, EXTRA, ABSENT = "#1f2328", "#d0d7de", "#14598f", "#b4541a", "#6e7781"
_WHEELS = 5
_LARGE, _SMALL = 17, 13  # points at a width of 7.2 inches; a telephone shows the picture half as wide


def choose_answer(answers: Sequence[dict[str, Any]], lexicon: Lexicon) -> tuple[dict[str, Any], int]:
    """Choose an answer that shows why the score is the mean of five wheels, and the wheel to draw.

    Four wheels give it one F1 and the fifth another, and that one, which is drawn, has a hit, a miss and a sector too
    many. Of such answers, without repeated words, the one whose ``f1`` is nearest to the mean of all; without any, the
    answer nearest to the mean, on the first wheel.

    Raises:
        ConfigError: No answer has a score.
    """
    scored = [answer for answer in answers if answer["f1"] is not None]
    if not scored:
        raise ConfigError("none of the answers has a score: take the file of another evaluation")
    mean = fmean(answer["f1"] for answer in scored)
    scored.sort(key=lambda answer: abs(answer["f1"] - mean))
    for answer in scored:
        scores = list(wheel_scores(answer, lexicon).values())
        odd = [place for place, score in enumerate(scores, start=1) if scores.count(score) == 1]
        disagrees = len(odd) == 1 and len(set(scores)) == 2
        is_plain = len(set(answer["openset"])) == len(answer["openset"])
        if disagrees and is_plain and all(overlap(answer["openset"], answer["target"], lexicon, odd[0])):
            return answer, odd[0]
    return scored[0], WHEEL


def wheel_scores(answer: Mapping[str, Any], lexicon: Lexicon) -> dict[int, float | None]:
    """Return an answer's set F1 by wheel; None on a wheel that has none of the target's words."""
    scores: dict[int, float | None] = {}
    for place in range(1, _WHEELS + 1):
        hits, misses, extra = map(len, overlap(answer["openset"], answer["target"], lexicon, place))
        scores[place] = 2 * hits / (2 * hits + misses + extra) if hits + misses else None
    return scores


def draw_clip(answer: dict[str, Any], data: Path, lexicon: Lexicon, place: int = WHEEL) -> Figure:
    """Draw one answer.

    Args:
        answer: A line of ``predictions/<system>.jsonl``: ``name``, ``openset``, ``target`` and ``f1``.
        data: The data folder that holds the clip.
        lexicon: Brings words to sectors.
        place: The wheel that is drawn.
    """
    name = answer["name"]
    figure = Figure(figsize=(7.2, 6.9), dpi=160, facecolor="white")
    for index, frame in enumerate(read_frames(video_file(data, name), NUM_FRAMES)):
        axes = _area(figure, (0.03 + 0.32 * index, 0.655, 0.30, 0.315))
        axes.imshow(frame)
    _draw_waveform(_area(figure, (0.03, 0.55, 0.94, 0.085)), read_waveform(audio_file(data, name))[0])
    subtitle = textwrap.fill(read_columns(data / "subtitle_chieng.csv", "english")[name], 50) or "nothing is said"
    figure.text(0.5, 0.53, f"“{subtitle}”", size=_LARGE, color=INK, style="italic", ha="center", va="top")
    _draw_words(figure, answer, lexicon, place)
    _draw_wheel(_area(figure, (0.40, -0.03, 0.60, 0.53)), answer, lexicon, place)
    return figure


def _area(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    axes = figure.add_axes(place)
    axes.axis("off")
    return axes


def _draw_waveform(axes: Axes, waveform: np.ndarray) -> None:
    pieces = np.array_split(waveform, 400)
    axes.fill_between(range(400), [piece.min() for piece in pieces], [piece.max() for piece in pieces], color=HIT)
    axes.margins(x=0)


def _draw_words(figure: Figure, answer: dict[str, Any], lexicon: Lexicon, place: int) -> None:
    """List answer and target; a word of the answer has the colour of its sector."""
    hits = overlap(answer["openset"], answer["target"], lexicon, place).hits
    lines: list[tuple[str, str, int, str]] = [("The policy’s answer", INK, _SMALL, "normal")]
    for word in answer["openset"]:
        cluster = lexicon.cluster(word, place)
        lines.append((word, ABSENT if cluster is None else HIT if cluster in hits else EXTRA, _LARGE, "bold"))
    lines.append(("Exact labels (synthetic clip)", INK, _SMALL, "normal"))
    lines.extend((word, INK, _LARGE, "bold") for word in answer["target"])
    lines.append((f"F1 {100 * answer['f1']:.0f}, mean of five wheels:", INK, _SMALL, "normal"))
    scores = wheel_scores(answer, lexicon).values()
    lines.append((", ".join("–" if score is None else f"{100 * score:.0f}" for score in scores), INK, _SMALL, "bold"))
    y = 0.43
    for text, colour, size, weight in lines:
        y -= 0.015 if size == _SMALL and y < 0.43 and weight == "normal" else 0.0
        figure.text(0.04, y, text, color=colour, size=size, weight=weight, va="top")
        y -= 0.040 if size == _SMALL else 0.044


def _draw_wheel(axes: Axes, answer: dict[str, Any], lexicon: Lexicon, place: int) -> None:
    """Draw the wheel's sectors clockwise from the top: in both filled, in one of the two outlined."""
    clusters = overlap(answer["openset"], answer["target"], lexicon, place)
    names = lexicon.clusters(place)
    step = 360 / len(names)
    axes.text(0, 0, f"wheel {place}", color=INK, size=_SMALL, ha="center", va="center")
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
    lexicon = load_bundled()
    answer, place = choose_answer(answers, lexicon)
    figure = draw_clip(answer, options.data, lexicon, place)
    with clear_write_errors(options.output), replacing(options.output) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    print(options.output)


if __name__ == "__main__":
    main()
