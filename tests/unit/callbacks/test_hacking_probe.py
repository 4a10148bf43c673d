"""What constant answers earn, and how reward parts follow the metric."""

from __future__ import annotations

import math
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.callbacks.hacking_probe import HackingProbe, spearman
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.metrics.constant_baselines import CONSTANT_ANSWER
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1
from affectgpt_r1.rewards.accuracy import AccuracyReward, length_factor
from affectgpt_r1.rewards.alignment import AlignmentReward
from affectgpt_r1.rewards.dual import DualReward
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.perception import PerceptionReward
from affectgpt_r1.rewards.weighting import WeightedRewards

TARGETS = [("happy",), ("sad", "angry"), ("surprised",), ("nervous",), ("happy", "proud"), ("happy",)]


@pytest.fixture(scope="module")
def lexicon():
    return load_lexicon("bundled")


class NoJudge:
    """A judge that must not be asked."""

    def wins(self, groups):
        raise AssertionError("asked")


@pytest.mark.parametrize("penalty", ["none", "ratio"])
def test_the_spray_earns_what_the_reward_gives_it(lexicon, penalty):
    rewards = WeightedRewards(
        {"accuracy": AccuracyReward(lexicon, penalty), "format": FormatReward()}, {"accuracy": 1.0, "format": 0.2}
    )
    probe = HackingProbe(rewards, lexicon, [], enable_thinking=False)
    expected = mean(
        0.2 + batch_mean_set_f1([CONSTANT_ANSWER], [target], lexicon)[0] * length_factor(penalty, 3, len(target))
        for target in TARGETS
    )
    earned = {name: float(value) for name, value in probe.constant_answer_rewards(TARGETS).items()}
    assert earned == {"constant3_reward": pytest.approx(expected, abs=1e-6)}
    assert float(probe.constant_answer_rewards(TARGETS[:1])["constant3_reward"]) == pytest.approx(
        0.2 + batch_mean_set_f1([CONSTANT_ANSWER], [TARGETS[0]], lexicon)[0] * length_factor(penalty, 3, 1), abs=1e-6
    )
    assert probe.constant_answer_rewards([]) == {}


def test_five_words_chosen_on_the_validation_clips_beat_the_three(lexicon):
    probe = HackingProbe(
        WeightedRewards({"a": AccuracyReward(lexicon)}, {"a": 1}), lexicon, TARGETS, enable_thinking=False
    )
    assert len(probe.constant_answers["constant5"]) == 5
    earned = probe.constant_answer_rewards(TARGETS)
    assert float(earned["constant5_reward"]) > float(earned["constant3_reward"])


def test_parts_that_compare_a_group_are_left_out_and_the_spray_reasons(lexicon):
    parts = {"dual": DualReward(lexicon), "alignment": AlignmentReward(lexicon), "format": FormatReward()}
    rewards = WeightedRewards(
        {**parts, "perception": PerceptionReward(NoJudge())}, dict.fromkeys([*parts, "perception"], 1)
    )
    probe = HackingProbe(rewards, lexicon, [], enable_thinking=True)
    expected = mean(
        2 + batch_mean_set_f1([CONSTANT_ANSWER], [target], lexicon)[0] for target in TARGETS
    )  # it agrees with itself, in form
    assert float(probe.constant_answer_rewards(TARGETS)["constant3_reward"]) == pytest.approx(expected, abs=1e-6)
    alone = WeightedRewards({"perception": PerceptionReward(NoJudge())}, {"perception": 1})
    probe = HackingProbe(alone, lexicon, TARGETS, enable_thinking=True)
    assert probe.constant_answer_rewards(TARGETS) == {}
    assert probe.part_correlations([parse_completion("", enable_thinking=True)], [("sad",)]) == {}


def test_correlations_by_part(lexicon):
    rewards = WeightedRewards(
        {"accuracy": AccuracyReward(lexicon), "format": FormatReward()}, {"accuracy": 1.0, "format": 0.2}
    )
    probe = HackingProbe(rewards, lexicon, [], enable_thinking=False)
    texts = ["<answer> angry </answer> x", "<answer> sad </answer>", "<answer> surprised </answer>", "<answer> calm </"]
    completions = [parse_completion(text, enable_thinking=False) for text in texts]
    targets = [("angry",), ("angry",), ("sad",), ("calm",)]
    # F is 1, 0, 0, 0 and the form is 0, 1, 1, 0.
    found = probe.part_correlations(completions, targets)
    assert found == {
        "spearman/accuracy": pytest.approx(1.0),
        "spearman/format": pytest.approx(-1 / math.sqrt(3)),
    }
    assert probe.part_correlations(completions[1:3], targets[1:3]) == {}


def slow_ranks(values):
    return [mean(place + 1 for place, other in enumerate(sorted(values)) if other == value) for value in values]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_spearman_against_a_slow_reference(pairs):
    first, second = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    found = spearman(torch.tensor(first), torch.tensor(second))
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
        return
    x, y = slow_ranks(first), slow_ranks(second)
    dx, dy = [value - mean(x) for value in x], [value - mean(y) for value in y]
    product = sum(a * b for a, b in zip(dx, dy, strict=True))
    norm = math.sqrt(sum(a * a for a in dx) * sum(b * b for b in dy))
    assert found == pytest.approx(product / norm, abs=1e-9)


def test_spearman_leaves_out_pairs_without_a_score():
    nan = float("nan")
    assert spearman(torch.tensor([1.0, nan, 2.0, 3.0]), torch.tensor([3.0, 9.0, 2.0, nan])) == pytest.approx(-1.0)
    assert spearman(torch.tensor([1.0, nan]), torch.tensor([3.0, 9.0])) is None
