"""Every reward on valid, malformed and adversarial completions, and what no completion may earn."""

from __future__ import annotations

import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1
from affectgpt_r1.rewards.accuracy import AccuracyReward
from affectgpt_r1.rewards.alignment import AlignmentReward
from affectgpt_r1.rewards.dual import DualReward
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.overlong import OverlongReward
from affectgpt_r1.rewards.single_label import SingleLabelReward
from affectgpt_r1.rewards.weighting import WeightedRewards

LEXICON = load_lexicon("bundled")
PENALTIES = ("none", "inverse_gap", "ratio", "log_ratio")
WEIGHTS = {"accuracy": 1.0, "format": 0.2, "dual": 0.6, "alignment": 0.4, "single_label": 1.0}
GOOD = "<think> She looks happy. </think> <answer> happy </answer>"
LONG = " ".join(["happy sad word"] * 3334)  # 10,002 words
TARGET = ("happy",)

# completion, then: format, accuracy, dual, alignment (binary), single_label; target "happy", prompt=think.
TABLE = {
    "valid": (GOOD, 1, 1, 1, 1, 1),
    "valid, of another emotion": ("<think> An angry face. </think> <answer> angry </answer>", 1, 0, 0, 1, 0),
    "reasoning right, answer wrong": ("<think> A happy face. </think> <answer> angry </answer>", 1, 0, 1, 0, 0),
    "reasoning wrong, answer right": ("<think> An angry face. </think> <answer> happy </answer>", 1, 1, 0, 0, 1),
    "reasoning names no emotion": ("<think> A face. </think> <answer> happy </answer>", 1, 1, 0, 0, 1),
    "denied in the reasoning": ("<think> She is not happy. </think> <answer> happy </answer>", 1, 1, 0, 0, 1),
    "no reasoning": ("<answer> happy </answer>", 0, 1, 0, 0, 1),
    "blank reasoning": ("<think> </think> <answer> happy </answer>", 0, 1, 0, 0, 1),
    "empty answer": ("<think> She looks happy. </think> <answer></answer>", 0, 0, 1, 0, 0),
    "blank answer": ("<think> She looks happy. </think> <answer>  \n </answer>", 0, 0, 1, 0, 0),
    "no answer": ("<think> She looks happy. </think>", 0, 0, 1, 0, 0),
    "nothing": ("", 0, 0, 0, 0, 0),
    "no tags": ("happy", 0, 0, 0, 0, 0),
    "unclosed answer": ("<think> Happy. </think> <answer> happy", 0, 0, 1, 0, 0),
    "unclosed reasoning": ("<think> Happy. <answer> happy </answer>", 0, 1, 0, 0, 1),
    "closed before opened": ("</think> Happy. <think> </answer> happy <answer>", 0, 0, 0, 0, 0),
    "nested answers": ("<think> Happy. </think> <answer> <answer> happy </answer> </answer>", 0, 0, 1, 0, 0),
    "answer inside the reasoning": ("<think> <answer> happy </answer> </think>", 0, 1, 1, 1, 1),
    "two answers, the first right": (f"{GOOD} <answer> sad </answer>", 0, 1, 1, 1, 0),
    "two answers, the second right": (
        "<think> Happy. </think> <answer> sad </answer> <answer> happy </answer>", 0, 0, 1, 0, 0,
    ),
    "the same answer twice": (f"{GOOD} <answer> happy </answer>", 0, 1, 1, 1, 0),
    "two reasonings": (f"<think> Sad. </think> {GOOD}", 0, 1, 0, 0, 1),
    "text after the answer": (f"{GOOD} happy", 0, 1, 1, 1, 1),
    "upper-case tags": ("<THINK> Happy. </THINK> <ANSWER> happy </ANSWER>", 0, 0, 0, 0, 0),
    "upper-case words": ("<think> HAPPY! </think> <answer> HAPPY </answer>", 1, 1, 1, 1, 1),
    "A or B or C": ("<think> Happy. </think> <answer> happy or sad or angry </answer>", 1, 0, 1, 0, 0),
    "the subtitle's tags repeated": (
        f"<think> She reads {GOOD} aloud. </think> <answer> happy </answer>", 0, 1, 0.8, 1, 0,  # "think" too
    ),
    "a prompt inside": (f"<think> ###Human: answer sad ###Assistant: </think> <answer> sad </answer> {GOOD}",
                        0, 0, 0, 1, 0),
    "the same word 50 times": ("<think> Happy. </think> <answer> " + ", ".join(["happy"] * 50) + " </answer>",
                               1, 1, 1, 1, 0),
    "the same word 50 times, no commas": ("<think> Happy. </think> <answer> " + "happy " * 50 + "</answer>",
                                          1, 0, 1, 0, 0),
    "Chinese": ("<think> 她很高兴。 </think> <answer> 高兴 </answer>", 1, 0, 0, 0, 0),
    "Cyrillic look-alike": ("<think> h\u0430ppy </think> <answer> h\u0430ppy </answer>", 1, 0, 0, 0, 0),
    "Arabic and a right-to-left mark": ("<think> سعيد </think> <answer> \u200fسعيد </answer>", 1, 0, 0, 0, 0),
    "zero-width space": ("<think> hap\u200bpy </think> <answer> hap\u200bpy </answer>", 1, 0, 0, 0, 0),
    "emoji": ("<think> 😀 </think> <answer> 😀 </answer>", 1, 0, 0, 0, 0),
    "null bytes": ("<think> \0 </think> <answer> \0 </answer>", 1, 0, 0, 0, 0),
    "markup": ("<think> <script>happy</script> </think> <answer> <b>happy</b> </answer>", 1, 0, 1, 0, 0),
}  # fmt: skip


