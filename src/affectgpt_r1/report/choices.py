"""Printed names of the sweeps and their choices."""

from __future__ import annotations

TITLES = {
    "reward": "Reward",
    "reasoning": "Reasoning",
    "penalty": "Length penalty",
}
QUESTIONS = {
    "reward": "Which reward makes the policy better than its supervised start?",
    "reasoning": "Does the policy score better when it reasons before it answers?",
    "penalty": "What stops the policy from listing ever more words?",
}
_LABELS = {
    "reward": {"none": "no RL", "accuracy_format": "accuracy + format", "all": "all five"},
    "reasoning": {
        "think": "think",
        "no_think": "no-think",
        "think_untrained": "think, no RL",
        "no_think_untrained": "no-think, no RL",
    },
    "penalty": {"none": "no penalty", "inverse_gap": "P1", "ratio": "P2", "log_ratio": "P3"},
}
PENALTIES = ("inverse_gap", "ratio", "log_ratio")
FORMULAS = "P1 = 1/(|o|−|y|+1), P2 = |y|/|o|, P3 = log(|y|+1)/log(|o|+1), on distinct words, where |o| > |y|."


def label(sweep: str, choice: str) -> str:
    """Return the printed name of a choice.

    >>> label("penalty", "ratio"), label("reward", "dual")
    ('P2', 'dual')
    """
    return _LABELS.get(sweep, {}).get(choice, choice.replace("_", " "))
