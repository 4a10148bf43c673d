"""Model families: what of a policy differs between AffectGPT, HumanOmni and others, one file for each."""

from __future__ import annotations

from collections.abc import Mapping

from affectgpt_r1.policy.families.affectgpt import AFFECTGPT
from affectgpt_r1.policy.families.base import Family
from affectgpt_r1.policy.families.humanomni import HUMANOMNI

__all__ = ["FAMILIES", "Family"]

FAMILIES: Mapping[str, Family] = {"affectgpt": AFFECTGPT, "humanomni": HUMANOMNI}
