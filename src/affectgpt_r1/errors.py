"""Errors that a user can fix: each names the file, row or key, and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

MOST_CHARACTERS = 1200  # of a message: 15 lines of 80 columns
_MOST_AT_END = 300


class AffectGPTError(Exception):
    """Base of every error that bad input causes."""

    def __str__(self) -> str:
        """Return the message, without its middle where a file's content made it longer than a screen."""
        return shortened(super().__str__())


class DataError(AffectGPTError):
    """A manifest, a layout or a split that cannot be used.

    Args:
        message: What is wrong and where, and the remedy.
        kind: The same for all rows of a file that have this fault; "" where it is not one row's.
        items: Every row or file that has it, of which the message names the first.
    """

    def __init__(self, message: str, *, kind: str = "", items: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.kind, self.items = kind, tuple(items)


# What a reader calls with each fault that it finds. Where the function returns, the reader leaves the row or the file
# out and continues, so that `affectgpt-r1 doctor` lists all faults by the checks that stop a run at the first.
OnFault: TypeAlias = Callable[[DataError], None]


def refuse(fault: DataError) -> None:
    """Raise the first fault: what readers do unless they are told otherwise."""
    raise fault


class MediaError(AffectGPTError):
    """A clip's media that cannot be read; the clip is left out, counted and listed."""


class LexiconError(AffectGPTError):
    """A lexicon folder that is damaged or incomplete."""


class ConfigError(AffectGPTError):
    """A configuration that names something unknown or contradicts itself."""


class CheckpointError(AffectGPTError):
    """A checkpoint that cannot be written, read, or does not fit the model."""


class WriteError(AffectGPTError):
    """A file that cannot be written; what was in its place is unchanged."""


class TrainingError(AffectGPTError):
    """Training that cannot continue: the loss is infinite or NaN, or the rollout server has gone."""


def shortened(text: str) -> str:
    """Return at most :data:`MOST_CHARACTERS` of a text: its start, which names the place, and its end, the remedy."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[: MOST_CHARACTERS - _MOST_AT_END - 3]} … {text[-_MOST_AT_END:]}"
