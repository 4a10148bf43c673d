"""Pair predictions with targets by clip name, also where the names differ by folder, suffix, case or Unicode form."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence

from affectgpt_r1.errors import DataError
from affectgpt_r1.io.clean_text import counted

_SUFFIX = re.compile(r"\.(mp4|avi|mkv|mov|webm|flv|wmv|m4v|mpe?g|wav|mp3|flac|m4a|npy|npz)$")
_SHOWN_NAMES = 5


def pair_names(
    predicted: Sequence[str], targets: Sequence[str], *, subset: bool = False
) -> tuple[list[tuple[int, int]], list[str]]:
    """Return the rows of prediction and target of each clip, in the targets' order, and what a reader should know.

    A name that both have pairs them. What is left over pairs where the names agree apart from folders, a media suffix,
    case and Unicode form, and nothing else does. Predictions without a target are counted and not scored, as the
    published scorer does.

    Args:
        predicted: Distinct names.
        targets: Distinct names.
        subset: Let targets without a prediction pass.

    Raises:
        DataError: A target has no prediction, or several that differ in such a way only; or nothing pairs.

    >>> pair_names(["x/B.mp4", "c", "a"], ["a", "b"])[0]
    [(2, 0), (0, 1)]
    """
    row_of = {name: row for row, name in enumerate(predicted)}
    target_names = set(targets)
    left = _by_plain_name([name for name in predicted if name not in target_names])
    wanted = _by_plain_name([name for name in targets if name not in row_of])
    pairs, likened, missing = [], [], []
    for row, name in enumerate(targets):
        if name in row_of:
            pairs.append((row_of[name], row))
            continue
        like = left.get(plain_name(name), [])
        if like and (len(like) > 1 or len(wanted[plain_name(name)]) > 1):
            raise DataError(
                f"{_some(like)} with a prediction may be {_some(wanted[plain_name(name)])} with a target; "
                "give the clips the same names in both files"
            )
        if like:
            pairs.append((row_of[like[0]], row))
            likened.append((like[0], name))
        else:
            missing.append(name)
    if not pairs:
        raise DataError(
            f"no clip has a prediction and a target: {_some(predicted)} with a prediction, {_some(targets)} with a "
            "target; give the clips the same names in both files"
        )
    if missing and not subset:
        raise DataError(f"{_some(missing)} with a target and no prediction: answer them, or give --subset")
    notes = []
    if likened:
        names_differ = counted(len(likened), "name was paired that differs", "names were paired that differ")
        notes.append(f"{names_differ} by folder, suffix, case or accents, such as {likened[0][0]} and {likened[0][1]}.")
    if ignored := len(predicted) - len(pairs):
        taken = {row for row, _ in pairs}
        first = next(name for row, name in enumerate(predicted) if row not in taken)
        notes.append(
            f"{counted(ignored, 'prediction has', 'predictions have')} no target and "
            f"{'was' if ignored == 1 else 'were'} not scored, such as {first}."
        )
    if missing:
        notes.append(
            f"{counted(len(missing), 'target has', 'targets have')} no prediction and "
            f"{'was' if len(missing) == 1 else 'were'} not scored, such as {missing[0]}."
        )
    return pairs, notes


def plain_name(name: str) -> str:
    r"""Return a clip's name without folders and media suffix, in lower case, in Unicode's composed form.

    >>> plain_name("C:\\clips\\Caf\u0065\u0301 01.MP4")
    'café 01'
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1].casefold()
    return _SUFFIX.sub("", last)


def _by_plain_name(names: Sequence[str]) -> Mapping[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[plain_name(name)].append(name)
    return groups


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    return f"{counted(len(names), 'clip', 'clips')} ({shown}{', …' if len(names) > _SHOWN_NAMES else ''})"
