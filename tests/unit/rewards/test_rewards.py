"""Format, accuracy and their weighted sum, as tables."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.errors import ConfigError, TrainingError
from affectgpt_r1.rewards.accuracy import AccuracyReward
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.weighting import WeightedRewards

NO_THINK_FORMAT = {
    "<answer> happy </answer>": 1,
    "  <answer>happy</answer>\n": 1,
    "<answer></answer>": 0,
    "<answer>  </answer>": 0,
    "happy": 0,
    "": 0,
    "<answer> happy": 0,
    "happy </answer>": 0,
    "</answer> happy <answer>": 0,
    "<answer> happy </answer> <answer> sad </answer>": 0,
    "<answer> <answer> happy </answer> </answer>": 0,
    "<answer> happy </answer> </answer>": 0,
    "<answer> happy </answer> and more": 0,
    "well, <answer> happy </answer>": 0,
    "<think> a </think> <answer> happy </answer>": 0,
    "<Answer> happy </Answer>": 0,
}
THINK_FORMAT = {
    "<think> a </think> <answer> happy </answer>": 1,
    "<think>a</think><answer>happy</answer>": 1,
    "<answer> happy </answer>": 0,
    "<think> </think> <answer> happy </answer>": 0,
    "<think> a </think> <answer> </answer>": 0,
    "<answer> happy </answer> <think> a </think>": 0,
    "<think> a <answer> happy </answer> </think>": 0,
    "<think> a <answer> happy </think> </answer>": 0,
    "<think> <think> a </think> </think> <answer> happy </answer>": 0,
    "<think> a </think> <think> b </think> <answer> happy </answer>": 0,
    "<think> a </think> b <answer> happy </answer>": 0,
    "<think> a <answer> happy </answer>": 0,
    "<think> a </think>": 0,
}


@pytest.fixture(scope="module")
def lexicon():
    return load_lexicon("bundled")


def answers(*texts: str):
    return [parse_completion(f"<answer> {text} </answer>", enable_thinking=False) for text in texts]


@pytest.mark.parametrize(
    ("text", "enable_thinking", "expected"),
    [(text, False, score) for text, score in NO_THINK_FORMAT.items()]
    + [(text, True, score) for text, score in THINK_FORMAT.items()],
)
def test_format(text, enable_thinking, expected):
    completion = parse_completion(text, enable_thinking=enable_thinking)
    assert FormatReward()(completions=[completion], targets=[("happy",)]) == [float(expected)]


def test_a_perfect_answer_scores_one_and_a_foreign_one_zero(lexicon):
    completions = answers("happy", "angry", "", "qwertz")
    assert AccuracyReward(lexicon)(completions=completions, targets=[("happy",)] * 4) == [1.0, 0.0, 0.0, 0.0]


def test_a_target_that_maps_nowhere_has_no_score(lexicon):
    scores = AccuracyReward(lexicon)(completions=answers("happy", "happy"), targets=[("qwertz",), ()])
    assert scores == [None, None]


def test_half_an_answer(lexicon):
    # One of two clusters on every wheel: P = 1, R = 1/2, F = 2/3; one cluster too many: P = 1/2, R = 1, F = 2/3.
    scores = AccuracyReward(lexicon)(
        completions=answers("happy", "happy, angry"), targets=[("happy", "angry"), ("happy",)]
    )
    assert scores == pytest.approx([2 / 3, 2 / 3], abs=1e-9)


@pytest.mark.parametrize(
    ("penalty", "factor"), [("none", 1.0), ("inverse_gap", 1 / 2), ("ratio", 1 / 2), ("log_ratio", math.log(2, 3))]
)
def test_penalty_multiplies_the_score(lexicon, penalty, factor):
    reward = AccuracyReward(lexicon, penalty)
    assert reward(completions=answers("happy, angry"), targets=[("happy",)]) == pytest.approx(
        [2 / 3 * factor], abs=1e-9
    )
    assert reward(completions=answers("happy"), targets=[("happy", "angry")]) == pytest.approx([2 / 3], abs=1e-9)


def test_the_penalty_counts_distinct_words(lexicon):
    reward = AccuracyReward(lexicon, "inverse_gap")
    assert reward(completions=answers("happy, Happy , happy"), targets=[("happy",)]) == [1.0]
    # Two words of one cluster: the wheel sees no error, the penalty sees two words.
    assert reward(completions=answers("happy, joyful"), targets=[("happy",)]) == [0.5]


@pytest.mark.parametrize("penalty", ["none", "inverse_gap", "ratio", "log_ratio"])
def test_nothing_without_the_correct_answer_earns_more_than_it(lexicon, penalty):
    words = ("happy", "sad", "angry", "surprised", "nervous", "qwertz")
    texts = [", ".join(chosen) for size in range(4) for chosen in itertools.permutations(words, size)]
    texts += [", ".join(words), "happy " * 5]
    reward = AccuracyReward(lexicon, penalty)
    for target in [("happy",), ("sad", "angry"), ("nervous", "surprised", "happy")]:
        correct, *others = reward(completions=answers(", ".join(target), *texts), targets=[target] * (len(texts) + 1))
        assert correct == 1.0
        for text, score in zip(texts, others, strict=True):
            assert score <= correct
            assert score < correct or set(target) <= set(text.split(", ")), text


class Fixed:
    """A reward that returns what it was told."""

    def __init__(self, name: str, scores: list[float | None]) -> None:
        self.name = name
        self.scores = scores

    def __call__(self, *, completions, targets) -> list[float | None]:
        return self.scores


def test_weighted_sum_over_the_functions_that_apply():
    rewards = WeightedRewards(
        {"one": Fixed("one", [1.0, 0.5, None, None]), "two": Fixed("two", [0.0, 1.0, 1.0, None])},
        {"one": 1, "two": 0.2},
    )
    scores = rewards(completions=answers(*"abcd"), targets=[("happy",)] * 4)
    torch.testing.assert_close(scores.total, torch.tensor([1.0, 0.7, 0.2, math.nan]), equal_nan=True)
    torch.testing.assert_close(
        scores.rewards_per_func["one"], torch.tensor([1.0, 0.5, math.nan, math.nan]), equal_nan=True
    )
    torch.testing.assert_close(scores.rewards_per_func["two"], torch.tensor([0.0, 1.0, 1.0, math.nan]), equal_nan=True)


def test_the_main_setting(lexicon):
    rewards = WeightedRewards(
        {"accuracy": AccuracyReward(lexicon), "format": FormatReward()}, {"accuracy": 1.0, "format": 0.2}
    )
    completions = [
        parse_completion(text, enable_thinking=False)
        for text in ("<answer> happy </answer>", "<answer> happy </answer> x", "happy", "<answer> angry </answer>")
    ]
    scores = rewards(completions=completions, targets=[("happy",)] * 4)
    torch.testing.assert_close(scores.total, torch.tensor([1.2, 1.0, 0.0, 0.2]))


def test_malformed_answers_with_the_right_word_earn_less_than_the_correct_one(lexicon):
    rewards = WeightedRewards(
        {"accuracy": AccuracyReward(lexicon), "format": FormatReward()}, {"accuracy": 1.0, "format": 0.2}
    )
    correct = "<answer> happy </answer>"
    texts = [text for text, well_formed in NO_THINK_FORMAT.items() if not well_formed]
    completions = [parse_completion(text, enable_thinking=False) for text in (correct, *texts)]
    totals = rewards(completions=completions, targets=[("happy",)] * len(completions)).total.tolist()
    assert totals[0] == pytest.approx(1.2)
    assert max(totals[1:]) <= 1.0


@pytest.mark.parametrize(
    ("names", "weights"), [((), {}), (("one",), {}), (("one",), {"one": 1, "two": 1}), (("one",), {"two": 1})]
)
def test_parts_without_weight_and_weights_without_part_are_refused(names, weights):
    with pytest.raises(ConfigError, match=r"reward\.rewards.*reward\.weights"):
        WeightedRewards({name: Fixed(name, []) for name in names}, weights)


def test_a_reward_that_loses_a_score_is_an_error():
    rewards = WeightedRewards({"one": Fixed("one", [1.0])}, {"one": 1})
    with pytest.raises(ConfigError, match="one returned 1 scores for 2"):
        rewards(completions=answers("a", "b"), targets=[(), ()])


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (None, "mine returned NoneType for 2 completions"),
        (1.0, "mine returned float for 2 completions"),
        ([[1.0], [2.0]], r"mine returned \[1\.0\] for a completion"),
        (np.ones((2, 1)), r"mine returned array\(\[1\.\]\) for a completion"),
        (["1", "2"], "mine returned '1' for a completion"),
    ],
)
def test_scores_of_another_shape_are_refused(scores, message):
    """A list in a list was broadcast over the group's other rewards without a word."""
    rewards = WeightedRewards({"mine": Fixed("mine", scores)}, {"mine": 1})
    with pytest.raises(ConfigError, match=message):
        rewards(completions=answers("a", "b"), targets=[(), ()])


