"""Recall and precision rewards are the metric's own; repetition by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from affectgpt_r1.config.compose import instantiate, instantiate_stage
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.metrics.emotion_wheel import EmotionWheelScore
from affectgpt_r1.rewards.accuracy import AccuracyReward
from affectgpt_r1.rewards.recall_precision import SetScoreReward
from affectgpt_r1.rewards.repetition import RepetitionReward
from affectgpt_r1.training.advantages import objective_advantages
from helpers.configs import compose_config

LEXICON = load_lexicon("bundled")
WORDS = ("happy", "joyful", "sad", "angry", "surprised", "nervous", "calm", "qwertz", "proud", "lonely")


def answer(text: str, subtitle: str = "", *, enable_thinking: bool = False):
    return dataclasses.replace(parse_completion(text, enable_thinking=enable_thinking), subtitle=subtitle)


def random_pairs(number: int):
    rng = np.random.default_rng(0)
    draws = [[tuple(rng.choice(WORDS, size=rng.integers(0, 5))) for _ in range(number)] for _ in range(2)]
    return [answer(f"<answer> {', '.join(words)} </answer>") for words in draws[0]], draws[1]


def test_each_sample_has_the_metric_s_recall_and_precision():
    completions, targets = random_pairs(60)
    scores = {name: SetScoreReward(LEXICON, name)(completions=completions, targets=targets) for name in
              ("recall", "precision")}  # fmt: skip
    f1 = AccuracyReward(LEXICON)(completions=completions, targets=targets)
    num_scored = 0
    for index, (completion, target) in enumerate(zip(completions, targets, strict=True)):
        metric = EmotionWheelScore(LEXICON)
        metric.update([completion.labels], [target])
        values = metric.compute()
        for name, rewards in scores.items():
            assert (rewards[index] is None) == (f1[index] is None)
            if rewards[index] is not None:
                assert rewards[index] == pytest.approx(float(values[name]), abs=1e-12)
                num_scored += 1
    assert num_scored > 60


def test_their_mean_over_clips_is_the_corpus_score_where_each_clip_is_on_all_wheels():
    completions = [answer("<answer> happy, sad </answer>"), answer("<answer> angry </answer>")]
    targets = [("happy",), ("angry", "sad")]
    metric = EmotionWheelScore(LEXICON)
    metric.update([one.labels for one in completions], targets)
    values = metric.compute()
    for name in ("recall", "precision"):
        rewards = SetScoreReward(LEXICON, name)(completions=completions, targets=targets)
        assert np.mean(rewards) == pytest.approx(float(values[name]), abs=1e-12)


def test_a_score_of_another_name_is_refused():
    with pytest.raises(ConfigError, match="score='f1' is neither recall nor precision"):
        SetScoreReward(LEXICON, "f1")


SUBTITLE = "I told you I am so happy for you today"


@pytest.mark.parametrize(
    ("text", "subtitle", "score"),
    [
        ("<answer> happy, calm </answer>", SUBTITLE, 0.0),
        ("<answer> happy, Happy, calm </answer>", "", -1 / 3),
        ("<answer> happy, happy, happy, happy </answer>", "", -3 / 4),
        ("<answer> </answer>", "", 0.0),
        ("", SUBTITLE, 0.0),
        ("<answer> I told you I am so happy for you today </answer>", SUBTITLE, -1.0),
        # Words: she says i am so happy; n-grams of four: 3, of which "i am so happy" is the subtitle's.
        ("<think> She says: I am so happy. </think> <answer></answer>", SUBTITLE, -1 / 3),
        ("<answer> so happy for you </answer>", "so happy", 0.0),  # the subtitle has no n-gram
        # Half of the labels are repeated, and four of seven n-grams (i told you i am i told you i am) are copied.
        ("<answer> I told you I am, I told you I am </answer>", SUBTITLE, -1.0),
        ("<answer> calm, I told you I, told you I am </answer>", SUBTITLE, -3 / 6),
    ],
)
def test_repetition_by_hand(text, subtitle, score):
    completion = answer(text, subtitle, enable_thinking="<think>" in text)
    assert RepetitionReward()(completions=[completion], targets=[("happy",)]) == pytest.approx([score])


def test_an_ngram_of_one_word_is_refused():
    with pytest.raises(ConfigError, match=r"repetition.copied_ngram=1 must be at least 2"):
        RepetitionReward(1)


def test_mer_r1_normalises_recall_and_precision_by_themselves():
    stage = instantiate_stage(compose_config("train", "stage=grpo", "reward=mer_r1").stage)
    assert stage.config.multi_objective_aggregation == "normalize_then_sum"
    assert stage.rewards.weights == dict.fromkeys(("recall", "precision", "format"), 1.0)
    texts = ["happy", "happy, sad, angry, calm", "sad", "happy, sad"]
    completions = [answer(f"<answer> {text} </answer>") for text in texts]
    scores = stage.rewards(completions=completions, targets=[("happy", "sad")] * 4)
    per_func = torch.stack(list(scores.rewards_per_func.values()), -1)[None]
    advantages = objective_advantages(per_func, torch.ones(3))[0]
    # By hand: recall 1/2, 1, 1/2, 1 and precision 1, 1/2, 1, 1 on every wheel that tells the words apart.
    recall, precision = per_func[0, :, 0], per_func[0, :, 1]
    total = sum((part - part.mean()) / (part.std() + 1e-4) for part in (recall, precision))
    torch.testing.assert_close(advantages, (total - total.mean()) / (total.std() + 1e-4))
    assert advantages.argmax() == 3
    one = instantiate_stage(compose_config("train", "stage=grpo").stage)
    assert one.config.multi_objective_aggregation == "sum_then_normalize"


def test_the_repetition_part_reads_the_subtitle_of_its_clip():
    rewards = instantiate(compose_config("train", "reward=accuracy_repetition").reward, "reward")
    texts = ["<answer> happy, happy </answer>", "<answer> happy </answer>"]
    total = rewards(completions=[answer(text) for text in texts], targets=[("happy",)] * 2).total
    assert total.tolist() == pytest.approx([1 + 0.2 - 0.5, 1.2])
