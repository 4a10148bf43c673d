"""AffectGPT-R1: open-vocabulary multimodal emotion recognition, by SFT and then GRPO on the emotion-wheel metric."""

from pathlib import Path

__version__ = "0.1.0"

REPOSITORY = Path(__file__).resolve().parents[2]
"""The clone that this package runs from; ``configs/``, ``data/`` and ``outputs/`` are in it."""
