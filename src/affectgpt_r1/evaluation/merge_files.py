"""Merge files of several systems' answers to one that is scored like any other."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from affectgpt_r1.emotion.chat_extraction import text_extractor
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.io.clean_text import counted, json_line
from affectgpt_r1.io.files import write_text
from affectgpt_r1.metrics.clip_names import pair_names
from affectgpt_r1.metrics.merge_answers import MergeRule, merge_answers
from affectgpt_r1.metrics.prediction_files import NamedSets, read_named_sets, write_submission

if TYPE_CHECKING:
    from affectgpt_r1.emotion.chat_client import Chat


def merge_files(
    paths: Sequence[Path],
    output: Path,
    *,
    rule: MergeRule,
    most: int | None = None,
    lexicon: str = "bundled",
    chat: Chat | None = None,
) -> list[str]:
    """Write the merged answers under the first file's names, and say in lines what was read and written.

    Args:
        paths: Files that ``affectgpt-r1 score`` reads, with the same clips.
        output: ``.jsonl``, ``.csv`` or ``-openset.npz``.
        rule: See :func:`~affectgpt_r1.metrics.merge_answers.merge_answers`.
        most: Most words of a merged answer.
        lexicon: Name or folder.
        chat: Extracts the labels of free text; None searches for the lexicon's words.

    Raises:
        ConfigError: There is one file only, one is given twice, or ``output`` is one of them.
        DataError: A file cannot be read, has other clips than the first, or ``output`` has another suffix.
    """
    if len(paths) < 2 or len(set(paths)) < len(paths):
        raise ConfigError(f"merge takes two or more different files, not {', '.join(map(str, paths))}")
    if output in paths:
        raise ConfigError(f"--output {output} is one of the files that are merged: choose another")
    words = load_lexicon(lexicon)
    extract = text_extractor(words, chat)
    systems = [read_named_sets(path, extract) for path in paths]
    names = systems[0].names
    answers = [_same_clips(sets, names, path, paths[0]) for sets, path in zip(systems, paths, strict=True)]
    merged = [
        merge_answers(of_clip, words, rule, most)
        for of_clip in zip(*(sets.labels for sets in answers), strict=True)
    ]  # fmt: skip
    if output.suffix == ".npz":
        write_submission(output, names, merged)
    elif output.suffix == ".jsonl":
        rows = ({"name": name, "openset": list(labels)} for name, labels in zip(names, merged, strict=True))
        write_text(output, "".join(map(json_line, rows)), elsewhere="choose another --output")
    elif output.suffix == ".csv":
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["name", "openset"])
        table.writerows([name, ", ".join(labels)] for name, labels in zip(names, merged, strict=True))
        write_text(output, text.getvalue(), elsewhere="choose another --output")
    else:
        raise DataError(f"--output {output}: the suffix is none of .jsonl, .csv and -openset.npz; rename it")
    notes = [note for sets in systems for note in sets.notes]
    given = [sum(map(len, sets.labels)) / len(names) for sets in answers]
    kept = sum(map(len, merged)) / len(names)
    clips, of_each = counted(len(names), "clip", "clips"), ", ".join(f"{mean:.2f}" for mean in given)
    return [*notes, f"{output}: {clips}, {kept:.2f} words each (of {of_each} in the files) by {rule}"]


def _same_clips(sets: NamedSets, names: list[str], path: Path, first: Path) -> NamedSets:
    pairs, _ = pair_names(sets.names, names, subset=True)
    if len(pairs) < len(names) or len(sets.names) > len(names):
        paired = {row for _, row in pairs}
        answered = {row for row, _ in pairs}
        lacking = [name for row, name in enumerate(names) if row not in paired]
        more = [name for row, name in enumerate(sets.names) if row not in answered]
        raise DataError(
            f"{path} and {first} do not answer the same clips: {len(lacking)} are missing and {len(more)} are not in "
            f"the first, such as {(lacking or more)[0]}; merge answers to the same clips"
        )
    return sets.of_rows([row for row, _ in pairs], names)
