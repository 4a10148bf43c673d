"""The parts of the page that are HTML: Jinja escapes whatever comes from a file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from affectgpt_r1.emotion.wheels import NUM_WHEELS, Lexicon
from affectgpt_r1.inference.app.answer_files import AnswerTable
from affectgpt_r1.inference.app.judging import Pair
from affectgpt_r1.inference.app.trial import Sound, Trial
from affectgpt_r1.io.clean_text import printable
from affectgpt_r1.report.wheel_drawing import WHEEL, Overlap, clusters_of, overlap, wheel
from affectgpt_r1.types import Visual

_SEEN: Mapping[Visual, str] = {
    "face": "the face in each frame",
    "frame": "full frames",
    "both": "the face in each frame, and the full frames",
    "image": "one still",
}
_LONGEST_EDGE = 320
_MOST_CHIPS = 40
_MOST_SURE = 8  # words


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("affectgpt_r1.inference.app"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.finalize = lambda value: printable(value) if type(value) is str else value
    return environment


_FRAGMENTS: Any = _environment().get_template("fragments.html.j2").module


def quoted(subtitle: str) -> str:
    """Return what is said."""
    return str(_FRAGMENTS.quoted(subtitle))


def fault(text: object) -> str:
    """Return an error that a person can do something about."""
    return str(_FRAGMENTS.fault(str(text)))


def trial(policy: str, tried: Trial, lexicon: Lexicon, visual: Visual, device: str) -> str:
    """Return a policy's answer to a file, with what it saw, heard and read."""
    row = tried.row
    named = clusters_of(row["labels"], lexicon)
    others = [
        f"wheel {number}: {', '.join(row['clusters'][f'wheel{number}']) or 'none'}"
        for number in range(1, NUM_WHEELS + 1)
        if number != WHEEL
    ]
    drops = {kind: part["log_probability"] for kind, part in row["contributions"].items()}
    largest = max((abs(drop) for drop in drops.values()), default=0.0) or 1.0
    return str(
        _FRAGMENTS.trial({
            "policy": policy,
            "row": row,
            "words": chips(row["labels"], lexicon, {}),
            "wheel": coloured(wheel(Overlap(tuple(sorted(named)), (), ()), lexicon, tuple(row["labels"]))),
            "lexicon": lexicon.name,
            "clusters": "; ".join(others),
            "device": device,
            "contributions": [
                {
                    "modality": kind,
                    "drop": drop,
                    "width": round(100 * abs(drop) / largest),
                    "labels": row["contributions"][kind]["labels_without"],
                }
                for kind, drop in drops.items()
            ],
            "seen": [_jpeg(picture) for picture in tried.seen],
            "seen_kind": _SEEN[visual],
            "pictures": [_jpeg(picture) for picture in tried.pictures] if visual != "frame" else [],
            "sound": _drawn(tried.sound),
            "sure": _sure(row["confidence"], row["labels"]) if row.get("confidence") else None,
            "alternatives": tried.alternatives,
            "number": sum(times for _, times, _ in tried.alternatives),
        })
    )  # fmt: skip


def clip(table: AnswerTable, name: str, subtitle: str, first: Sequence[str] = ()) -> str:
    """Return all answers to a clip next to its target; the systems in ``first`` come first."""
    target, lexicon = table.targets[name], table.lexicon
    answers = table.of_clip(name)
    order = [*(system for system in first if system in answers), *(name for name in answers if name not in first)]
    shown = []
    for system in dict.fromkeys(order):
        answer = answers[system]
        clusters = overlap(answer.labels, target, lexicon)
        kinds = {part: kind for kind, parts in zip(("hit", "extra"), clusters[::2], strict=True) for part in parts}
        shown.append({
            "system": system,
            "f1": answer.f1,
            "words": chips(answer.labels, lexicon, kinds),
            "wheel": coloured(wheel(clusters, lexicon, answer.labels)),
            "completion": answer.completion,
        })  # fmt: skip
    return str(
        _FRAGMENTS.clip({"name": name, "subtitle": subtitle, "target": chips(target, lexicon, {}), "answers": shown})
    )


