"""The page of completions: what each policy answered about the same few clips."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.report.choices import TITLES, label
from affectgpt_r1.report.markup import Markup, element, join
from affectgpt_r1.report.queries import Answer, Cell, Clip, Sweep
from affectgpt_r1.report.wheel_drawing import Overlap, clusters_of, overlap, wheel_svg

_LONGEST_COMPLETION = 2000
_MOST_WORDS = 40


def completions_section(sweeps: Sequence[Sweep], lexicon: Lexicon) -> Markup:
    """A card for each clip to show, with the answer of every choice's first seed; empty if no clip was logged."""
    clips = {clip.name: clip for sweep in sweeps for clip in sweep.clips}
    policies = _policies(sweeps)
    answers = {run_id: {answer.name: answer for answer in cell.answers} for run_id, (cell, _) in policies.items()}
    cards = [
        _card(
            clip,
            [
                (titles, answers[run_id][clip.name])
                for run_id, (_, titles) in policies.items()
                if clip.name in answers[run_id]
            ],
            lexicon,
        )
        for clip in clips.values()
    ]
    return join([_key(lexicon), cards]) if cards else Markup("")


def _policies(sweeps: Sequence[Sweep]) -> dict[str, tuple[Cell, list[str]]]:
    """The first seed of each choice by run id, with what the sweeps call it; a shared cell stands once."""
    found: dict[str, tuple[Cell, list[str]]] = {}
    for sweep in sweeps:
        for choice in sweep.choices:
            cell = sweep.of(choice)[0]
            found.setdefault(cell.run_id, (cell, []))[1].append(f"{TITLES[sweep.name]}: {label(sweep.name, choice)}")
    return found


def _key(lexicon: Lexicon) -> Markup:
    names = lexicon.clusters(1)
    shares = Overlap((names[0],), (names[1],), (names[2],))
    kinds = (("hit", "in answer and target"), ("miss", "in the target only"), ("extra", "in the answer only"))
    words = [element("li", element("span", "", class_=f"swatch {kind}"), text) for kind, text in kinds]
    return element(
        "div",
        wheel_svg(shares, lexicon),
        element("ul", words, class_="key"),
        element(
            "p",
            f"Wheel 1 of the {lexicon.name} lexicon; its sectors, clockwise from the top: {', '.join(names)}. Words "
            "that no wheel knows are set in grey. F is the clip’s mean set F1 over all five wheels, in points. "
            "The first seed of each choice.",
            class_="note",
        ),
        class_="wheel-key",
    )


def _card(clip: Clip, answers: Sequence[tuple[list[str], Answer]], lexicon: Lexicon) -> Markup:
    target = Overlap(tuple(sorted(clusters_of(clip.target, lexicon))), (), ())
    frames = [
        element(
            "img", src=f"data:image/png;base64,{base64.b64encode(frame).decode()}", alt=f"frame {place}", loading="lazy"
        )
        for place, frame in enumerate(clip.frames, start=1)
    ]
    said = element("p", "“", element("bdi", clip.subtitle), "”", class_="subtitle") if clip.subtitle else ""
    return element(
        "article",
        element(
            "header",
            element("div", frames, class_="frames"),
            element("div", element("h3", element("bdi", clip.name)), said, _target_words(clip), class_="said"),
            wheel_svg(target, lexicon, labels=True),
        ),
        element("div", [_answer(titles, answer, lexicon) for titles, answer in answers], class_="answers"),
        class_="clip",
    )


def _target_words(clip: Clip) -> Markup:
    return element("p", element("span", "target ", class_="what"), element("bdi", ", ".join(clip.target)))


def _answer(titles: Sequence[str], answer: Answer, lexicon: Lexicon) -> Markup:
    shares = overlap(answer.openset, answer.target, lexicon)
    score = "" if answer.f1 is None else element("span", f"F {100 * answer.f1:.0f}", class_="score")
    return element(
        "div",
        wheel_svg(shares, lexicon),
        element(
            "div",
            element("h4", [element("span", title) for title in titles], score),
            element("p", _words(answer, lexicon), class_="words"),
            _sectors(shares),
            _whole(answer.completion),
        ),
        class_="answer",
    )


def _words(answer: Answer, lexicon: Lexicon) -> list[Markup | str]:
    """The answer's words: bold where they hit, grey where they map nowhere."""
    wanted = clusters_of(answer.target, lexicon)
    parts: list[Markup | str] = []
    for word in answer.openset[:_MOST_WORDS]:
        clusters = clusters_of([word], lexicon)
        kind = "word-hit" if clusters & wanted else "word-extra" if word in lexicon else "word-unmapped"
        parts += [element("bdi", word, class_=kind), ", "]
    rest = len(answer.openset) - _MOST_WORDS
    if rest > 0:
        return [*parts, f"and {rest} more words"]
    return parts[:-1] or [element("span", "no words", class_="word-unmapped")]


def _sectors(shares: Overlap) -> Markup:
    """The wheel in words, so that no reader depends on its drawing."""
    named = [f"{kind}: {', '.join(part)}" for kind, part in _named(shares).items() if part]
    return element("p", "; ".join(named) or "nothing on this wheel", class_="sectors")


def _named(shares: Overlap) -> Mapping[str, tuple[str, ...]]:
    return {"hit": shares.hits, "missed": shares.misses, "extra": shares.extra}


def _whole(completion: str) -> Markup:
    text = completion[:_LONGEST_COMPLETION]
    cut = f" … and {len(completion) - len(text):,} more characters" if len(completion) > len(text) else ""
    return element("details", element("summary", "completion"), element("pre", element("bdi", text), cut))
