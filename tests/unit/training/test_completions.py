"""Parsing rollouts, and the statistics of answers."""

from __future__ import annotations

import math

import pytest
import torch

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.training.completions import answer_statistics, parse_rollout
from affectgpt_r1.types import Rollout, TokenBatch


@pytest.fixture(scope="module")
def lexicon():
    return load_lexicon("bundled")


def test_rollouts_are_parsed_clip_by_clip():
    mask = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]])
    texts = [["<answer> happy </answer>", "x"], ["", "<answer> sad, sad </answer>"]]
    rollout = Rollout(
        TokenBatch(mask.long(), mask), torch.zeros_like(mask), texts, torch.tensor([[False, True], [False, False]])
    )
    completions = parse_rollout(rollout, ["first", "second"], enable_thinking=False)
    assert [one.labels for one in completions] == [("happy",), (), (), ("sad", "sad")]
    assert [one.num_tokens for one in completions] == [2, 3, 1, 3]
    assert [(one.clip, one.group) for one in completions] == [("first", 0), ("first", 0), ("second", 1), ("second", 1)]
    assert [one.truncated for one in completions] == [False, True, False, False]


def test_answer_statistics_by_hand(lexicon):
    mask = torch.ones(1, 4, 1)
    texts = [["<answer> nervous, nervous, Nervous </answer>", "<answer> sad, qwertz </answer>", "", "sad"]]
    rollout = Rollout(TokenBatch(mask.long(), mask), mask, texts, torch.zeros(1, 4, dtype=torch.bool))
    targets = [("sad", "Sad", "angry"), ("happy",), ("happy",), ()]
    num_clusters = sum(len(lexicon.clusters(wheel)) for wheel in range(1, 6))
    named = sum(lexicon.cluster(word, wheel) is not None for word in ("nervous", "sad") for wheel in range(1, 6))
    assert 5 < named <= 10
    assert answer_statistics(parse_rollout(rollout, ["clip"], enable_thinking=False), targets, lexicon) == {
        "words_per_answer": 5 / 4,
        "distinct_words": 3 / 4,
        "target_words": 4 / 4,
        "distinct_per_target": 3 / 4,
        "repeated_words": 2 / 4,
        "unmapped_rate": 1 / 5,
        "clusters_named_fraction": pytest.approx(named / num_clusters / 4),
        "answer_entropy": pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4)),  # twice nothing, and two others
        "format_rate": 2 / 4,
    }


def test_a_spray_names_more_clusters_and_one_answer_for_all_has_no_entropy(lexicon):
    def statistics(*texts):
        completions = [parse_completion(f"<answer> {text} </answer>", enable_thinking=False) for text in texts]
        return answer_statistics(completions, [("happy",)] * len(texts), lexicon)

    many = statistics(*["happy, sad, angry, afraid, surprised"] * 6)
    single = statistics("happy", "sad", "angry", "afraid", "surprised", "happy")
    assert many["clusters_named_fraction"] == pytest.approx(
        5 * statistics("happy")["clusters_named_fraction"], rel=0.25
    )
    assert many["clusters_named_fraction"] > 3 * single["clusters_named_fraction"]
    assert many["answer_entropy"] == 0
    assert 1.5 < single["answer_entropy"] < math.log(6)
    assert statistics("sad, Happy", "happy , sad, sad")["answer_entropy"] == 0  # the same set


def test_answers_by_a_published_sentence_are_read():
    mask = torch.ones(1, 2, 1)
    texts = [["The character's emotional state is happy, proud.", "<answer> sad </answer>"]]
    rollout = Rollout(TokenBatch(mask.long(), mask), mask, texts, torch.zeros(1, 2, dtype=torch.bool))
    one, other = parse_rollout(rollout, ["clip"], enable_thinking=False, kind="ovlabel")
    assert (one.labels, one.answer, one.well_formed) == (("happy", "proud"), "happy, proud", True)
    assert (other.labels, other.answer, other.well_formed) == ((), None, False)
    verdicts = Rollout(rollout.completions, mask, [["The best one is a1.", "a1"]], rollout.truncated)
    first, second = parse_rollout(verdicts, ["clip"], enable_thinking=False, kind="preference")
    assert (first.answer, first.labels, second.answer) == ("a1", (), None)
