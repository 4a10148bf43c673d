"""Offline similarity of an explanation's clues to a reference's. Not the published EMER score, which a chat rates."""

from __future__ import annotations

import re

_CLAUSE_END = re.compile(r"[.,;:!?\n\u3002\uff0c\uff1b\uff1a\uff01\uff1f]+")
_WORD = re.compile(r"[^\W_]+")
_EMPTY_WORDS = (
    "the a an and or but of in on at to for from with by as is are was were be been being it its this that these those "
    "his her their he she they him them may might can could would should also which who there not no has have had "
    "character person people individual video clip scene"
)
_EMPTY = frozenset(_EMPTY_WORDS.split())


def clue_similarity(reference: str, prediction: str) -> float:
    """Return how much of a reference's clauses a prediction says in the same words, from 0 to 1.

    Each clause of the reference counts with its best cosine to a clause of the prediction, both as sets of words.

    >>> clue_similarity("He smiles, his voice is loud.", "His voice is loud and angry.")
    0.4082482904638631
    """
    wanted, given = _clauses(reference), _clauses(prediction)
    # cos(A, B) = |A & B| / sqrt(|A| |B|) for sets of words.
    best = [max((len(clue & own) / (len(clue) * len(own)) ** 0.5 for own in given), default=0.0) for clue in wanted]
    return sum(best) / max(1, len(best))


def _clauses(text: str) -> list[frozenset[str]]:
    clauses = (frozenset(_WORD.findall(part.lower())) - _EMPTY for part in _CLAUSE_END.split(text))
    return [clause for clause in clauses if clause]
