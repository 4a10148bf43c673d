"""Errors that a user can mend: each names the file, row or key, and the remedy."""

from __future__ import annotations


class AffectGPTError(Exception):
    """Base of every error that bad input causes."""


class DataError(AffectGPTError):
    """A manifest, a layout or a split that cannot be used."""


class MediaError(AffectGPTError):
    """A clip's media that cannot be read; the clip is skipped, counted and listed."""


class LexiconError(AffectGPTError):
    """A lexicon folder that is damaged or incomplete."""


class ConfigError(AffectGPTError):
    """A configuration that names something unknown or contradicts itself."""


class CheckpointError(AffectGPTError):
    """A checkpoint that cannot be written, read, or does not fit the model."""


class WriteError(AffectGPTError):
    """A file that cannot be written; the one that was in its place is whole."""


class TrainingError(AffectGPTError):
    """Training that cannot go on: a loss that is infinite or no number."""
