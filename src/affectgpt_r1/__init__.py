"""AffectGPT-R1: open-vocabulary multimodal emotion recognition, by SFT and then GRPO on the emotion-wheel metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from affectgpt_r1.evaluation.score_files import score

__all__ = ["__version__", "score"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported when it is asked for (PEP 562): every command imports this package, and few need numpy at once.
    if name == "score":
        from affectgpt_r1.evaluation.score_files import score

        return score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
