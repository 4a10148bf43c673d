"""Our own lexicon: what it holds, and that the file is what its source builds."""

import os
import statistics
import time
from pathlib import Path

import pytest

from affectgpt_r1.emotion import bundled
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import LexiconError
from tools import build_bundled

LEXICON = load_lexicon("bundled")
RESOURCES = Path(bundled.__file__).parent / "resources"

# Clusters of each wheel at level 1 and at level 2.
SIZES = [(8, 48), (6, 25), (6, 43), (20, 36), (19, 41)]

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


# Few of the sources speak of shyness, boredom or (Willcox alone) tiredness.
ON_TWO_WHEELS = ("shy", "bored")


@pytest.mark.parametrize("word", [word for words in FAMILIES.values() for word in words.split() if word != "tired"])
def test_everyday_words_map_on_most_wheels(word):
    assert sum(mask > 0 for mask in LEXICON.masks(word)) >= 3 - (word in ON_TWO_WHEELS)
    for wheel in range(1, 6):
        assert (LEXICON.cluster(word, wheel, 1) is None) == (LEXICON.cluster(word, wheel, 2) is None)


def test_the_families_are_told_apart():
    """On every wheel that has both, joy, sadness, anger, fear and surprise are in different clusters."""
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
    sizes = [tuple(len(LEXICON.clusters(wheel, level)) for level in (1, 2)) for wheel in range(1, 6)]
    assert sizes == SIZES


def test_loading_is_fast():
    times = []
    for _ in range(5):
        started = time.process_time()
        bundled.load_bundled.__wrapped__()
        times.append(time.process_time() - started)
    assert statistics.median(times) < 0.2


def test_the_file_is_what_its_source_builds():
    pytest.importorskip("lemminflect", reason="word forms are built with the dev extra")
    expected = build_bundled.to_json(build_bundled.build(build_bundled.read_source()))
    assert (RESOURCES / "bundled.json").read_text(encoding="utf-8") == expected


CHARTS = build_bundled.read_charts((build_bundled.SOURCES / "charts.txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize("wheel", [1, 2, 3])
def test_printed_words_have_the_place_of_their_chart(wheel):
    for word, (inner, outer) in CHARTS[wheel - 1].items():
        assert (LEXICON.cluster(word, wheel, 1), LEXICON.cluster(word, wheel, 2)) == (inner, outer)


@pytest.mark.parametrize(
    ("word", "wheel", "cluster"),
    [
        ("joviality", 2, "joy"),
        ("homesick", 2, "sadness"),  # Shaver et al. list it under neglect, apart from longing
        ("yearning", 2, "love"),
        ("surprised", 3, "powerful"),  # Willcox: aware
        ("astonished", 3, None),
        ("disgusted", 3, None),
        ("nervous", 1, None),
        ("anxious", 1, "fear"),
    ],
)
def test_a_chart_places_its_words_and_no_others(word, wheel, cluster):
    assert LEXICON.cluster(word, wheel) == cluster


def test_a_group_follows_its_first_printed_member():
    groups = [build_bundled.Group("a", (("g", "h"), None), ("x", "=y", "z"))]
    charts = [{"y": ("b", "c"), "z": ("d", "e")}, {}, {"x": ("f", "f")}]
    first, second = build_bundled.place_on_charts(groups, charts)
    assert first == ("a", (("b", "c"), None, ("f", "f"), ("g", "h"), None), ("x", "=y"))
    assert second == ("a", (("d", "e"), None, ("f", "f"), ("g", "h"), None), ("z",))
    with pytest.raises(LexiconError, match="'q' is in no group"):
        build_bundled.place_on_charts(groups, [{"q": ("b", "c")}, {}, {}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/b: x\n", "line 1: .* below a \\[chart\\]"),
        ("[one]\na/b x\n", "line 2: 'a/b x' is not"),
        ("[one]\nab: x\n", "charts.txt, line 2: 'ab' is neither"),
        ("[one]\na/b: x\na/c: x\n", "line 3: 'x' has another place above"),
        ("[one]\na/b: x\n", "1 charts where 3 belong"),
    ],
)
def test_a_malformed_chart_is_named(text, message):
    with pytest.raises(LexiconError, match=message):
        build_bundled.read_charts(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a | b/c | - | -\nx\n", "line 1: 3 places for 2"),
        ("a | b/c | d\nx\n", "line 1: 'd' is neither"),
        ("a | b/c | -\nx, y\nb | b/c | -\ny\n", "line 4: 'y' is also in 'a'"),
    ],
)
def test_a_malformed_source_is_named(text, message):
    with pytest.raises(LexiconError, match=message):
        build_bundled.read_groups(text)


def test_it_covers_the_published_wheel_words():
    if not os.environ.get("AFFECTGPT_WHEELS"):
        pytest.skip("AFFECTGPT_WHEELS does not name the published lexicons")
    from affectgpt_r1.emotion import published_lexicon as published

    folder = Path(os.environ["AFFECTGPT_WHEELS"]) / "mer2025"
    words = {word for wheel in published._WHEELS for row in published._read_wheel(folder / wheel) for word in row}
    assert len(words) == 253
    assert sum(word in LEXICON for word in words) / len(words) >= 0.95
