"""Build the package's ``bundled.json`` from the hand-written ``bundled_lexicon/groups.txt`` and ``charts.txt``.

Run by hand, with the ``dev`` extra: ``python tests/tools/build_bundled.py``. Word forms come from lemminflect and from
the regular suffixes -ly and -ness.

Three wheels are closed charts (Plutchik, Shaver and Parrott, Willcox): a chart's words have the place where it prints
them, their near-synonyms follow them, and other words are not on that wheel. Two are open families of emotions (Geneva,
Ekman): each group of near-synonyms is placed in a family, or in none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from affectgpt_r1.emotion import wheels
from affectgpt_r1.emotion.wheels import NUM_WHEELS
from affectgpt_r1.errors import LexiconError

VERSION = "2.0"
NUM_CHARTS = 3
SOURCES = Path(__file__).parent / "bundled_lexicon"
_HEADER = {
    "version": VERSION,
    "licence": "Apache-2.0.",
    "provenance": "Compiled for this package. Places on the wheels follow from the words that the sources below print, "
    "or were decided group by group from them; no placement was copied from another lexicon. Coverage was checked "
    "against the word list of the MER2025 wheels, and words for feelings that were missing were added.",
    "wheels": [
        "Plutchik, R. (1980). Emotion: A psychoevolutionary synthesis. Harper & Row. "
        "Eight primary emotions; their intensities and dyads.",
        "Shaver, P., Schwartz, J., Kirson, D., & O'Connor, C. (1987). Emotion knowledge. Journal of Personality and "
        "Social Psychology 52(6), 1061-1086; as tabulated by Parrott, W. G. (2001). Emotions in Social Psychology. "
        "Psychology Press. Six primary and their secondary emotions.",
        "Willcox, G. (1982). The feeling wheel. Transactional Analysis Journal 12(4), 274-276. "
        "Six centres and two rings.",
        "Scherer, K. R. (2005). What are emotions? And how can they be measured? Social Science Information 44(4), "
        "695-729: affect label coder; the twenty families of the wheel after Sacharin, V., Schlegel, K., & Scherer, "
        "K. R. (2012). Geneva emotion wheel rating study. University of Geneva. Confusion by surprise after Silvia, "
        "P. J. (2009). Psychology of Aesthetics, Creativity, and the Arts 3(1).",
        "Ekman, P. (1999). Basic emotions. In Dalgleish & Power (eds), Handbook of Cognition and Emotion, Wiley; its "
        "families, with surprise and the enjoyable emotions of Ekman, P. (2003). Emotions Revealed. Times Books. "
        "States within them, and compassion, after Ekman, P., & Ekman, E. (2016). Atlas of Emotions.",
    ],
}


Place: TypeAlias = tuple[str, str]  # level-1 and level-2 cluster
Chart: TypeAlias = dict[str, Place]  # place of each printed word


class Group(NamedTuple):
    """Near-synonyms and their place on each wheel."""

    name: str
    places: tuple[Place | None, ...]
    members: tuple[str, ...]


def main() -> None:
    """Write the file and print what it holds."""
    content = build(read_source())
    path = Path(wheels.__file__).parent / "resources" / "bundled.json"
    path.write_text(to_json(content), encoding="utf-8")
    forms = sum(len(word[1]) for word in content["words"].values())
    print(f"{path}: {len(content['groups'])} groups, {len(content['words'])} words, {forms} forms")


def read_source() -> list[Group]:
    """Read groups with a place on each of the five wheels, from both hand-written files.

    Raises:
        LexiconError: A file is malformed; names line or word.
    """
    charts = read_charts((SOURCES / "charts.txt").read_text(encoding="utf-8"))
    return place_on_charts(read_groups((SOURCES / "groups.txt").read_text(encoding="utf-8")), charts)


def read_charts(text: str) -> list[Chart]:
    """Read the charts of ``charts.txt``, in order.

    Raises:
        LexiconError: If a line is malformed, a chart prints a word twice, or a chart is missing.
    """
    charts: list[Chart] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            charts.append({})
            continue
        cell, colon, words = line.partition(":")
        place = _place(cell, "charts.txt", number)
        if not (charts and colon and place):
            raise LexiconError(f"charts.txt, line {number}: {line!r} is not 'level1/level2: words' below a [chart]")
        for word in (word.strip() for word in words.split(",")):
            if charts[-1].setdefault(word, place) != place:
                raise LexiconError(f"charts.txt, line {number}: {word!r} has another place above; keep one")
    if len(charts) != NUM_CHARTS:
        raise LexiconError(f"charts.txt: {len(charts)} charts where {NUM_CHARTS} belong")
    return charts


def read_groups(text: str) -> list[Group]:
    """Read the groups of ``groups.txt`` with their places in the open families; its comments explain the format.

    Raises:
        LexiconError: A line is malformed or a word is in two groups; names line or word.
    """
    groups: list[Group] = []
    owner: dict[str, str] = {}
    heading: tuple[str, tuple[Place | None, ...]] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if heading is None:
            name, *places = (cell.strip() for cell in line.split("|"))
            if len(places) != NUM_WHEELS - NUM_CHARTS:
                raise LexiconError(f"groups.txt, line {number}: {len(places)} places for {NUM_WHEELS - NUM_CHARTS}")
            heading = name, tuple(_place(cell, "groups.txt", number) for cell in places)
            continue
        group = Group(*heading, tuple(word.strip() for word in line.split(",")))
        for word in group.members:
            if owner.setdefault(word.removeprefix("="), group.name) != group.name:
                raise LexiconError(f"groups.txt, line {number}: {word!r} is also in {owner[word]!r}; keep it in one")
        groups.append(group)
        heading = None
    return groups


def place_on_charts(groups: list[Group], charts: list[Chart]) -> list[Group]:
    """Split groups where a chart prints members apart, and put their places on the charts first.

    Raises:
        LexiconError: If a chart prints a word that no group has.
    """
    known = {member.removeprefix("=") for group in groups for member in group.members}
    for word in (word for chart in charts for word in chart):
        if word not in known:
            raise LexiconError(f"charts.txt: {word!r} is in no group of groups.txt; add it to its synonyms")
    placed: list[Group] = []
    for group in groups:
        words = [member.removeprefix("=") for member in group.members]
        heads = [next((chart[word] for word in words if word in chart), None) for chart in charts]
        split: dict[tuple[Place | None, ...], list[str]] = {}
        for member, word in zip(group.members, words, strict=True):
            places = tuple(chart.get(word, head) for chart, head in zip(charts, heads, strict=True))
            split.setdefault(places, []).append(member)
        placed += [Group(group.name, (*places, *group.places), tuple(part)) for places, part in split.items()]
    return placed


def _place(cell: str, file: str, number: int) -> Place | None:
    if cell == "-":
        return None
    level1, slash, level2 = cell.partition("/")
    if not (level1 and slash and level2):
        raise LexiconError(f"{file}, line {number}: {cell!r} is neither 'level1/level2' nor '-'")
    return level1, level2


def build(groups: list[Group]) -> dict[str, Any]:
    """Build ``bundled.json``: header, cluster names, groups with masks, and words with group and forms.

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
    """Return ``content`` with one group or word per line, for readable diffs."""
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
    """Return inflections of ``word`` and of its lemmas, and its regular adverb and noun."""
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
