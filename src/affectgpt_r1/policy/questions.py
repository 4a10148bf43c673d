"""AffectGPT's question set: what is asked, and the sentence that answers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.types import EmotionSet

QUESTIONS: Mapping[str, str] = {
    "description": "Please infer the person's emotional state and provide your reasoning process.",
    "ovlabel": "Please recognize all possible emotional states of the character.",
    "onehot": "Please recognize the character's most likely emotional state.",
    "sentiment": (
        "Please select the most likely sentiment label that can best describe the person's emotional state: positive, "
        "negative, neutral."
    ),
}
"""Questions without parameters, by their published name; a clip's are drawn from ``data.questions``."""


def answer(kind: str, labels: EmotionSet, reason: str) -> str:
    """The answer that a labelled clip gives to a question of :data:`QUESTIONS`.

    Raises:
        ConfigError: Such clips do not answer that kind.
    """
    if kind == "description":
        return reason
    if kind == "ovlabel":
        return state_answer(", ".join(labels))
    if kind == "onehot":
        return state_answer(labels[0] if labels else "neutral")
    raise ConfigError(f"data.questions: labels and reasons do not answer {kind!r}; take description, ovlabel or onehot")


def state_answer(labels: str) -> str:
    """The answer to ``ovlabel``, and to ``onehot`` without candidates."""
    return f"The character's emotional state is {labels}."


def candidates_question(candidates: Sequence[str]) -> str:
    """``onehot`` with candidate labels."""
    return (
        "Please select the label that can best describe the person's emotional state from the provided candidate "
        f"labels: {', '.join(candidates)}."
    )


def candidates_answer(label: str) -> str:
    """The answer to :func:`candidates_question`."""
    return f"The most likely label is {label}."


def sentiment_answer(valence: float) -> str:
    """The answer to ``sentiment``: the sign of a valence score."""
    state = "positive" if valence > 0 else "negative" if valence < 0 else "neutral"
    return f"The character's sentiment state is {state}."


def valence_question(lowest: float, highest: float) -> str:
    """A score between the bounds of a data set."""
    return (
        "Please identify the overall positive or negative emotional polarity of the main characters. The output should "
        f"be a floating-point number ranging from {lowest:g} to {highest:g}. Here, {lowest:g} indicates extremely "
        f"negative emotions, 0 indicates neutral emotions, and {highest:g} indicates extremely positive emotions. "
        "Please provide your judgment as a floating-point number."
    )


def valence_answer(valence: float) -> str:
    """The answer to :func:`valence_question`."""
    return f"The valence score is {valence:.2f}."


def preference_question(first: str, second: str) -> str:
    """Which of two descriptions fits the clip."""
    return (
        f"We provide two descriptions. a1: {first} \t\t\t a2: {second} Please select the one that best matches the "
        "video content."
    )


def preference_answer(preference: str) -> str:
    """The answer to :func:`preference_question`: ``a1``, ``a2`` or ``same``."""
    if preference not in ("a1", "a2", "same"):
        raise ConfigError(f"preference={preference!r} is unknown; it is a1, a2 or same")
    if preference == "same":
        return "These two sentences describe the content of the video with the same accuracy."
    return f"The best one is {preference}."
