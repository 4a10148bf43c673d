import math
import time

import numpy as np
import pytest

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.bootstrap import bootstrap_interval, paired_difference_interval
from affectgpt_r1.metrics.functional.wheel_f1 import WheelCounts, score_table, wheel_counts

LEXICON = load_lexicon("bundled")
WORDS = ["happy", "sad", "angry", "afraid", "surprised", "disgusted", "calm", "guilty", "neutral"]


def corpus(num_clips, seed=0):
    generator = np.random.default_rng(seed)
    targets = [tuple(generator.choice(WORDS, size=generator.integers(1, 4))) for _ in range(num_clips)]
    weak = [tuple(generator.choice(WORDS, size=2)) for _ in range(num_clips)]
    better = [w if generator.random() < 0.5 else t for w, t in zip(weak, targets, strict=True)]
    return targets, weak, better


@pytest.mark.parametrize("statistic", ["f1", "precision", "recall"])
def test_estimate_is_the_corpus_score(statistic):
    targets, weak, better = corpus(80)
    score = {
        name: score_table(predictions, targets, LEXICON)["mean_level1"][statistic]
        for name, predictions in (("weak", weak), ("better", better))
    }
    weak_counts, better_counts = (wheel_counts(predictions, targets, LEXICON) for predictions in (weak, better))
    interval = bootstrap_interval(weak_counts, statistic, resamples=200)
    assert interval.estimate == pytest.approx(score["weak"], abs=1e-12)
    assert interval.low < interval.estimate < interval.high
    difference = paired_difference_interval(better_counts, weak_counts, statistic, resamples=200)
    assert difference.estimate == pytest.approx(score["better"] - score["weak"], abs=1e-12)
    assert 0 < difference.low < difference.estimate < difference.high


def test_equals_resampling_the_clips_one_by_one():
    targets, weak, _ = corpus(25)
    generator = np.random.default_rng(3)
    rows = generator.integers(25, size=(60, 25))
    scores = []
    for row in rows:
        table = score_table([weak[clip] for clip in row], [targets[clip] for clip in row], LEXICON)
        scores.append(table["mean_level1"]["f1"])
    interval = bootstrap_interval(wheel_counts(weak, targets, LEXICON), resamples=60, seed=3)
    low, high = np.quantile(scores, [0.025, 0.975])
    assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


def test_width_is_that_of_a_mean():
    # All clips count and the answer is right for half of them: F = P = R is a plain mean of 0 and 1.
    right = [clip % 2 == 0 for clip in range(400)]
    predictions = [("happy",) if hit else ("sad",) for hit in right]
    interval = bootstrap_interval(wheel_counts(predictions, [("happy",)] * 400, LEXICON), seed=1)
    assert interval.estimate == pytest.approx(0.5)
    half_width = 1.96 * math.sqrt(0.25 / 400)
    assert interval.low == pytest.approx(0.5 - half_width, abs=0.006)
    assert interval.high == pytest.approx(0.5 + half_width, abs=0.006)


def test_pairing_narrows_the_interval_and_a_system_equals_itself():
    targets, weak, better = corpus(200)
    weak_counts, better_counts = (wheel_counts(predictions, targets, LEXICON) for predictions in (weak, better))
    paired = paired_difference_interval(better_counts, weak_counts, resamples=500)
    first, second = (bootstrap_interval(counts, resamples=500) for counts in (better_counts, weak_counts))
    unpaired_width = math.hypot(first.high - first.low, second.high - second.low)
    assert paired.high - paired.low < unpaired_width
    assert paired_difference_interval(weak_counts, weak_counts, resamples=50) == (0, 0, 0)


def test_seed_decides_and_confidence_widens():
    targets, weak, _ = corpus(60)
    counts = wheel_counts(weak, targets, LEXICON)
    assert bootstrap_interval(counts, seed=5) == bootstrap_interval(counts, seed=5)
    assert bootstrap_interval(counts, seed=5) != bootstrap_interval(counts, seed=6)
    narrow, wide = (bootstrap_interval(counts, confidence=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_two_thousand_resamples_of_six_hundred_clips_take_less_than_a_second():
    targets, weak, better = corpus(600)
    weak_counts, better_counts = (wheel_counts(predictions, targets, LEXICON) for predictions in (weak, better))
    started = time.process_time()
    paired_difference_interval(better_counts, weak_counts)
    assert time.process_time() - started < 1


def test_bad_arguments():
    targets, weak, _ = corpus(5)
    counts = wheel_counts(weak, targets, LEXICON)
    with pytest.raises(ValueError, match="same clips"):
        paired_difference_interval(counts, wheel_counts(weak, [("happy",)] * 5, LEXICON))
    with pytest.raises(ValueError, match="no clip counts"):
        bootstrap_interval(wheel_counts([("happy",)], [("neutral",)], LEXICON))
    with pytest.raises(ValueError, match="no clip counts"):
        bootstrap_interval(WheelCounts(*(np.zeros((0, 5)) for _ in range(3))))
    with pytest.raises(ValueError, match="unknown statistic 'accuracy'"):
        bootstrap_interval(counts, "accuracy")
    with pytest.raises(ValueError, match="resamples=0"):
        bootstrap_interval(counts, resamples=0)
    with pytest.raises(ValueError, match="confidence=1"):
        bootstrap_interval(counts, confidence=1)
