"""The wheel score against slow set arithmetic, and its properties."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.emotion_wheel import EmotionWheelScore
from affectgpt_r1.metrics.functional.wheel_f1 import (
    batch_mean_set_f1,
    per_sample_scores,
    score_table,
    wheel_counts,
)

LEXICON = load_lexicon("bundled")
WORDS = [
    "happy",
    "Joyful",
    " sad ",
    "angry",
    "furious",
    "afraid",
    "surprised",
    "disgusted",
    "calm",
    "guilty",
    "neutral",
]
WORDS += ["worried", "bored", "zzz", "confused", "proud"]
labels = st.lists(st.sampled_from(WORDS), max_size=5).map(tuple)
corpora = st.lists(st.tuples(labels, labels), min_size=1, max_size=12)
levels = st.sampled_from((1, 2))


def slow_clusters(words, wheel, level):
    return {cluster for word in words if (cluster := LEXICON.cluster(word, wheel, level)) is not None}


def slow_scores(predictions, targets, level):
    """Mean F, P and R over the wheels, and F per wheel, in plain sets."""
    per_wheel = []
    for wheel in range(1, 6):
        precisions, recalls = [], []
        for prediction, target in zip(predictions, targets, strict=True):
            y, g = slow_clusters(prediction, wheel, level), slow_clusters(target, wheel, level)
            if g:
                precisions.append(len(g & y) / len(y) if y else 0.0)
                recalls.append(len(g & y) / len(g))
        if not recalls:
            per_wheel.append((math.nan,) * 3)
            continue
        p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
        per_wheel.append((2 * p * r / (p + r) if p + r else 0.0, p, r))
    scored = [row for row in per_wheel if not math.isnan(row[0])]
    f1, precision, recall = (
        ([sum(column) / len(scored) for column in zip(*scored, strict=True)]) if scored else [math.nan] * 3
    )
    wheels = {f"wheel{wheel}_f1": row[0] for wheel, row in enumerate(per_wheel, start=1)}
    return {"f1": f1, "precision": precision, "recall": recall, **wheels}


def result(metric):
    return {name: float(value) for name, value in metric.compute().items()}


def scored(batches, level=1):
    metric = EmotionWheelScore(LEXICON, level)
    for batch in batches:
        metric.update([prediction for prediction, _ in batch], [target for _, target in batch])
    return metric


@given(corpora, levels)
def test_equals_slow_set_arithmetic(corpus, level):
    found = result(scored([corpus], level))
    expected = slow_scores([p for p, _ in corpus], [t for _, t in corpus], level)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12, nan_ok=True)
    words = [word for prediction, _ in corpus for word in prediction]
    unmapped = [word for word in words if not any(LEXICON.cluster(word, wheel, 1) for wheel in range(1, 6))]
    assert found["unmapped_rate"] == pytest.approx(len(unmapped) / max(1, len(words)))
    assert found["num_samples"] == len(corpus)


@given(corpora, st.randoms(use_true_random=False), st.integers(1, 5))
def test_batches_order_and_merging_do_not_matter(corpus, random, size):
    once = result(scored([corpus]))
    shuffled = random.sample(corpus, len(corpus))
    batches = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
    assert result(scored(batches)) == pytest.approx(once, abs=0, rel=0, nan_ok=True)
    merged, other = scored(batches[::2]), scored(batches[1::2])
    merged.merge_state(other)
    assert result(merged) == pytest.approx(once, abs=0, rel=0, nan_ok=True)


@given(labels, labels, levels)
def test_per_sample_score_equals_slow_set_arithmetic(prediction, target, level):
    f1s = []
    for wheel in range(1, 6):
        y, g = slow_clusters(prediction, wheel, level), slow_clusters(target, wheel, level)
        if g:
            f1s.append(2 * len(g & y) / (len(g) + len(y)))
    found = batch_mean_set_f1([prediction], [target], LEXICON, level)[0]
    if f1s:
        assert found == pytest.approx(sum(f1s) / len(f1s), abs=1e-12)
        assert 0 <= found <= 1
    else:
        assert found is None


@given(corpora, levels)
def test_reward_and_metric_share_their_counts(corpus, level):
    predictions, targets = [p for p, _ in corpus], [t for _, t in corpus]
    scores = per_sample_scores(wheel_counts(predictions, targets, LEXICON, level))
    for index, reward in enumerate(batch_mean_set_f1(predictions, targets, LEXICON, level)):
        counted = scores.counted[index]
        if reward is None:
            assert not counted.any()
        else:
            assert reward == pytest.approx(float(scores.f1[index][counted].mean()), abs=1e-12)


@given(labels, labels, st.randoms(use_true_random=False))
def test_duplicates_case_and_order_do_not_matter(prediction, target, random):
    changed = [word.swapcase() if random.random() < 0.5 else f" {word} " for word in (*prediction, *prediction)]
    random.shuffle(changed)
    counts = wheel_counts([prediction], [target], LEXICON)
    assert all(
        np.array_equal(a, b) for a, b in zip(counts, wheel_counts([tuple(changed)], [target], LEXICON), strict=True)
    )


@given(st.lists(labels, min_size=1, max_size=8), st.integers(1, 5))
def test_part_of_a_perfect_answer_keeps_precision(targets, kept):
    perfect = per_sample_scores(wheel_counts(targets, targets, LEXICON))
    assert (perfect.f1[perfect.counted] == 1).all()
    part = per_sample_scores(counts := wheel_counts([target[:kept] for target in targets], targets, LEXICON))
    answered = part.counted & (counts.predicted > 0)
    assert bool((part.precision[answered] == 1).all())
    assert bool((part.recall <= perfect.recall).all())


@given(corpora, levels)
def test_scores_lie_between_0_and_1(corpus, level):
    found = result(scored([corpus], level))
    del found["num_samples"]
    assert all(math.isnan(value) or 0 <= value <= 1 for value in found.values())


def test_numbers_by_hand():
    # happy and sad have a cluster on every wheel, and never the same one.
    predictions = [("happy", "sad"), ("happy",), ("zzz",), ("happy",)]
    targets = [("happy",), ("sad", "happy"), ("sad",), ("neutral",)]
    found = result(scored([list(zip(predictions, targets, strict=True))]))
    assert found["precision"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["recall"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["f1"] == pytest.approx(0.5)
    assert found["unmapped_rate"] == pytest.approx(1 / 5)
    assert found["num_samples"] == 4
    rewards = batch_mean_set_f1(predictions, targets, LEXICON)
    assert rewards == [pytest.approx(2 / 3), pytest.approx(2 / 3), 0.0, None]


def test_wheels_without_a_counted_sample_stay_out_of_the_mean():
    # Willcox prints nothing like amazement
    assert LEXICON.cluster("amazed", 3) is None
    found = result(scored([[(("amazed",), ("amazed",))]]))
    assert math.isnan(found["wheel3_f1"])
    assert found["f1"] == found["precision"] == found["recall"] == 1


def test_zero_division():
    table = score_table([("happy",)], [("sad",)], LEXICON)
    assert all(scores["f1"] == 0 for scores in table.values())
    table = score_table([("happy",)], [("sad",)], LEXICON, zero_division="nan")
    assert all(math.isnan(scores["f1"]) for scores in table.values())


def test_table_counts_base_forms_and_synonyms():
    # One inflection of a base form, one synonym of it, and one word of another group.
    table = score_table([("irritating", "vexed", "sad")], [("irritated",)], LEXICON)
    assert LEXICON.base_form("irritating") == LEXICON.base_form("irritated") == "irritated"
    assert table["case1"]["precision"] == pytest.approx(1 / 3)
    assert table["case2"]["precision"] == pytest.approx(1 / 2)
    assert table["case1"]["recall"] == table["case2"]["recall"] == 1


def test_metric_survives_pickle_clone_and_reset():
    metric = scored([[(("happy",), ("happy", "sad"))]])
    before = result(metric)
    assert result(pickle.loads(pickle.dumps(metric))) == before
    assert result(metric.clone()) == before
    assert metric.hits_by_predicted.dtype == torch.float64
    metric.reset()
    assert float(metric.num_samples) == 0


def test_forward_gives_the_batch_and_keeps_the_sum():
    metric = EmotionWheelScore(LEXICON)
    assert float(metric([("happy",)], [("happy",)])["f1"]) == 1
    assert float(metric([("happy",)], [("sad",)])["f1"]) == 0
    assert float(metric.compute()["f1"]) == pytest.approx(0.5)
    assert metric.higher_is_better is True
    assert metric.full_state_update is False


def test_bad_arguments():
    with pytest.raises(ValueError, match="1 predictions for 2 targets"):
        wheel_counts([("happy",)], [("happy",), ("sad",)], LEXICON)
    with pytest.raises(ValueError, match="level"):
        EmotionWheelScore(LEXICON, level=3)
    with pytest.raises(ValueError, match="level"):
        batch_mean_set_f1([("happy",)], [("happy",)], LEXICON, level=0)[0]


@settings(max_examples=20)
@given(st.text(max_size=20))
def test_any_text_is_a_word(text):
    assert batch_mean_set_f1([(text,)], [("happy",)], LEXICON)[0] is not None


def test_empty_corpus_gives_empty_counts():
    assert wheel_counts([], [], LEXICON).hits.shape == (0, 5)
    assert batch_mean_set_f1([], [], LEXICON) == []
