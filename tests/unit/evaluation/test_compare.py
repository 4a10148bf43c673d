"""Greedy answers, what a modality contributes, paired differences, constant answers."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.evaluation.compare import (
    Answers,
    answer_lines,
    decode_answers,
    differences,
    join_answers,
    score_labels,
    system_summary,
)
from affectgpt_r1.metrics.constant_baselines import best_constant_answer
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1
from affectgpt_r1.types import Completion, Sampling, UnreadableClip

GREEDY = Sampling(temperature=0.0, max_completion_length=6)
TARGETS = [("happy",), ("sad",), ("angry",), ("happy", "sad")]


@pytest.fixture(scope="module")
def lexicon():
    return load_lexicon("bundled")


def answered(*texts: str, targets=TARGETS, unreadable=()) -> Answers:
    completions = [parse_completion(f"<answer> {text} </answer>", enable_thinking=False) for text in texts]
    return Answers([f"clip_{index}" for index in range(len(texts))], list(targets), completions, list(unreadable))


PERFECT = answered("happy", "sad", "angry", "happy, sad")
HALF = answered("happy", "sad", "happy", "angry")
NOTHING = answered("", "qwertz", "", "")


def test_answers_come_in_order_with_every_clip_that_was_lost(tiny_policy, make_batch):
    lost = UnreadableClip("clip_9", "truncated")
    first, second = make_batch(2), make_batch(3, seed=1, unreadable=(lost,))
    nothing = make_batch(0, frames=None, waveforms=None, unreadable=(UnreadableClip("clip_8", "empty"),))
    answers = decode_answers(tiny_policy, [first, nothing, second], GREEDY)
    assert answers.names == [*first.names, *second.names]
    assert answers.targets == [*first.labels, *second.labels]
    assert answers.unreadable == [UnreadableClip("clip_8", "empty"), lost]
    expected = [text for batch in (first, second) for (text,) in tiny_policy.generate(batch, 1, GREEDY).texts]
    assert [one.text for one in answers.completions] == expected


@pytest.mark.parametrize("modality", ["video", "audio", "text"])
def test_leaving_a_modality_out_takes_it_from_every_prompt(tiny_policy, make_batch, monkeypatch, modality):
    prompts: list[str] = []
    generate = tiny_policy.generate

    def record(batch, num_generations, sampling):
        prompts.extend(tiny_policy.prompts(batch))
        return generate(batch, num_generations, sampling)

    monkeypatch.setattr(tiny_policy, "generate", record)
    decode_answers(tiny_policy, [make_batch()], GREEDY, without=modality)
    mark = {"video": "<FaceHere>", "audio": "<AudioHere>", "text": "<Subtitle>"}
    assert len(prompts) == 4
    for kind, text in mark.items():
        assert all((text in prompt) == (kind != modality) for prompt in prompts)
    assert all(("<MultiHere>" in prompt) == (modality == "text") for prompt in prompts)


def test_stored_features_give_the_same_answers(tiny_policy, make_batch):
    batch = make_batch()
    texts = [
        [one.text for one in decode_answers(tiny_policy, [batches], GREEDY).completions]
        for batches in (batch, tiny_policy.with_features(batch))
    ]
    assert texts[0] == texts[1]


def test_scores_by_hand(lexicon):
    perfect = score_labels(PERFECT.labels, TARGETS, lexicon)
    assert perfect["mean_level1"] == {"f1": 1.0, "precision": 1.0, "recall": 1.0}
    assert perfect["interval"] == {"f1": [1.0, 1.0], "precision": [1.0, 1.0], "recall": [1.0, 1.0]}
    assert set(perfect["wheels"]) == {f"wheel{number}" for number in range(1, 6)}
    half = score_labels(HALF.labels, TARGETS, lexicon)
    # Two answers right of four, and their targets found: P = R = F = 1/2 on every wheel.
    assert half["mean_level1"] == pytest.approx({"f1": 0.5, "precision": 0.5, "recall": 0.5}, abs=1e-12)
    low, high = half["interval"]["f1"]
    assert 0 <= low < 0.5 < high <= 1
    assert score_labels(NOTHING.labels, TARGETS, lexicon)["mean_level1"]["f1"] == 0.0


def test_summary_says_what_a_modality_contributes(lexicon):
    summary = system_summary(PERFECT, {"video": HALF, "text": PERFECT}, lexicon)
    assert summary["mean_level1"]["f1"] == 1.0
    assert summary["without"]["video"]["f1"] == pytest.approx(0.5)
    assert summary["without"]["video"]["drop"] == pytest.approx(0.5)
    assert summary["without"]["text"] == {"f1": 1.0, "drop": 0.0, "interval": [0.0, 0.0]}
    assert summary["words_per_answer"] == 5 / 4
    assert summary["format_rate"] == 1.0


def test_differences_are_paired_and_signed_and_skip_missing_systems(lexicon):
    systems = {"grpo": PERFECT, "sft": HALF}
    rows = differences(systems, [("grpo", "sft"), ("sft", "grpo"), ("grpo", "control"), ("sft", "sft")], lexicon)
    assert len(rows) == 3
    forward, backward, same = rows.values()
    assert forward["f1"] == pytest.approx(0.5)
    assert backward["f1"] == pytest.approx(-0.5)
    assert forward["interval"] == pytest.approx([-bound for bound in reversed(backward["interval"])])
    assert (same["f1"], same["interval"]) == (0.0, [0.0, 0.0])


def test_the_best_constant_answer_of_one_word_is_the_best_of_all_words(lexicon):
    targets = [("happy",)] * 3 + [("sad", "lonely")] * 2 + [("angry",)]

    def mean(answer) -> float:
        return sum(batch_mean_set_f1([answer] * len(targets), targets, lexicon)) / len(targets)

    words = {word for target in targets for word in target}
    assert mean(best_constant_answer(targets, lexicon, num_words=1)) == max(mean((word,)) for word in words)
    pair = best_constant_answer(targets, lexicon, num_words=2)
    first = pair[:1]
    assert mean(pair) == max(mean((*first, word)) for word in words - set(first))
    assert mean(pair) <= max(mean(two) for two in itertools.combinations(sorted(words), 2))


def test_a_constant_answer_has_the_words_asked_for_or_all_that_exist(lexicon):
    targets = [("happy", "sad"), ("angry",), ("qwertz",)]
    assert len(best_constant_answer(targets, lexicon, num_words=2)) == 2
    assert sorted(best_constant_answer(targets, lexicon, num_words=9)) == ["angry", "happy", "qwertz", "sad"]
    assert best_constant_answer([], lexicon) == ()
    assert best_constant_answer(targets, lexicon) == best_constant_answer(targets[::-1], lexicon)


def test_only_frequent_words_are_candidates(lexicon):
    targets = [("happy", "sad")] * 3 + [("angry",)]
    assert set(best_constant_answer(targets, lexicon, num_words=5, candidates=2)) == {"happy", "sad"}


def test_lines_say_what_is_answered_without_a_modality(lexicon):
    plain, full = (
        [json.loads(line) for line in answer_lines(HALF, lexicon, without).splitlines()]
        for without in (None, {"audio": NOTHING, "text": PERFECT})
    )

    assert [set(line) for line in plain] == [{"name", "target", "openset", "completion", "well_formed", "f1"}] * 4
    assert [line["well_formed"] for line in plain] == [True] * 4
    assert [line.pop("without") for line in full][:2] == [
        {"audio": [], "text": ["happy"]},
        {"audio": ["qwertz"], "text": ["sad"]},
    ]
    assert full == plain


def test_answers_of_another_order_cannot_be_compared_by_accident(lexicon):
    """The pairs are clip by clip, so that both systems have to hold the same number of clips."""
    shorter = Answers(*(value[:3] for value in PERFECT[:3]), [])
    with pytest.raises((ValueError, RuntimeError)):
        differences({"grpo": PERFECT, "sft": shorter}, [("grpo", "sft")], lexicon)


def test_unmapped_and_repeated_words_are_counted(lexicon):
    repeating = dataclasses.replace(PERFECT.completions[0], labels=("happy", "happy", "qwertz"))
    summary = system_summary(PERFECT._replace(completions=[repeating] * 4), {}, lexicon)
    assert (summary["repeated_words"], summary["unmapped_rate"]) == (1.0, pytest.approx(1 / 3))


def test_shares_of_processes_are_joined_in_the_order_of_the_split():
    names = ["a", "b", "c", "d", "e"]
    gone = {name: UnreadableClip(name, "no file") for name in "be"}
    done = {name: Completion(name, None, name, (name,), True) for name in names}
    shares = [
        Answers(["a", "c"], [("x",), ("y",)], [done["a"], done["c"]], [gone["e"]]),
        Answers(["d"], [("z",)], [done["d"]], [gone["b"]]),
    ]
    assert join_answers(shares, names) == Answers(
        ["a", "c", "d"], [("x",), ("y",), ("z",)], [done["a"], done["c"], done["d"]], [gone["b"], gone["e"]]
    )
