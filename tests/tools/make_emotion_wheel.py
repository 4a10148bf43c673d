"""Write ``tests/fixtures/emotion_wheel/``: an invented lexicon in the published format, samples, and their scores.

``PYTHONPATH=tests python tests/tools/make_emotion_wheel.py``. The scores are those of ``helpers.slow_wheel_scorer``.
"""

from __future__ import annotations

import csv
import json
import random
from itertools import chain
from pathlib import Path
from typing import Any

import openpyxl

from helpers.slow_wheel_scorer import SlowScorer

FOLDER = Path(__file__).parents[1] / "fixtures" / "emotion_wheel"

# Level 1 -> level 2 -> level 3. Wheels overlap only in part, so that a word can be on one and not on another. "Shaken"
# has two places on wheel 1, "Restless" on wheels 3 and 5: the last one counts.
WHEELS = [
    {
        "Joy": {"Cheerful": ["Merry", "Sunny"], "Content": ["Calm", "Settled"], "Amused": ["Playful"]},
        "Sorrow": {"Lonely": ["Deserted", "Shaken"], "Gloomy": ["Bleak", "Tearful"]},
        "Anger": {"Irritated": ["Cross", "Testy"], "Enraged": ["Livid"]},
        "Fear": {"Anxious": ["Worried", "Tense", "Shaken"], "Terrified": ["Panicked"]},
    },
    {
        "Bright": {"Merry": ["Glad", "Jolly"], "Hopeful": ["Eager"], "Tender": ["Fond", "Grateful"]},
        "Dark": {"Gloomy": ["Hopeless"], "Bitter": ["Resentful", "Jealous"], "Worried": ["Uneasy", "Afraid"]},
        "Alert": {"Startled": ["Stunned", "Baffled"], "Curious": ["Interested"]},
    },
    {
        "Warm": {"Fond": ["Loving"], "Calm": ["Peaceful", "Sleepy"]},
        "Hot": {"Livid": ["Hateful"], "Eager": ["Restless"]},
        "Cold": {"Deserted": ["Numb", "Empty"], "Ashamed": ["Guilty", "Awkward"]},
        "Unsteady": {"Tense": ["Restless", "Nervous"], "Stunned": ["Amazed"]},
    },
    {
        "Happiness": {"Glad": ["Joy", "Sunny"], "Proud": ["Triumphant"], "Loving": ["Tender"]},
        "Sadness": {"Tearful": ["Sorrow", "Hurt"], "Guilty": ["Sorry"]},
        "Disgust": {"Hateful": ["Anger", "Scornful"], "Awkward": ["Ashamed"]},
        "Surprise": {"Amazed": ["Curious"], "Panicked": ["Fear"]},
    },
    {
        "Pleasant": {"Peaceful": ["Content", "Settled"], "Playful": ["Amused"], "Triumphant": ["Proud"]},
        "Unpleasant": {"Afraid": ["Anxious", "Nervous"], "Hurt": ["Bitter", "Lonely"], "Cross": ["Irritated"]},
        "Neither": {"Sleepy": ["Bored", "Numb"], "Interested": ["Startled", "Restless"], "Restless": ["Testy"]},
    },
]

# Base forms that some wheel word lists as its synonym, beyond the wheel words themselves.
SYNONYMS = {
    "merry": ["happy", "festive"],
    "joy": ["happy", "delight"],
    "glad": ["happy", "pleased"],
    "sorrow": ["sad", "grief"],
    "tearful": ["sad", "weepy"],
    "gloomy": ["low", "downcast"],
    "anger": ["angry", "wrath"],
    "livid": ["angry", "furious"],
    "afraid": ["scared", "frightened"],
    "panicked": ["scared", "hysterical"],
    "tense": ["stressed", "strained"],
    "stunned": ["shocked", "speechless"],
    "amazed": ["surprised", "speechless"],
    "fond": ["affectionate", "close to someone"],
    "scornful": ["mocking", "contemptuous"],
    "bored": ["indifferent", "listless"],
}

# Base form -> word forms. "lowly" and "crossed" have two base forms each; "plain" and "table" stand for no wheel word.
FORMS = {
    "happy": ["happy", "happily", "happiness", "happier"],
    "sad": ["sad", "sadly", "sadness", "sadden"],
    "angry": ["angry", "angrily", "angers"],
    "low": ["low", "lower", "lowly"],
    "humble": ["humble", "humbly", "lowly"],
    "cross": ["cross", "crossly", "crossed"],
    "betrayed": ["betrayed", "betray", "crossed"],
    "plain": ["plain", "plainly"],
    "table": ["table", "tables"],
    "fear": ["fear", "fearful", "fearfully", "fears"],
    "joy": ["joy", "joyful", "joyfully", "joyous"],
    "worried": ["worried", "worry", "worries", "worriedly"],
    "no words": ["speechless", "no words"],
}
UNKNOWN = ["", "zestful", "qwerty", "not a word", "42"]


