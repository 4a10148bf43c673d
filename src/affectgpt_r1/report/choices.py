"""Printed names of the sweeps, of the compared policies and of their choices."""

from __future__ import annotations

_TITLES = {
    "reward": "Reward",
    "reasoning": "Reasoning",
    "penalty": "Length penalty",
    "objective": "Objective",
}
_QUESTIONS = {
    "reward": "Which reward makes the policy better than its supervised start?",
    "reasoning": "Does the policy score better when it reasons before it answers?",
    "penalty": "What stops the policy from listing ever more words?",
    "objective": "Is another objective (recall and precision, CHORD, faithfulness) better than accuracy + format?",
}
_POLICIES_QUESTION = (
    "Does GRPO on the emotion-wheel metric make the policy better than its supervised start (SFT), and than supervised "
    "training continued for as long (control)?"
)
_POLICIES = {"sft": "SFT", "control": "control", "grpo": "GRPO"}
_LABELS = {
    "reward": {"none": "no RL", "accuracy_format": "accuracy + format", "all": "all five"},
    "reasoning": {
        "think": "think",
        "no_think": "no-think",
        "think_untrained": "think, no RL",
        "no_think_untrained": "no-think, no RL",
    },
    "penalty": {"none": "no penalty", "inverse_gap": "P1", "ratio": "P2", "log_ratio": "P3"},
    "objective": {
        "accuracy": "accuracy + format",
        "mer_r1": "recall | precision",
        "chord_low": "CHORD, μ 0.1",
        "chord_high": "CHORD, μ 0.5",
        "chord_cosine": "CHORD, μ 0.9 to 0.05",
    },
}
PENALTIES = ("inverse_gap", "ratio", "log_ratio")
FORMULAS = "P1 = 1/(|o|−|y|+1), P2 = |y|/|o|, P3 = log(|y|+1)/log(|o|+1), on distinct words, where |o| > |y|."


def title(sweep: str) -> str:
    """Return the printed name of a sweep, or of an experiment whose policies were compared.

    >>> title("penalty"), title("demo-no_think")
    ('Length penalty', 'Policies of demo-no_think')
    """
    return _TITLES.get(sweep, f"Policies of {sweep}")


def question(sweep: str) -> str:
    """Return what a sweep or a comparison of policies asks."""
    return _QUESTIONS.get(sweep, _POLICIES_QUESTION)


def label(sweep: str, choice: str) -> str:
    """Return the printed name of a choice.

    >>> label("penalty", "ratio"), label("reward", "dual"), label("demo-no_think", "grpo")
    ('P2', 'dual', 'GRPO')
    """
    return _LABELS.get(sweep, _POLICIES).get(choice, choice.replace("_", " "))
