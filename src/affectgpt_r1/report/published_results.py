"""Scores that the papers and public notes give for recorded clips."""

from __future__ import annotations

from typing import NamedTuple


class PublishedValue(NamedTuple):
    """A published wheel F1 on OV-MERD+ (532 clips), in points."""

    table: str
    setting: str
    points: float
    source: str


_AFFECTGPT = "AffectGPT, ICML 2025"
_NOTES = "AffectGPT-R1, after third-party notes"
PUBLISHED_NOTE = (
    "From the papers, real clips (OV-MERD+), a 7-billion-parameter model: not comparable with the scores measured "
    "here. The order of P1 to P3 is presumed."
)
PUBLISHED = (
    PublishedValue("Reward", "no RL", 62.52, _AFFECTGPT),
    PublishedValue("Reward", "accuracy", 63.35, _NOTES),
    PublishedValue("Reward", "dual", 64.98, _NOTES),
    PublishedValue("Reward", "accuracy + format", 66.49, _NOTES),
    PublishedValue("Reward", "all five", 59.53, _NOTES),
    PublishedValue("Reasoning", "think", 66.49, _NOTES),
    PublishedValue("Reasoning", "no-think", 68.39, _NOTES),
    PublishedValue("Length penalty", "P1", 67.44, _NOTES),
    PublishedValue("Length penalty", "P2", 67.79, _NOTES),
    PublishedValue("Length penalty", "P3", 68.05, _NOTES),
)