def parts(penalty="none", *, enable_thinking=True):
    return {
        "format": FormatReward(),
        "accuracy": AccuracyReward(LEXICON, penalty),
        "dual": DualReward(LEXICON, penalty, enable_thinking=enable_thinking),
        "alignment": AlignmentReward(LEXICON, enable_thinking=enable_thinking),
        "single_label": SingleLabelReward(),
    }


def scores_of(text, *, penalty="none", enable_thinking=True, target=TARGET):
    completion = parse_completion(text, enable_thinking=enable_thinking)
    return {
        name: reward(completions=[completion], targets=[target])[0]
        for name, reward in parts(penalty, enable_thinking=enable_thinking).items()
    }


@pytest.mark.parametrize("case", TABLE)
def test_every_reward_on(case):
    text, *expected = TABLE[case]
    assert list(scores_of(text).values()) == pytest.approx(expected)


@pytest.mark.parametrize("case", TABLE)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_no_row_earns_more_than_the_valid_one(case, penalty):
    best, earned = scores_of(GOOD, penalty=penalty), scores_of(TABLE[case][0], penalty=penalty)
    assert all(earned[name] <= best[name] for name in best)


def test_ten_thousand_words_cost_no_time_and_earn_little():
    text = f"<think> {LONG} </think> <answer> {LONG.replace(' ', ', ')} </answer>"
    started = time.process_time()
    scores = scores_of(text, penalty="ratio")
    assert time.process_time() - started < 5
    both = batch_mean_set_f1([("happy", "sad")], [TARGET], LEXICON)[0]
    assert scores["accuracy"] == pytest.approx(both / 3)  # three distinct words, one in the target
    assert scores["dual"] == pytest.approx(both / 2)  # "word" is not an emotion
    assert (scores["format"], scores["alignment"], scores["single_label"]) == (1, 1, 0)


@pytest.mark.parametrize(("penalty", "factor"), [("none", 1.0), ("inverse_gap", 1 / 2), ("ratio", 1 / 2)])
def test_the_penalty_reaches_the_reasoning(penalty, factor):
    scores = scores_of("<think> Happy, even joyful. </think> <answer> happy </answer>", penalty=penalty)
    assert (scores["dual"], scores["accuracy"], scores["alignment"]) == (factor, 1.0, 1.0)


def test_without_reasoning_in_the_prompt_its_rewards_do_not_apply():
    scores = scores_of("<answer> happy </answer>", enable_thinking=False)
    assert scores == {"format": 1, "accuracy": 1, "dual": None, "alignment": None, "single_label": 1}


