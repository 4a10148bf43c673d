"""Parsing rollouts, and the statistics of answers."""

from __future__ import annotations

import pytest
import torch

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.stages.answers import answer_statistics, parse_rollout
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
    completions = parse_rollout(rollout, ["first", "second"], thinks=False)
    assert [one.labels for one in completions] == [("happy",), (), (), ("sad", "sad")]
    assert [one.num_tokens for one in completions] == [2, 3, 1, 3]
    assert [(one.clip, one.group) for one in completions] == [("first", 0), ("first", 0), ("second", 1), ("second", 1)]
    assert [one.truncated for one in completions] == [False, True, False, False]


def test_answer_statistics_by_hand(lexicon):
    mask = torch.ones(1, 4, 1)
    texts = [["<answer> nervous, nervous, Nervous </answer>", "<answer> sad, qwertz </answer>", "", "sad"]]
    rollout = Rollout(TokenBatch(mask.long(), mask), mask, texts, torch.zeros(1, 4, dtype=torch.bool))
    assert answer_statistics(parse_rollout(rollout, ["clip"], thinks=False), lexicon) == {
        "words_per_answer": 5 / 4,
        "distinct_words": 3 / 4,
        "repeated_words": 2 / 4,
        "unmapped_share": 1 / 5,
        "format_rate": 2 / 4,
    }
