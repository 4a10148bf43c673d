"""A scored file as one HTML page: the five wheels with hits and misses, and the worst clips. Works without Jinja."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.wheels import NUM_WHEELS
from affectgpt_r1.io.clean_text import counted, printable
from affectgpt_r1.io.files import write_text

NUM_WORST = 20
_INNER, _OUTER = 14.0, 42.0


def write_score_page(
    path: Path, report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], lexicon: Lexicon, level: int, title: str
) -> None:
    """Write the page.

    Args:
        path: The ``.html`` file.
        report: Of :func:`~affectgpt_r1.evaluation.score_files.score_files`.
        rows: Of :func:`~affectgpt_r1.evaluation.score_comparison.clip_rows`.
        lexicon: That scored them.
        level: Ring of the wheels.
        title: What was scored.

    Raises:
        WriteError: The file cannot be written.
    """
    parts = [*_head(report, level, title), *_wheels(rows, lexicon, level), *_worst(rows, lexicon, level)]
    write_text(path, "\n".join([*parts, "</body></html>", ""]), elsewhere="choose another --html")


def _head(report: Mapping[str, Any], level: int, title: str) -> Iterator[str]:
    scores = report["scores"][f"mean_level{level}"]
    bounds = report["intervals"].get(f"mean_level{level}", {}).get("f1")
    interval = " 95 % interval {:.2f} to {:.2f}".format(*(100 * bound for bound in bounds)) if bounds else ""
    clips = counted(report["samples"], "clip", "clips")
    style = (resources.files("affectgpt_r1.report") / "templates" / "score.css").read_text(encoding="utf-8")
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(title)}</title><style>{style}</style></head><body>"
        f"<h1>{_text(title)}</h1>"
    )
    yield f'<p><span class="figure">F1 {_points(scores["f1"])}</span>{interval}, '
    yield f"precision {_points(scores['precision'])}, recall {_points(scores['recall'])}; "
    yield f"mean over five wheels, level {level}; {clips}, {_text(report['lexicon'])} lexicon.</p>"
    for kind, baseline in report["baselines"].items():
        words = _text(", ".join(baseline["words"]))
        value = _points(baseline["scores"][f"mean_level{level}"]["f1"])
        yield f'<p class="faint">Always “{words}” ({_text(kind)}): F1 {value}.</p>'
    if report["notes"]:
        yield f"<ul class='faint'>{''.join(f'<li>{_text(note)}</li>' for note in report['notes'])}</ul>"


def _wheels(rows: Sequence[Mapping[str, Any]], lexicon: Lexicon, level: int) -> Iterator[str]:
    """Yield a figure for each wheel: a sector is filled as far as its targets were hit."""
    yield '<h2>The five wheels</h2><p class="faint">A sector is filled as far as its targets were '
    yield '<b class="hit">hit</b>, <b class="miss">missed</b>; '
    yield "the dotted rim is as wide as the share of answers that named it "
    yield '<b class="extra">without a target</b>. Point at a sector for its numbers.</p><div class="wheels">'
    for wheel in range(1, NUM_WHEELS + 1):
        hits, misses, extra = (Counter[str]() for _ in range(3))
        for row in rows:
            named, wanted = (_clusters(row[side], lexicon, wheel, level) for side in ("predicted", "target"))
            if wanted:  # as in the score: without a target on this wheel the clip does not count there
                hits.update(named & wanted)
                misses.update(wanted - named)
                extra.update(named - wanted)
        names = lexicon.clusters(wheel, level)
        yield f'<figure><svg viewBox="-94 -58 188 116" role="img" aria-label="wheel {wheel}">'
        for index, name in enumerate(names):
            targets = hits[name] + misses[name]
            said = f"{name}: {hits[name]} of {targets} hit, {extra[name]} without a target"
            yield f"<g><title>{_text(said)}</title>{_bar(index, len(names), hits[name], misses[name], extra[name])}"
            if len(names) <= 12 and (targets or extra[name]):
                yield _label(index, len(names), f"{name} {hits[name]}/{targets}")
            yield "</g>"
        total = hits.total() + misses.total()
        caption = f"Wheel {wheel}: {hits.total()} of {total} targets hit, {extra.total()} named without."
        yield f"</svg><figcaption>{caption}</figcaption></figure>"
    yield "</div>"


def _bar(index: int, number: int, hits: int, misses: int, extra: int) -> str:
    """Return a sector's paths, from the centre: what was hit, what was missed, and the rim of what has no target."""
    share = hits / max(1, hits + misses)
    edge = _INNER + (_OUTER - _INNER) * share
    parts = [_path(index, number, _INNER, _OUTER, "miss" if misses else "sector")]
    if hits:
        parts.append(_path(index, number, _INNER, edge, "hit"))
    if extra:
        width = 9 * extra / (hits + misses + extra)
        parts.append(_path(index, number, _OUTER + 1.2, _OUTER + 1.2 + max(1.5, width), "extra"))
    return "".join(parts)


