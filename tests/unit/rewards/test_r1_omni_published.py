"""R1-Omni's rewards as published, and where ours differ."""

from __future__ import annotations

import pytest

from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.r1_omni_published import PublishedFormatReward, PublishedSingleLabelReward
from affectgpt_r1.rewards.single_label import SingleLabelReward

REWARDS = (PublishedSingleLabelReward(), SingleLabelReward(), PublishedFormatReward(), FormatReward())
GOOD = "<think>A smile.</think>\n<answer>happy</answer>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, (1, 1, 1, 1)),
        ("<think>A smile.</think><answer> happy </answer>", (1, 1, 1, 1)),
        ("happy", (1, 0, 0, 0)),  # a bare label
        (" happy\n", (1, 0, 0, 0)),
        ("<think>A smile.</think>\n<answer>Happy</answer>", (0, 1, 1, 1)),  # case
        ("<think>A smile.</think>\n<answer>\nhappy\n</answer>", (0, 1, 1, 1)),  # tags on two lines
        ("<think>A smile.</think>\n<answer>sad</answer>", (0, 0, 1, 1)),
        (f"{GOOD}<answer>sad</answer>", (1, 0, 1, 0)),  # the first of two
        ("<think>A</think> so <answer>happy</answer>", (1, 1, 0, 0)),
        ("<think></think><answer>happy</answer>", (1, 1, 1, 0)),  # nothing thought
        ("<think><think>A</think></think><answer>happy</answer>", (1, 1, 1, 0)),
        ("<think>A<think></think><answer>happy</answer>", (1, 1, 1, 0)),
        ("<answer>happy</answer>", (1, 1, 0, 0)),
        (f" {GOOD}", (1, 1, 0, 1)),
        (f"{GOOD} ", (1, 1, 0, 1)),
        ("", (0, 0, 0, 0)),
    ],
)
def test_published_and_strict(text, expected):
    completion = parse_completion(text, enable_thinking=True)
    assert tuple(reward(completions=[completion], targets=[("happy",)])[0] for reward in REWARDS) == expected


def test_a_target_of_several_labels_has_no_score():
    completion = parse_completion(GOOD, enable_thinking=True)
    assert PublishedSingleLabelReward()(completions=[completion], targets=[("happy", "calm")]) == [None]
