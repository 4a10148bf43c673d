"""Our own lexicon: what it holds, and that the file is what its source builds."""

import os
import statistics
import time
from pathlib import Path

import pytest

from affectgpt_r1.emotion import build_bundled, bundled
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import LexiconError

LEXICON = load_lexicon("bundled")
RESOURCES = Path(build_bundled.__file__).parent / "resources"

FAMILIES = {
    "joy": "happy joyful excited proud cheerful delighted amused",
    "sadness": "sad lonely disappointed hurt depressed heartbroken hopeless",
    "anger": "angry irritated frustrated furious annoyed enraged resentful",
    "fear": "afraid scared nervous anxious worried terrified frightened",
    "surprise": "surprised shocked amazed astonished startled",
    "disgust": "disgusted revolted nauseated",
    "contempt": "contemptuous scornful disdainful",
    "calm": "calm relaxed relieved serene content",
    "self-conscious": "embarrassed guilty ashamed humiliated",
    "others": "grateful confused curious tired bored hopeful confident jealous shy skeptical stressed overwhelmed",
}


@pytest.mark.parametrize("word", [word for words in FAMILIES.values() for word in words.split()])
def test_everyday_words_map_on_most_wheels(word):
    assert sum(mask > 0 for mask in LEXICON.masks(word)) >= 3
    for wheel in range(1, 6):
        assert (LEXICON.cluster(word, wheel, 1) is None) == (LEXICON.cluster(word, wheel, 2) is None)


def test_the_families_are_told_apart():
    """On every wheel that has both, joy, sadness, anger, fear and surprise lie in different clusters."""
    heads = ("happy", "sad", "angry", "afraid", "surprised")
    for wheel in range(1, 6):
        clusters = [cluster for head in heads if (cluster := LEXICON.cluster(head, wheel)) is not None]
        assert len(set(clusters)) == len(clusters) >= 4


@pytest.mark.parametrize(
    ("one", "other", "wheels"),
    [("disgusted", "angry", 3), ("disgusted", "contemptuous", 1), ("calm", "excited", 3), ("ashamed", "sad", 3)],
)
def test_finer_families_differ_on_some_wheels(one, other, wheels):
    pairs = zip(LEXICON.masks(one), LEXICON.masks(other), strict=True)
    assert sum(a != b for a, b in pairs if a and b) >= wheels


def test_words_of_one_family_share_a_cluster_with_its_head():
    for family in ("sadness", "anger", "fear", "surprise", "disgust", "contempt", "calm", "self-conscious"):
        head, *others = FAMILIES[family].split()
        for word in others:
            shared = [a & b for a, b in zip(LEXICON.masks(head), LEXICON.masks(word), strict=True)]
            assert any(shared), (head, word)


@pytest.mark.parametrize(
    ("form", "base"),
    [
        ("worrying", "worried"),
        ("Sadness", "sadness"),
        ("irritates", "irritated"),
        ("nervously", "nervous"),
        ("fears", "fear"),
    ],
)
def test_inflections_follow_their_word(form, base):
    assert form in LEXICON
    assert LEXICON.synonym(form) == LEXICON.synonym(base)
    assert LEXICON.masks(form, 2) == LEXICON.masks(base, 2)


@pytest.mark.parametrize("word", ["neutral", "", "not a word", "the", "face", "voice", "says"])
def test_words_without_emotion_map_nowhere(word):
    assert word not in LEXICON


def test_each_wheel_has_two_levels():
    for wheel, num_centres in enumerate((8, 6, 6, 11, 8), start=1):
        assert len(LEXICON.clusters(wheel, 1)) == num_centres
        assert len(LEXICON.clusters(wheel, 2)) > 2 * num_centres


def test_loading_is_fast():
    times = []
    for _ in range(5):
        started = time.process_time()
        bundled.load_bundled.__wrapped__()
        times.append(time.process_time() - started)
    assert statistics.median(times) < 0.05


def test_the_file_is_what_its_source_builds():
    pytest.importorskip("lemminflect", reason="word forms are built with the dev extra")
    groups = build_bundled.read_groups((RESOURCES / "groups.txt").read_text(encoding="utf-8"))
    expected = build_bundled.to_json(build_bundled.build(groups))
    assert (RESOURCES / "bundled.json").read_text(encoding="utf-8") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a | b/c | - | -\nx\n", "line 1: 3 places for 5 wheels"),
        ("a | b/c | - | - | - | d\nx\n", "line 1: 'd' is neither"),
        ("a | b/c | - | - | - | -\nx, y\nb | b/c | - | - | - | -\ny\n", "line 4: 'y' is also in 'a'"),
    ],
)
def test_a_malformed_source_is_named(text, message):
    with pytest.raises(LexiconError, match=message):
        build_bundled.read_groups(text)


def test_it_covers_the_published_wheel_words():
    if not os.environ.get("AFFECTGPT_WHEELS"):
        pytest.skip("AFFECTGPT_WHEELS does not name the published lexicons")
    from affectgpt_r1.emotion import published

    folder = Path(os.environ["AFFECTGPT_WHEELS"]) / "mer2025"
    words = {word for wheel in published._WHEELS for row in published._read_wheel(folder / wheel) for word in row}
    assert len(words) == 253
    assert sum(word in LEXICON for word in words) / len(words) >= 0.95
