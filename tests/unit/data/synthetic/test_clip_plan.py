from __future__ import annotations

import csv
import io
from collections import Counter

import pytest

from affectgpt_r1.data.synthetic.clip_plan import plan_clips
from affectgpt_r1.data.synthetic.cues import FACE, FACE_CUES, STATED, TOPICS, VOICE, VOICE_CUES
from affectgpt_r1.data.synthetic.emotion_words import CLUSTER_OF, COMPATIBLE, FILLERS, SARCASTIC, WORDS
from affectgpt_r1.data.synthetic.labels import digest, label_files
from affectgpt_r1.data.synthetic.sentences import CONTEXTS, OPENERS, PHRASES, pool_of
from affectgpt_r1.data.synthetic.settings import RenderConfig
from affectgpt_r1.errors import ConfigError

LARGE = RenderConfig(seed=3, num_caption=1500, num_exact=300, num_validation=150, num_test=600)


@pytest.fixture(scope="module")
def plans():
    return plan_clips(LARGE)


def of(plans, split):
    return [plan for plan in plans if plan.split == split]


def test_vocabulary_has_enough_words_and_symmetric_compatibility():
    assert len(CLUSTER_OF) == sum(map(len, WORDS.values())) == 28
    assert len(WORDS) == 8
    assert not set(FILLERS) & set(CLUSTER_OF)
    for cluster, others in COMPATIBLE.items():
        assert cluster not in others
        assert all(cluster in COMPATIBLE[first] for first in others)


def test_same_seed_gives_same_label_files_and_another_seed_others():
    small = RenderConfig(seed=5, num_caption=20, num_exact=5, num_validation=5, num_test=5)
    second_seed = RenderConfig(seed=6, num_caption=20, num_exact=5, num_validation=5, num_test=5)
    assert label_files(plan_clips(small)) == label_files(plan_clips(small))
    first, second = label_files(plan_clips(small)), label_files(plan_clips(second_seed))
    assert all(first[name] != second[name] for name in first if name != "track_all_candidates.csv")


def test_label_files_are_the_same_bytes_on_every_machine():
    files = label_files(plan_clips(RenderConfig(seed=1, num_caption=40, num_exact=10, num_validation=10, num_test=10)))
    assert digest(files) == "4ab8cf8635cd7c0708f0f42513c5794eca6acce100ab75c827a69152f7f9ea67"


def test_a_split_does_not_depend_on_the_size_of_another():
    few = RenderConfig(num_caption=3, num_exact=2, num_validation=1, num_test=6)
    many = RenderConfig(num_caption=9, num_exact=4, num_validation=5, num_test=6)
    assert of(plan_clips(few), "test") == of(plan_clips(many), "test")


def test_noise_alters_captions_only_apart_from_faint_cues():
    clean = plan_clips(RenderConfig(seed=2, num_caption=60, num_test=60, noise="none"))
    noisy = plan_clips(RenderConfig(seed=2, num_caption=60, num_test=60, noise="moderate"))
    assert [p.truth.words for p in clean] == [p.truth.words for p in noisy]
    assert [p.subtitle for p in clean] == [p.subtitle for p in noisy]
    assert all(p.caption == p.truth for p in clean)
    assert all(p.caption == p.truth for p in noisy if p.split != "caption")
    assert any(p.caption != p.truth for p in noisy)


def test_clips_carry_one_to_three_words_of_clusters_that_go_together(plans):
    for plan in plans:
        clusters = [CLUSTER_OF[word] for word in plan.truth.words]
        assert 1 <= len(clusters) <= 3
        assert len(set(clusters)) == len(clusters)
        assert all(b in COMPATIBLE[a] for a in clusters for b in clusters if a != b)
    assert {word for plan in plans for word in plan.truth.words} == set(CLUSTER_OF)


def test_each_channel_alone_carries_a_fair_share_of_the_emotions(plans):
    only = Counter()
    total = 0
    for plan in plans:
        channels = Counter(plan.shown.values())
        total += len(channels)
        only.update(channel for channel, word in plan.shown.items() if channels[word] == 1)
    assert {channel: only[channel] / total >= 0.22 for channel in ("face", "voice", "words")} == {
        "face": True,
        "voice": True,
        "words": True,
    }


def test_sarcasm_puts_negative_face_and_voice_against_glad_words(plans):
    sarcastic = [plan for plan in plans if plan.sentence_kind == "sarcasm"]
    assert 0.07 < len(sarcastic) / len(plans) < 0.13
    glad = {phrase for cluster in ("joy", "calm") for phrase in PHRASES[cluster]}
    for plan in sarcastic:
        assert set(plan.shown) == {"face", "voice"}
        assert {CLUSTER_OF[word] for word in plan.truth.words} <= set(SARCASTIC)
        assert any(phrase in plan.subtitle for phrase in glad)
        assert plan.truth.reason.endswith("The words are not meant.")


