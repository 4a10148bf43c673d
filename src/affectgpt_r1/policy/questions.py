"""AffectGPT's question set, and the sentence that answers each question."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.types import Annotations, EmotionSet


class Question(NamedTuple):
    """A question and its answer, with the names of the clip's facts in braces.

    Facts are ``labels``, ``label`` (the first), ``reason`` and the clip's annotations.
    """

    question: str
    answer: str


# The kinds of question by their published name (`onehot`: `onehot_wo_candidates`)
QUESTIONS: Mapping[str, Question] = {
    "description": Question(
        "Please infer the person's emotional state and provide your reasoning process.",
        "{reason}",
    ),
    "ovlabel": Question(
        "Please recognize all possible emotional states of the character.",
        "The character's emotional state is {labels}.",
    ),
    "onehot": Question(
        "Please recognize the character's most likely emotional state.",
        "The character's emotional state is {label}.",
    ),
    # Two slips of the published wording are corrected: candidates in an order that changed from run to run, and below a
    # ligature in "floating-point".
    "onehot_w_candidates": Question(
        "Please select the label that can best describe the person's emotional state from the provided candidate "
        "labels: {candidates}.",
        "The most likely label is {label}.",
    ),
    "sentiment": Question(
        "Please select the most likely sentiment label that can best describe the person's emotional state: positive, "
        "negative, neutral.",
        "The character's sentiment state is {sentiment}.",
    ),
    "valence": Question(
        "Please identify the overall positive or negative emotional polarity of the main characters. The output should "
        "be a floating-point number ranging from {lowest:g} to {highest:g}. Here, {lowest:g} indicates extremely "
        "negative emotions, 0 indicates neutral emotions, and {highest:g} indicates extremely positive emotions. "
        "Please provide your judgment as a floating-point number.",
        "The valence score is {valence:.2f}.",
    ),
    "preference": Question(
        "We provide two descriptions. a1: {a1} \t\t\t a2: {a2} Please select the one that best matches the video "
        "content.",
        "{verdict}",
    ),
    "reward": Question(
        "We have provided a description: {reason} \t\t\t Please evaluate and decide whether to accept or reject this "
        "description based on its alignment with the video content.",
        "{reward} this sentence.",
    ),
}

# What answers `preference`
VERDICTS: Mapping[str, str] = {
    "a1": "The best one is a1.",
    "a2": "The best one is a2.",
    "same": "These two sentences describe the content of the video with the same accuracy.",
}

LABEL_KINDS = ("ovlabel", "onehot", "onehot_w_candidates")  # kinds whose answer states emotion words
# Kinds whose answer is one of a few, and the classes that are scored: as in EmoPrefer without `same`
CHOICES: Mapping[str, tuple[str, ...]] = {
    "sentiment": ("positive", "negative", "neutral"),
    "preference": ("a1", "a2"),
    "reward": ("accept", "reject"),
}


def question(kind: str, reason: str = "", annotations: Annotations | None = None) -> str:
    """Return the question that a clip is asked, of a kind in :data:`QUESTIONS`.

    Raises:
        ConfigError: The kind is unknown, or the clip lacks what it asks about.
    """
    return _filled(kind, _known(kind).question, {"reason": reason, **(annotations or {})})


def answer(kind: str, labels: EmotionSet, reason: str = "", annotations: Annotations | None = None) -> str:
    """Return the sentence that answers :func:`question`.

    Raises:
        ConfigError: The kind is unknown, or the clip lacks the answer.
    """
    facts = {"reason": reason, **(annotations or {})}
    if labels:
        facts |= {"labels": ", ".join(labels), "label": labels[0]}
    if verdict := VERDICTS.get(str(facts.get("preference"))):
        facts["verdict"] = verdict
    return _filled(kind, _known(kind).answer, facts)


def stated(kind: str, text: str) -> str | None:
    """Read back from a completion what the sentence of :func:`answer` states; None where it lacks such a sentence.

    >>> stated("ovlabel", "The character's emotional state is happy, proud.")
    'happy, proud'
    >>> stated("preference", "The best one is a2.")
    'a2'
    """
    if kind == "preference":
        return next((name for name, sentence in VERDICTS.items() if sentence in text), None)
    if kind not in (*LABEL_KINDS, *CHOICES):
        return None
    opening, closing = re.split(r"\{.*\}", QUESTIONS[kind].answer)
    start = text.find(opening)
    if start < 0:
        return None
    said, _, _ = text[start + len(opening) :].partition(closing)
    return said.strip() or None


def _known(kind: str) -> Question:
    if kind not in QUESTIONS:
        raise ConfigError(f"data.questions: {kind!r} is unknown; choose among {', '.join(QUESTIONS)}")
    return QUESTIONS[kind]


def _filled(kind: str, template: str, facts: Mapping[str, str | float]) -> str:
    try:
        return template.format_map(facts)
    except KeyError as error:
        raise ConfigError(
            f"a clip is asked {kind!r} and has no {error.args[0]}: name {kind} in data.questions, and its column in "
            "the label file"
        ) from error