def two(table: AnswerTable, pair: Pair) -> str:
    """Return two answers without the names of their systems, in their order."""
    answers = []
    for side, system in (("First answer", pair.first), ("Second answer", pair.second)):
        answer = table.answers[system][pair.clip]
        # The words stand in the completion, too: it is shown where it says more, as reasoning does.
        says_more = len(answer.completion) > len(", ".join(answer.labels)) + len("<answer>  </answer>") + 4
        answers.append({
            "side": side,
            "words": chips(answer.labels, table.lexicon, {}, clusters=False),
            "text": answer.completion if says_more else "",
        })  # fmt: skip
    return str(_FRAGMENTS.two({"answers": answers}))


def standing(judged: Mapping[str, Any]) -> str:
    """Return ranking and agreement, see :func:`~.judging.judged_so_far`."""
    return str(_FRAGMENTS.standing(judged))


def chips(
    words: Iterable[str], lexicon: Lexicon, kinds: Mapping[str, str], *, clusters: bool = True
) -> list[dict[str, Any]]:
    """Return words with their cluster on the drawn wheel and its colour; ``kinds`` is by cluster."""
    names = lexicon.clusters(WHEEL)
    shown = []
    for word in list(words)[:_MOST_CHIPS]:
        cluster = lexicon.cluster(word, WHEEL)
        hue = None if cluster is None or not clusters else _hue(names.index(cluster), len(names))
        kind = kinds.get(cluster or "", "") if cluster or not clusters else "unknown"
        label = (cluster or "on no wheel" if word not in lexicon else cluster or "on other wheels") if clusters else ""
        shown.append({"text": word, "cluster": label, "hue": hue, "kind": kind})
    return shown


def coloured(drawing: dict[str, Any]) -> dict[str, Any]:
    """Add a hue to each sector of :func:`~affectgpt_r1.report.wheel_drawing.wheel`."""
    sectors = drawing["sectors"]
    for index, sector in enumerate(sectors):
        sector["hue"] = _hue(index, len(sectors))
    return drawing


def _sure(confidence: Mapping[str, Any], answered: Iterable[str]) -> dict[str, Any]:
    """Return how sure the policy is of words, those of its answer first, and of sectors of the drawn wheel."""
    named = confidence["labels"]
    own = list(dict.fromkeys(word.strip().lower() for word in answered))[:_MOST_SURE]
    others = [word for word in named if word not in own][: max(0, _MOST_SURE - len(own))]
    # A curve that was fitted to few clips may fall.
    sectors = sorted(confidence["clusters"][f"wheel{WHEEL}"].items(), key=lambda sector: -sector[1])
    return {
        **{key: confidence[key] for key in ("samples", "calibrated")},
        "words": [(word, _percent(named.get(word)), word in own) for word in [*own, *others]],
        "sectors": [(name, _percent(part)) for name, part in sectors],
    }


def _percent(fraction: float | None) -> str:
    # Without a break in it. A word of the greedy answer may be in no sampled one.
    return "not sampled" if fraction is None else f"{100 * fraction:.0f}\N{NO-BREAK SPACE}%"


def _hue(index: int, number: int) -> int:
    return round(360 * index / number)


def _drawn(sound: Sound | None) -> dict[str, Any] | None:
    if sound is None:
        return None
    peak = max(float(np.abs(sound.low).max()), float(np.abs(sound.high).max()), 1e-6)
    xs = np.linspace(0, 300, len(sound.low))
    upper = [f"{x:.1f} {30 - 27 * y / peak:.1f}" for x, y in zip(xs, sound.high, strict=True)]
    lower = [f"{x:.1f} {30 - 27 * y / peak + 0.4:.1f}" for x, y in zip(xs, sound.low, strict=True)]
    scale = 300 / max(sound.seconds, 1e-6)
    return {
        "seconds": sound.seconds,
        "windows": [(round(start * scale, 2), round((end - start) * scale, 2)) for start, end in sound.windows],
        "path": f"M{'L'.join([*upper, *reversed(lower)])}Z",
    }


def _jpeg(picture: np.ndarray) -> str:
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((_LONGEST_EDGE, _LONGEST_EDGE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