def test_people_and_sentences_of_a_pool_occur_in_no_other(plans):
    pools = [[*of(plans, "caption"), *of(plans, "human")], of(plans, "validation"), of(plans, "test")]
    for kind in (lambda plan: plan.identity.name, lambda plan: plan.identity, lambda plan: plan.subtitle):
        first, second, third = ({kind(plan) for plan in pool} - {""} for pool in pools)
        assert first
        assert not first & second
        assert not first & third
        assert not second & third


def test_an_opener_does_not_carry_a_sentence_into_another_pool(plans):
    def bare(text):
        for opener in filter(None, OPENERS):
            text = text.removeprefix(opener)
        return text

    training = {bare(plan.subtitle) for plan in plans if plan.split in ("caption", "human")} - {""}
    assert not training & {bare(plan.subtitle) for plan in plans if plan.split in ("validation", "test")}


def test_every_phrase_and_context_is_in_every_pool():
    for phrase in range(8):
        assert {pool_of(phrase, context) for context in range(len(CONTEXTS))} == {"train", "validation", "test"}
    for context in range(len(CONTEXTS)):
        assert {pool_of(phrase, context) for phrase in range(8)} == {"train", "validation", "test"}


def test_words_of_held_out_texts_are_heard_in_training(plans):
    training = [*of(plans, "caption"), *of(plans, "human")]
    known = {word for plan in training for word in plan.subtitle.split()}
    assert {word for plan in of(plans, "test") for word in plan.subtitle.split()} <= known
    assert {word for plan in of(plans, "validation") for word in plan.subtitle.split()} <= known


def test_cues_lie_near_the_prototype_and_neutral_ones_near_zero():
    clips = plan_clips(RenderConfig(seed=8, num_caption=600, num_exact=0, num_validation=0, num_test=0, noise="none"))
    for channel, names, prototypes in (("face", FACE_CUES, FACE), ("voice", VOICE_CUES, VOICE)):
        for plan in clips:
            assert tuple(plan.cues) == FACE_CUES + VOICE_CUES
            prototype = (
                prototypes[CLUSTER_OF[plan.shown[channel]]] if channel in plan.shown else dict.fromkeys(names, 0)
            )
            for name in names:
                assert -1 <= plan.cues[name] <= 1
                assert plan.cues[name] == pytest.approx(prototype[name], abs=0.5)


def test_prototypes_of_one_channel_are_far_apart():
    for prototypes in (FACE, VOICE):
        vectors = [*prototypes.values(), dict.fromkeys(next(iter(prototypes.values())), 0.0)]
        for number, one in enumerate(vectors):
            for other in vectors[:number]:
                distance = sum((one[name] - other[name]) ** 2 for name in one) ** 0.5
                assert distance > 0.9  # nine standard deviations of the individual noise


def test_faint_cues_are_smaller():
    def mean_strength(clips):
        values = [
            abs(plan.cues["brow_angle"]) for plan in clips if CLUSTER_OF.get(plan.shown.get("face", "")) == "anger"
        ]
        return sum(values) / len(values)

    hard = plan_clips(RenderConfig(seed=4, num_caption=1200, noise="hard"))
    strong, weak = [p for p in hard if not p.weak], [p for p in hard if p.weak]
    assert len(weak) / len(hard) == pytest.approx(0.8, abs=0.03)
    assert mean_strength(weak) / mean_strength(strong) == pytest.approx(0.45, abs=0.08)


def test_exact_reasons_name_each_emotion_and_only_true_cues(plans):
    statements = {phrase for pair in STATED.values() for phrase in pair} | set(TOPICS.values())
    for plan in of(plans, "test"):
        assert all(word in plan.truth.reason for word in plan.truth.words)
        for phrase in plan.cue_phrases:
            assert phrase in statements
            assert phrase in plan.truth.reason
        for name, (negative, positive) in STATED.items():
            if negative != positive and plan.cues[name] > 0.05:
                assert f"with {negative}" not in plan.truth.reason


def test_reasons_are_short(plans):
    for plan in plans:
        assert 1 <= plan.caption.reason.count(".") <= 4
        assert len(plan.caption.reason.split()) <= 40


def test_csv_styles_are_the_published_ones(plans):
    files = label_files(plans)
    caption = list(csv.DictReader(io.StringIO(files["track2_train_mercaptionplus.csv"])))
    exact = list(csv.DictReader(io.StringIO(files["track2_train_ovmerd.csv"])))
    assert len(caption) == 1500
    assert len(exact) == 300
    assert all(row["openset"].startswith("[") and row["openset"].endswith("]") for row in caption)
    assert any(", " in row["openset"] for row in caption)
    assert not any("[" in row["openset"] or " " in row["openset"] for row in exact)
    subtitles = list(csv.DictReader(io.StringIO(files["subtitle_chieng.csv"])))
    assert list(subtitles[0]) == ["name", "chinese", "english"]
    assert len({row["name"] for row in subtitles}) == 2550


@pytest.mark.parametrize(
    "wrong",
    [{"noise": "loud"}, {"seed": -1}, {"num_test": -2}, {"frame_size": 95}, {"fps": 2}, {"min_seconds": 1.0}],
)
def test_settings_that_cannot_be_rendered_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong)).split("_")[0]):
        RenderConfig(**wrong)