def wheel_rows(wheel: dict[str, dict[str, list[str]]]) -> list[tuple[str | None, str | None, str]]:
    """Return a row per outer word; a cell that repeats the one above it stays blank."""
    return [
        (
            centre if child == next(iter(children)) and leaf == leaves[0] else None,
            child if leaf == leaves[0] else None,
            leaf,
        )
        for centre, children in wheel.items()
        for child, leaves in children.items()
        for leaf in leaves
    ]


def wheel_words() -> list[str]:
    """Return every word of the wheels once, in lower case."""
    rows = chain.from_iterable(wheel_rows(wheel) for wheel in WHEELS)
    return sorted({word.lower() for row in rows for word in row if word})


def synonym_rows(draw: random.Random) -> list[list[str | None]]:
    """Return eight runs of ``(word, synonyms)`` per row: each run has its own choice of synonyms and its own case."""
    rows: list[list[str | None]] = []
    for word in wheel_words():
        row: list[str | None] = []
        for run in range(8):
            synonyms = [one for one in SYNONYMS.get(word, ()) if run == 0 or draw.random() < 0.5]
            text = ", ".join(one.title() if run % 2 else one for one in synonyms)
            row += [word.title() if run % 2 else word, f"'{text}'" if run == 3 else text or None]
        rows.append(row if word != "bored" else [*row[:2], *[None] * 14])
    return rows


def form_rows() -> list[tuple[str, str]]:
    """Return ``format.csv``: the forms above, and every other word with "very"."""
    words = {*wheel_words(), *chain.from_iterable(SYNONYMS.values())} - FORMS.keys()
    return sorted(
        [(base, ",".join(forms)) for base, forms in FORMS.items()] + [(one, f"{one},very {one}") for one in words]
    )


def draw_samples(draw: random.Random, forms: list[str]) -> list[dict[str, object]]:
    """Return samples with every way to write a set of words, and with sets that are empty or map nowhere."""
    writings = [
        lambda words: ", ".join(words),
        lambda words: f"[{','.join(words)}]",
        lambda words: str(words),
        lambda words: json.dumps([word.upper() for word in words]),
        lambda words: [word.title() for word in words],
    ]
    pairs: list[tuple[list[str], list[str]]] = [
        (["happy"], []), (["happy", "sad"], ["table"]), ([], ["happy"]), (["zestful"], ["sad"]),
        (["crossed"], ["cross"]), (["lowly"], ["low"]), (["joyful", "happily"], ["joy"]), (["sad", "sad"], ["sad"]),
    ]  # fmt: skip
    for _ in range(60):
        target = draw.sample(forms, draw.randint(1, 5))
        own = draw.sample(target, draw.randint(0, len(target)))
        pairs.append((own + draw.choices([*forms, *UNKNOWN], k=draw.randint(0, 4)), target))
    return [
        {
            "name": f"s{number:03d}",
            "target": draw.choice(writings)(target),
            "prediction": draw.choice(writings)(prediction),
        }
        for number, (prediction, target) in enumerate(pairs)
    ]


def main() -> None:
    """Write the folder."""
    draw = random.Random(14)
    FOLDER.mkdir(parents=True, exist_ok=True)
    tables = {
        f"wheel{number}": [("level1", "level2", "level3"), *wheel_rows(one)] for number, one in enumerate(WHEELS, 1)
    }
    runs = [f"{kind}_run{run}" for run in range(1, 9) for kind in ("word", "synonym")]
    tables["synonym"] = [runs, *synonym_rows(draw)]
    for name, rows in tables.items():
        book = openpyxl.Workbook()
        book.active.title = "Sheet1"
        for row in rows:
            book.active.append(row)
        book.save(FOLDER / f"{name}.xlsx")
    rows = form_rows()
    with (FOLDER / "format.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("name", "format"), *rows])
    forms = sorted({form for _, cell in rows for form in cell.split(",")})
    scorer, samples = SlowScorer(FOLDER), draw_samples(draw, forms)
    words = scorer.words([*forms, *UNKNOWN])
    parts = {
        "samples": lines(samples),
        "scores": lines(scorer.scores(samples)),
        "words": lines({word: {key: one for key, one in of_word.items() if one} for word, of_word in words.items()}),
    }
    text = ",\n".join(f'"{name}": {part}' for name, part in parts.items())
    (FOLDER / "expected.json").write_text(f'{{"forms": {len(forms)},\n{text}}}\n', "utf-8")


def lines(content: list[Any] | dict[str, Any]) -> str:
    """Return JSON with one entry per line."""
    if isinstance(content, list):
        return "[\n" + ",\n".join(map(json.dumps, content)) + "]"
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()) + "}"


if __name__ == "__main__":
    main()