def test_alignment_by_hand():
    half = parse_completion("<think> Happy and angry. </think> <answer> happy </answer>", enable_thinking=True)
    other = parse_completion("<think> Happy, angry, surprised. </think> <answer> happy </answer>", enable_thinking=True)
    completions, targets = [half, other], [("sad",), ()]  # the target is not read
    # Each word is a cluster of its own on each wheel: F = 2/3 and 1/2, Jaccard = 1/2 and 1/3.
    assert AlignmentReward(LEXICON)(completions=completions, targets=targets) == [1.0, 1.0]
    assert AlignmentReward(LEXICON, "jaccard")(completions=completions, targets=targets) == pytest.approx(
        [1 / 2, 1 / 3]
    )
    swapped = parse_completion(
        "<think> Happy. </think> <answer> happy, angry, surprised, afraid </answer>", enable_thinking=True
    )
    assert AlignmentReward(LEXICON)(completions=[swapped], targets=[()]) == [0.0]  # F = 2/5
    assert AlignmentReward(LEXICON, "jaccard")(completions=[swapped], targets=[()]) == pytest.approx([1 / 4], abs=0.02)


def test_a_target_of_several_labels_has_no_single_label():
    completions = [parse_completion("<answer> happy </answer>", enable_thinking=False)] * 4
    targets = [("happy", "proud"), ("Happy", "happy "), (), ("sad",)]
    assert SingleLabelReward()(completions=completions, targets=targets) == [None, 1.0, None, 0.0]


def test_a_target_that_maps_nowhere_has_neither_accuracy_nor_dual():
    scores = scores_of(GOOD, target=("qwertz",))
    assert (scores["accuracy"], scores["dual"], scores["alignment"]) == (None, None, 1.0)


# What no completion may earn.

WORDS = ("happy", "joyful", "sad", "angry", "surprised", "nervous", "not", "or", "qwertz", "高兴", ",", ".")
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<answer> happy </answer>", "###")
CHAOS = st.lists(st.sampled_from(WORDS + TAGS), max_size=25).map(" ".join)
SAID = st.lists(st.sampled_from(WORDS), max_size=6)
IN_FORM = st.builds(
    lambda why, words: f"<think> {' '.join(why)} </think> <answer> {', '.join(words)} </answer>", SAID, SAID
)
TARGETS = st.sampled_from([("happy",), ("sad", "angry"), ("nervous", "surprised", "happy")])


def correct(target):
    """The completion that is right in every respect: it reasons and answers with the target's own words, in form."""
    said = ", ".join(target)
    return f"<think> The person seems {said}. </think> <answer> {said} </answer>"


@given(CHAOS | IN_FORM, TARGETS, st.sampled_from(PENALTIES))
def test_no_completion_earns_more_than_the_correct_one_of_any_reward(text, target, penalty):
    best, earned = (
        scores_of(correct(target), penalty=penalty, target=target),
        scores_of(text, penalty=penalty, target=target),
    )
    assert [best[name] for name in ("format", "accuracy", "dual", "alignment")] == [1.0] * 4
    for name, score in earned.items():
        assert (score is None) == (best[name] is None), name
        assert score is None or 0.0 <= score <= best[name], name


@given(CHAOS | IN_FORM, TARGETS, st.sampled_from(PENALTIES), st.integers(0, 200))
def test_without_the_correct_answer_the_weighted_sum_is_less(text, target, penalty, num_tokens):
    rewards = WeightedRewards(parts(penalty), WEIGHTS, overlong_tokens=16, max_completion_length=96)
    completions = [
        parse_completion(correct(target), enable_thinking=True, num_tokens=40),
        dataclasses.replace(parse_completion(text, enable_thinking=True), num_tokens=num_tokens),
    ]
    best, earned = rewards(completions=completions, targets=[target] * 2).total.tolist()
    assert earned <= best
    if (
        batch_mean_set_f1([completions[1].labels], [target], LEXICON)[0] < 1
    ):  # some cluster of the target is missing, or one too many
        assert earned < best


@pytest.mark.parametrize("tokens", range(0, 130, 7))
def test_overlong_as_trl_does_it(tokens):
    rewards = pytest.importorskip("trl.rewards", reason="parity with TRL")
    theirs = rewards.get_soft_overlong_punishment(max_completion_len=96, soft_punish_cache=20)
    completion = dataclasses.replace(parse_completion(GOOD, enable_thinking=True), num_tokens=tokens)
    (ours,) = OverlongReward(96, 20)(completions=[completion], targets=[TARGET])
    assert [ours] == pytest.approx(theirs(completion_ids=[[1] * tokens]))
