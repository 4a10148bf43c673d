"""Hit rate, sentiment and recall against slow loops, and their properties."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectgpt_r1.emotion.bundled import load_bundled
from affectgpt_r1.metrics.functional.hit_rate import hit_rate
from affectgpt_r1.metrics.functional.neutral import counts_with_neutral
from affectgpt_r1.metrics.functional.polarity import load_polarity
from affectgpt_r1.metrics.functional.recognition import (
    CLASSES,
    normalise_class,
    recognition_scores,
    single_label_scores,
)
from affectgpt_r1.metrics.functional.sentiment import sentiment_scores

LEXICON = load_bundled()
BASIC = ("neutral", "angry", "happy", "sad", "worried", "surprise")
WORDS = [*BASIC, "Joyful", " furious ", "disgusted", "calm", "zzz", "grief", "amused", "NEUTRAL"]
labels = st.lists(st.sampled_from(WORDS), max_size=5).map(tuple)
basic_corpora = st.lists(st.tuples(labels, st.sampled_from(BASIC)), min_size=1, max_size=12)
sentiment_corpora = st.lists(
    st.tuples(st.sampled_from((-1, 0, 1)), st.sampled_from((-1.0, -0.2, 0.0, 0.4, 3.0))), min_size=1, max_size=20
)
recall_corpora = st.lists(
    st.tuples(
        st.sampled_from([*CLASSES["mafw"], "Fearful.", "happiness", "fine", "", None]), st.sampled_from(CLASSES["mafw"])
    ),
    min_size=1,
    max_size=20,
)


def clusters(words, wheel):
    return {cluster for word in words if (cluster := LEXICON.cluster(word, wheel)) is not None}


def clusters_with_neutral(words, wheel):
    neutral = {"neutral"} if any(word.strip().lower() == "neutral" for word in words) else set()
    return clusters(words, wheel) | neutral


def mean(numbers):
    return sum(numbers) / len(numbers) if numbers else math.nan


def slow_hit_rate(predictions, targets):
    rates, mscores, corrected = [], [], []
    for wheel in range(1, 6):
        hits, fractions, precisions = [], [], []
        candidates = clusters(BASIC, wheel)
        for prediction, target in zip(predictions, targets, strict=True):
            g, y = clusters([target], wheel), clusters(prediction, wheel)
            if g:
                hits.append(len(g & y))
                fractions.append(len(g & y) / len(y & candidates) if y & candidates else 0)
            g, y = clusters_with_neutral([target], wheel), clusters_with_neutral(prediction, wheel)
            if g:
                precisions.append(len(g & y) / len(y) if y else 0)
        for scores, per_clip in ((rates, hits), (mscores, fractions), (corrected, precisions)):
            if per_clip:
                scores.append(mean(per_clip))
    return mean(rates), mean(mscores), mean(corrected)


def slow_f1(predicted, targets, name):
    right = sum(p == g == name for p, g in zip(predicted, targets, strict=True))
    precision = right / predicted.count(name) if name in predicted else 0
    recall = right / targets.count(name) if name in targets else 0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0


def slow_sentiment(predictions, values, neutral):
    kept = [(p, v) for p, v in zip(predictions, values, strict=True) if v != 0]
    predicted = ["positive" if p > 0 else neutral if p == 0 else "negative" for p, _ in kept]
    targets = ["positive" if v > 0 else "negative" for _, v in kept]
    if not targets:
        return math.nan, math.nan
    waf = sum(targets.count(name) / len(targets) * slow_f1(predicted, targets, name) for name in set(targets))
    return waf, mean([p == g for p, g in zip(predicted, targets, strict=True)])


@settings(deadline=None)
@given(basic_corpora)
def test_hit_rate_equals_the_slow_loop(corpus):
    predictions, targets = map(list, zip(*corpus, strict=True))

    assert [float(score) for score in hit_rate(predictions, targets, BASIC, LEXICON)] == pytest.approx(
        slow_hit_rate(predictions, targets), abs=1e-12, nan_ok=True
    )


def test_hit_rate_by_hand():
    predictions = [("joyful",), ("sad", "angry", "happy"), (), ("neutral",), ("happy", "neutral")]
    targets = ["happy", "sad", "angry", "neutral", "happy"]

    scores = hit_rate(predictions, targets, BASIC, LEXICON)

    # Neutral is dropped: hits 1, 1, 0, 1 of four. mscore: 1, 1/3, 0, 1. Corrected, five clips: 1, 1/3, 0, 1, 1/2.
    assert float(scores.hit_rate) == pytest.approx(3 / 4)
    assert float(scores.mscore) == pytest.approx((1 + 1 / 3 + 0 + 1) / 4)
    assert float(scores.corrected) == pytest.approx((1 + 1 / 3 + 0 + 1 + 1 / 2) / 5)


def test_naming_every_class_is_free_as_published_and_punished_as_corrected():
    targets = [name for name in BASIC if name != "neutral"]

    scores = hit_rate([BASIC] * len(targets), targets, BASIC, LEXICON)

    assert float(scores.hit_rate) == 1
    assert float(scores.corrected) < 1 / 4


def test_neutral_is_one_cluster_of_its_own():
    counts = counts_with_neutral([(" Neutral", "neutral", "happy")], [("neutral",)], LEXICON)

    assert counts.hits.tolist() == [[1] * 5]
    assert counts.predicted.tolist() == [[2] * 5]
    assert counts.relevant.tolist() == [[1] * 5]


@settings(deadline=None)
@given(sentiment_corpora)
def test_sentiment_equals_the_slow_loop(corpus):
    predictions, values = map(list, zip(*corpus, strict=True))

    scores = [float(score) for score in sentiment_scores(predictions, values)]

    assert scores[:2] == pytest.approx(slow_sentiment(predictions, values, "negative"), abs=1e-12, nan_ok=True)
    assert scores[2:] == pytest.approx(slow_sentiment(predictions, values, "neutral"), abs=1e-12, nan_ok=True)


def test_sentiment_by_hand():
    scores = sentiment_scores([1, 0, -1, 0, 1, -1], [0.4, 1.0, -2.0, -0.1, -3.0, 0.0])

    # Published, five clips: positive TP 1 FP 1 FN 1, F1 1/2; negative TP 2 FP 1 FN 1, F1 2/3.
    assert float(scores.waf) == pytest.approx(2 / 5 * 1 / 2 + 3 / 5 * 2 / 3)
    assert float(scores.accuracy) == pytest.approx(3 / 5)
    # Corrected: negative TP 1 FP 0 FN 2, F1 1/2; the neutral of the second clip is not a false negative of "negative".
    assert float(scores.waf_corrected) == pytest.approx(2 / 5 * 1 / 2 + 3 / 5 * 1 / 2)
    assert float(scores.accuracy_corrected) == pytest.approx(2 / 5)


@settings(deadline=None)
@given(recall_corpora)
def test_recall_equals_the_slow_loop(corpus):
    predictions, targets = map(list, zip(*corpus, strict=True))
    names = [normalise_class(prediction or "") for prediction in predictions]
    right = [name == target for name, target in zip(names, targets, strict=True)]
    by_class = [mean([hit for hit, of in zip(right, targets, strict=True) if of == name]) for name in set(targets)]

    scores = recognition_scores(predictions, targets, CLASSES["mafw"])

    assert float(scores.war) == pytest.approx(mean(right), abs=1e-12)
    assert float(scores.uar) == pytest.approx(mean(by_class), abs=1e-12)
    assert float(scores.unparsed_rate) == pytest.approx(mean([name not in CLASSES["mafw"] for name in names]))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("fearful", "fear"), ("Surprised.", "surprise"), (" Happiness ", "happy"), ("anger", "angry"),
        ("sadness", "sad"), ("contemptuous", "contempt"), ("disappointed", "disappointment"),
        ("helpless", "helplessness"), ("anxious", "anxiety"), ("calm", "calm"), ("neutral", "neutral"),
    ],
)  # fmt: skip
def test_class_names(label, name):
    assert normalise_class(label) == name


def test_recall_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="'calm' is none of the classes happy, sad"):
        recognition_scores(["calm"], ["calm"], CLASSES["dfew"])
    with pytest.raises(ValueError, match="1 predictions for 2 targets"):
        recognition_scores(["sad"], ["sad", "sad"], CLASSES["dfew"])
    with pytest.raises(ValueError, match="1 predictions for 2 values"):
        sentiment_scores([1], [1.0, 2.0])


def test_every_group_and_word_has_one_polarity():
    polarity = load_polarity()
    groups = {LEXICON.synonym(word) for word in LEXICON.entries}

    assert set(polarity.groups) == groups
    assert set(polarity.words.values()) | set(polarity.groups.values()) == {-1, 0, 1}
    assert all(polarity.polarity(word) is not None for word in LEXICON.entries)


@pytest.mark.parametrize(
    ("words", "sign"),
    [
        (("happy",), 1), (("Worried", "sad"), -1), (("neutral",), 0), ((), 0), (("zzz",), 0), (("zzz", "angry"), -1),
        (("sad", "happy"), 0), (("sad", "Sad ", "happy"), 0), (("surprised",), 0), (("shocked",), -1),
        (("positive",), 1), (("negative",), -1), (("pity",), -1), (("calm", "serious"), 0),
    ],
)  # fmt: skip
def test_sentiment_of_words(words, sign):
    assert load_polarity().sentiment(words) == sign


def test_polarity_has_one_sign_a_word():
    polarity = load_polarity()

    assert polarity.polarity("zzz") is None
    assert polarity.polarity("worries") == polarity.polarity("worry") == -1


def test_a_class_named_twice_is_one_answer_wherever_it_is_scored():
    answers, targets = [("happy", "Happiness."), ("sad", "angry"), ()], [("happy",), ("sad",), ("sad",)]

    assert single_label_scores(answers, targets) == {
        "war": pytest.approx(1 / 3), "uar": 0.5, "unparsed_rate": pytest.approx(2 / 3)
    }  # fmt: skip


def test_a_wheel_without_a_target_by_switch():
    word = next(word for word in LEXICON.entries if sorted(map(bool, LEXICON.masks(word)))[:2] == [False, True])
    scores = [hit_rate([(word,)], [word], [word], LEXICON, no_target) for no_target in ("leave", "zero", "nan")]
    assert [score.hit_rate for score in scores] == pytest.approx([1, 0.8, math.nan], nan_ok=True)
    assert [score.corrected for score in scores] == [1, 1, 1]