@pytest.mark.parametrize("scores", [np.array([0.5, 1.0]), torch.tensor([0.5, 1.0]), [np.float32(0.5), True]])
def test_scores_may_be_an_array(scores):
    rewards = WeightedRewards({"mine": Fixed("mine", scores)}, {"mine": 2})
    assert rewards(completions=answers("a", "b"), targets=[(), ()]).total.tolist() == [1.0, 2.0]


def test_a_reward_that_fails_stops_the_run():
    class Broken(Fixed):
        def __call__(self, *, completions, targets):
            raise RuntimeError("no network")

    with pytest.raises(RuntimeError, match="no network"):
        WeightedRewards({"one": Broken("one", [])}, {"one": 1})(completions=answers("a"), targets=[()])


class Given:
    """Gives the scores that it was made with."""

    name = "fixed"

    def __init__(self, *scores):
        self.scores = scores

    def __call__(self, *, completions, targets):
        return list(self.scores)


@pytest.mark.parametrize("score", [-math.inf, math.inf, 1e39])  # the last is infinite in float32
@pytest.mark.parametrize("weight", [1.0, 0.0])  # 0 times infinity is NaN, which would say "does not apply"
def test_an_infinite_score_stops_and_names_reward_and_clip(score, weight):
    completions = [dataclasses.replace(one, clip=f"clip{i}") for i, one in enumerate(answers("happy", "sad"))]
    rewards = WeightedRewards({"log": Given(0.5, score), "format": FormatReward()}, {"log": weight, "format": 1.0})
    with pytest.raises(TrainingError, match=r"reward log is -?inf for clip clip1, .*sad.*None where"):
        rewards(completions=completions, targets=[("happy",)] * 2)


def test_none_and_nan_still_say_that_a_reward_does_not_apply():
    rewards = WeightedRewards({"own": Given(None, math.nan, 1.0)}, {"own": 2.0})
    total = rewards(completions=answers("happy", "sad", "angry"), targets=[("happy",)] * 3).total
    assert total.isnan().tolist() == [True, True, False]
    assert total[2] == 2.0


def test_a_sum_that_overflows_is_named():
    rewards = WeightedRewards({"own": Given(1e30)}, {"own": 1e30})
    with pytest.raises(TrainingError, match="weighted sum of the rewards own is inf"):
        rewards(completions=answers("happy"), targets=[("happy",)])


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused(weight):
    with pytest.raises(ConfigError, match=r"reward\.weights\.own=-?(nan|inf)"):
        WeightedRewards({"own": Given(1.0)}, {"own": weight})


def test_weights_that_are_all_0_are_refused():
    with pytest.raises(ConfigError, match="all 0"):
        WeightedRewards({"own": Given(1.0)}, {"own": 0.0})