def _path(index: int, number: int, low: float, high: float, kind: str) -> str:
    step = 2 * math.pi / number
    gap = min(0.03, step / 16)
    start, end = index * step - math.pi / 2 + gap, (index + 1) * step - math.pi / 2 - gap
    large = int(end - start > math.pi)
    points = [(r * math.cos(a), r * math.sin(a)) for r, a in ((high, start), (high, end), (low, end), (low, start))]
    (a, b), (c, d), (e, f), (g, h) = points
    return (
        f'<path class="{kind}" d="M{a:.2f} {b:.2f}A{high:.2f} {high:.2f} 0 {large} 1 {c:.2f} {d:.2f}'
        f'L{e:.2f} {f:.2f}A{low:.2f} {low:.2f} 0 {large} 0 {g:.2f} {h:.2f}Z"/>'
    )


def _label(index: int, number: int, text: str) -> str:
    angle = (index + 0.5) * 2 * math.pi / number - math.pi / 2
    x, y = 53 * math.cos(angle), 53 * math.sin(angle)
    anchor = "middle" if abs(x) < 12 else "start" if x > 0 else "end"
    return f'<text x="{x:.1f}" y="{y + 1.6:.1f}" text-anchor="{anchor}">{_text(text)}</text>'


def _worst(rows: Sequence[Mapping[str, Any]], lexicon: Lexicon, level: int) -> Iterator[str]:
    scored = sorted((row for row in rows if row["f1"] is not None), key=lambda row: row["f1"])
    yield f"<h2>Worst clips ({min(NUM_WORST, len(scored))} of {len(scored)})</h2>"
    yield '<p class="faint">Words: <b class="hit">hit</b> on a wheel, <b class="miss">missed</b>, '
    yield '<b class="extra">beyond the target</b>, <b class="unmapped">on no wheel</b>.</p>'
    for row in scored[:NUM_WORST]:
        wheels = "".join(_small_wheel(row, lexicon, wheel, level) for wheel in range(1, NUM_WHEELS + 1))
        target, predicted = row["target"], row["predicted"]
        yield f'<article class="clip"><h3><bdi>{_text(row["name"])}</bdi>, F1 {_points(row["f1"])}</h3>'
        yield f"<p>target: {_words(target, predicted, lexicon, level, 'miss')}</p>"
        yield f"<p>answer: {_words(predicted, target, lexicon, level, 'extra')}</p>"
        yield f'<div class="small">{wheels}</div></article>'


def _small_wheel(row: Mapping[str, Any], lexicon: Lexicon, wheel: int, level: int) -> str:
    named, wanted = (_clusters(row[side], lexicon, wheel, level) for side in ("predicted", "target"))
    names = lexicon.clusters(wheel, level)
    kinds = [
        "hit" if name in named & wanted else "miss" if name in wanted else "extra" if name in named else "sector"
        for name in names
    ]
    paths = "".join(_path(index, len(names), _INNER, _OUTER, kind) for index, kind in enumerate(kinds))
    shown = ", ".join(f"{name}: {kind}" for name, kind in zip(names, kinds, strict=True) if kind != "sector")
    title = _text(f"wheel {wheel}: {shown or 'nothing'}")
    return f'<svg viewBox="-44 -44 88 88" role="img" aria-label="{title}"><title>{title}</title>{paths}</svg>'


def _words(words: Sequence[str], others: Sequence[str], lexicon: Lexicon, level: int, kind: str) -> str:
    spans = []
    for word in words:
        shared = any(
            _clusters([word], lexicon, wheel, level) & _clusters(others, lexicon, wheel, level)
            for wheel in range(1, NUM_WHEELS + 1)
        )
        style = "hit" if shared else kind if word in lexicon else "unmapped"
        spans.append(f'<b class="{style}"><bdi>{_text(word)}</bdi></b>')
    return ", ".join(spans) or "<span class='faint'>nothing</span>"


def _clusters(words: Sequence[str], lexicon: Lexicon, wheel: int, level: int) -> set[str]:
    return {cluster for word in words if (cluster := lexicon.cluster(word, wheel, level)) is not None}


def _points(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.2f}"


def _text(text: str) -> str:
    return escape(printable(text))
