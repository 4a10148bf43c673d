"""AffectGPT-R1: open-vocabulary multimodal emotion recognition, by SFT and then GRPO on the emotion-wheel metric."""

__version__ = "0.1.0"
