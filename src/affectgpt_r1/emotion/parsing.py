"""Label strings and tagged completions, parsed once.

Every scan is one pass of ``str.find`` or ``str.count``, so that a degenerate completion of a megabyte costs
milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from affectgpt_r1.types import Completion, EmotionSet

_THINK = ("<think>", "</think>")
_ANSWER = ("<answer>", "</answer>")


def parse_labels(openset: str | Sequence[str] | None) -> EmotionSet:
    """Parse the emotion words of an ``openset`` cell, as the published parser does.

    One leading ``[`` and one trailing ``]`` are taken off, the rest is split on any of ``'``, ``"`` and ``,``.
    A sequence is taken as already split. Words are stripped and empty ones dropped; duplicates, order and case stay.

    Args:
        openset: A cell such as ``"[concern, pessimism]"`` or ``"shocked,care,serious"``, a list of words, or None.

    >>> parse_labels("['Happy', 'sad', 'sad']")
    ('Happy', 'sad', 'sad')
    """
    if openset is None:
        return ()
    parts: Sequence[str] = openset
    if isinstance(openset, str):
        # Splitting at one of three marks by `str` takes half as long as by a pattern.
        parts = openset.removeprefix("[").removesuffix("]").replace("'", ",").replace('"', ",").split(",")
    return tuple(filter(None, map(str.strip, parts)))


def parse_completion(text: str, *, enable_thinking: bool, num_tokens: int = 0, truncated: bool = False) -> Completion:
    """Parse a completion into its reasoning, its answer and its form.

    It is well formed if each tag of the prompt mode occurs exactly once and in order, what they enclose is not blank,
    and only white space is outside them. ``reasoning`` and ``answer`` are read leniently: from the first opening tag to
    the closing tag that follows it, stripped, whatever else the text holds.

    Args:
        text: The decoded completion.
        enable_thinking: Whether the prompt asks for ``<think> ... </think>`` before the answer; if not, a think tag is
            a fault.
        num_tokens: See :class:`~affectgpt_r1.types.Completion`, as of ``truncated``.
        truncated: Whether the token limit ended it.

    >>> parse_completion("<think>A smile.</think> <answer>happy, calm</answer>", enable_thinking=True).labels
    ('happy', 'calm')
    """
    # Imported late: the module loads torch, and whoever only reads lexicons or label files should not wait for it.
    from affectgpt_r1.types import Completion

    answer = _between(text, *_ANSWER)
    return Completion(
        text=text,
        reasoning=_between(text, *_THINK),
        answer=answer,
        labels=parse_labels(answer),
        well_formed=_is_well_formed(text, (*_THINK, *_ANSWER) if enable_thinking else _ANSWER),
        num_tokens=num_tokens,
        truncated=truncated,
    )


def well_formed_answer(text: str) -> str | None:
    """Return what the answer tags of a completion in the format of either prompt mode enclose, None if it has a fault.

    >>> well_formed_answer("<answer>happy, calm</answer>")
    'happy, calm'
    """
    tags = (*_THINK, *_ANSWER) if _THINK[0] in text else _ANSWER
    return _between(text, *_ANSWER) if _is_well_formed(text, tags) else None


def without_thoughts(text: str) -> str:
    """Return what a faulty completion answers: the text inside its answer tags, else what follows its thoughts.

    A text without tags is returned as it is, and so are thoughts that nothing follows.

    >>> without_thoughts("<think>Sad?</think> happy")
    ' happy'
    """
    answer = _between(text, *_ANSWER)
    if answer is not None:
        return answer
    after = text.rpartition(_THINK[1])[2]
    return after if after.strip() else text


def _between(text: str, opening: str, closing: str) -> str | None:
    start = text.find(opening)
    if start < 0:
        return None
    start += len(opening)
    end = text.find(closing, start)
    return text[start:end].strip() if end >= 0 else None


def _is_well_formed(text: str, tags: tuple[str, ...]) -> bool:
    """Return whether ``tags`` (opening and closing by turns) enclose all text."""
    if any(text.count(tag) != (tag in tags) for tag in (*_THINK, *_ANSWER)):
        return False
    cursor = 0
    for index, tag in enumerate(tags):
        position = text.find(tag, cursor)
        if position < 0:
            return False
        inside = index % 2 == 1
        if bool(text[cursor:position].strip()) != inside:
            return False
        cursor = position + len(tag)
    return not text[cursor:].strip()
