"""Builds ``resources/bundled.json`` from the hand-written ``resources/groups.txt``.

Run by hand, from a checkout with the ``dev`` extra: ``python -m affectgpt_r1.emotion.build_bundled``. Word forms come
from lemminflect and from the regular suffixes -ly and -ness.

Each group of near-synonyms is placed on each wheel by that wheel's own source: its families are the clusters, and a
group has no place where the source has none. Plutchik's dyads stand below one of their two components.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from affectgpt_r1.emotion.wheels import NUM_WHEELS
from affectgpt_r1.errors import LexiconError

VERSION = "1.0"
_RESOURCES = Path(__file__).parent / "resources"
_HEADER = {
    "version": VERSION,
    "licence": "Apache-2.0.",
    "provenance": "Compiled for this package. Places on the wheels were decided group by group from the sources below; "
    "no placement was copied from another lexicon. Coverage was checked against the word list of the MER2025 wheels, "
    "and words for feelings that were missing were added.",
    "wheels": [
        "Plutchik, R. (1980). Emotion: A psychoevolutionary synthesis. Harper & Row. "
        "Eight primary emotions; their intensities and dyads.",
        "Shaver, P., Schwartz, J., Kirson, D., & O'Connor, C. (1987). Emotion knowledge. Journal of Personality and "
        "Social Psychology 52(6), 1061-1086; as tabulated by Parrott, W. G. (2001). Emotions in Social Psychology. "
        "Psychology Press. Six primary and their secondary emotions.",
        "Willcox, G. (1982). The feeling wheel. Transactional Analysis Journal 12(4), 274-276. "
        "Six centres and their second ring.",
        "Scherer, K. R. (2005). What are emotions? And how can they be measured? Social Science Information 44(4), "
        "695-729: Geneva emotion wheel and affect label coder. Families grouped by neighbourhood; confusion "
        "beside surprise after Silvia, P. J. (2009). Psychology of Aesthetics, Creativity, and the Arts 3(1).",
        "Ekman, P. (1999). Basic emotions. In Dalgleish & Power (eds), Handbook of Cognition and Emotion, Wiley; "
        "Ekman, P., & Ekman, E. (2016). Atlas of Emotions. Families and their states; shame, guilt and embarrassment "
        "as one family.",
    ],
}


class Group(NamedTuple):
    """Near-synonyms and their place on each wheel."""

    name: str
    places: tuple[tuple[str, str] | None, ...]  # (level-1 cluster, level-2 cluster) on each of the five wheels
    members: tuple[str, ...]


def main() -> None:
    """Writes the file and prints what it holds."""
    groups = read_groups((_RESOURCES / "groups.txt").read_text(encoding="utf-8"))
    content = build(groups)
    path = _RESOURCES / "bundled.json"
    path.write_text(to_json(content), encoding="utf-8")
    forms = sum(len(word[1]) for word in content["words"].values())
    print(f"{path}: {len(groups)} groups, {len(content['words'])} words, {forms} forms")


def read_groups(text: str) -> list[Group]:
    """Groups of ``groups.txt``; its comments say how it is written.

    Raises:
        LexiconError: If a line is malformed or a word stands in two groups; the message names line or word.
    """
    groups: list[Group] = []
    owner: dict[str, str] = {}
    heading: tuple[str, tuple[tuple[str, str] | None, ...]] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if heading is None:
            name, *places = (cell.strip() for cell in line.split("|"))
            if len(places) != NUM_WHEELS:
                raise LexiconError(f"groups.txt, line {number}: {len(places)} places for {NUM_WHEELS} wheels")
            heading = name, tuple(_place(cell, number) for cell in places)
            continue
        group = Group(*heading, tuple(word.strip() for word in line.split(",")))
        for word in group.members:
            if owner.setdefault(word.removeprefix("="), group.name) != group.name:
                raise LexiconError(f"groups.txt, line {number}: {word!r} is also in {owner[word]!r}; keep it in one")
        groups.append(group)
        heading = None
    return groups


def _place(cell: str, number: int) -> tuple[str, str] | None:
    if cell == "-":
        return None
    level1, slash, level2 = cell.partition("/")
    if not (level1 and slash and level2):
        raise LexiconError(f"groups.txt, line {number}: {cell!r} is neither 'level1/level2' nor '-'")
    return level1, level2


def build(groups: list[Group]) -> dict[str, Any]:
    """Content of ``bundled.json``: the header, cluster names, groups with masks, and words with group and forms.

    A form belongs to the member that is spelt so, else to the earliest member with that form.
    """
    names = [
        [sorted({place[level] for group in groups if (place := group.places[wheel])}) for wheel in range(NUM_WHEELS)]
        for level in (0, 1)
    ]

    def masks(group: Group, level: int) -> list[int]:
        pairs = zip(group.places, names[level], strict=True)
        return [1 << clusters.index(place[level]) if place else 0 for place, clusters in pairs]

    members = [(index, member) for index, group in enumerate(groups) for member in group.members]
    taken = {member.removeprefix("=") for _, member in members}
    words: dict[str, tuple[int, list[str]]] = {}
    for index, member in members:
        word = member.removeprefix("=")
        derived = set(_forms(word)) - taken if member == word else set()
        taken |= derived
        words[word] = (index, [word, *sorted(derived)])
    placed = [{"name": group.name, "level1": masks(group, 0), "level2": masks(group, 1)} for group in groups]
    return {**_HEADER, "cluster_names": names, "groups": placed, "words": dict(sorted(words.items()))}


def to_json(content: dict[str, Any]) -> str:
    """``content`` with one group or word a line, so that changes read well."""
    parts = []
    for key, value in content.items():
        rows: list[str] = []
        if isinstance(value, list):
            rows = [json.dumps(row, ensure_ascii=False) for row in value]
        elif isinstance(value, dict):
            rows = [
                f"{json.dumps(word, ensure_ascii=False)}: {json.dumps(row, ensure_ascii=False)}"
                for word, row in value.items()
            ]
        opening, closing = ("[", "]") if isinstance(value, list) else ("{", "}")
        body = f"{opening}\n" + ",\n".join(rows) + f"\n{closing}" if rows else json.dumps(value, ensure_ascii=False)
        parts.append(f'"{key}": {body}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _forms(word: str) -> Iterator[str]:
    """Inflections of ``word`` and of its lemmas, and its regular adverb and noun."""
    from lemminflect import getAllInflections, getAllLemmas

    if " " in word:
        return
    lemmas = getAllLemmas(word)
    for part_of_speech, of_word in lemmas.items():
        for lemma in of_word:
            for inflections in getAllInflections(lemma, upos=part_of_speech).values():
                yield from (form.lower() for form in inflections)
    if "ADJ" in lemmas or word.endswith(("ed", "ing", "ful", "less")):
        yield from _adverb_and_noun(word)


def _adverb_and_noun(adjective: str) -> tuple[str, str]:
    stem = f"{adjective[:-1]}i" if adjective.endswith("y") else adjective
    if adjective.endswith("le"):
        adverb = f"{adjective[:-1]}y"
    elif adjective.endswith("ic"):
        adverb = f"{adjective}ally"
    elif adjective.endswith("ll"):
        adverb = f"{adjective}y"
    else:
        adverb = f"{stem}ly"
    return adverb, f"{stem}ness"


if __name__ == "__main__":
    main()
