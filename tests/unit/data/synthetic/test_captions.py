from __future__ import annotations

import os
from collections import Counter

import pytest

from affectgpt_r1.data.synthetic.captions import Claim, exact_caption, noisy_caption, true_claims
from affectgpt_r1.data.synthetic.clip_plan import plan_clips
from affectgpt_r1.data.synthetic.cues import FACE_CUES, VOICE_CUES
from affectgpt_r1.data.synthetic.draws import PortableGenerator
from affectgpt_r1.data.synthetic.emotion_words import CLUSTER_OF, CONFUSED_WITH, FILLERS
from affectgpt_r1.data.synthetic.settings import NOISE, NoiseRates, RenderConfig
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.functional.wheel_f1 import score_table

CUES_OF_SADNESS = dict.fromkeys(FACE_CUES + VOICE_CUES, 0.0) | {
    "mouth_curve": -0.8,
    "brow_angle": 0.7,
    "pitch": -0.6,
    "rate": -0.5,
}
CLAIMS = true_claims({"face": "sad", "voice": "sad", "words": "guilty"}, CUES_OF_SADNESS, sarcastic=False)
TRIALS = 4000


def error_rate(rates: NoiseRates, error: str, claims=CLAIMS, believable=None) -> float:
    made = [
        noisy_caption(PortableGenerator(number), claims, rates, believable=believable).errors
        for number in range(TRIALS)
    ]
    return sum(errors.count(error) for errors in made) / TRIALS


def test_true_claims_join_channels_that_show_the_same_word():
    assert [claim.word for claim in CLAIMS] == ["sad", "guilty"]
    assert CLAIMS[0].evidence == {"face": ("mouth turned down", "inner brows raised"), "voice": ("low", "slow")}
    assert CLAIMS[1].evidence == {"words": ("a mistake",)}


def test_exact_caption_is_written_out():
    caption = exact_caption(CLAIMS, sarcastic=False)
    assert caption.words == ("sad", "guilty")
    assert caption.reason == (
        "The face looks sad, with mouth turned down and inner brows raised. "
        "The voice sounds sad, low and slow. "
        "The words sound guilty and speak of a mistake."
    )


def test_sarcastic_words_are_no_claim():
    claims = true_claims({"face": "sad", "voice": "sad", "words": "happy"}, CUES_OF_SADNESS, sarcastic=True)
    assert [claim.word for claim in claims] == ["sad"]
    assert exact_caption(claims, sarcastic=True).reason.endswith("The words are not meant.")


def test_without_noise_a_caption_is_exact():
    for number in range(20):
        noisy = noisy_caption(PortableGenerator(number), CLAIMS, NoiseRates(), believable=None)
        assert noisy == exact_caption(CLAIMS, sarcastic=False)


@pytest.mark.parametrize("error", ["flip", "drop"])
def test_errors_of_a_claim_happen_at_their_rate(error):
    assert error_rate(NoiseRates(**{error: 0.15}), error) == pytest.approx(2 * 0.15, abs=0.03)


@pytest.mark.parametrize("error", ["ignore_voice", "insert", "filler"])
def test_errors_of_a_caption_happen_at_their_rate(error):
    assert error_rate(NoiseRates(**{error: 0.3}), error) == pytest.approx(0.3, abs=0.03)


def test_missed_sarcasm_leaves_a_glad_word_only():
    rates = NoiseRates(miss_sarcasm=1.0)
    caption = noisy_caption(PortableGenerator(1), CLAIMS[:1], rates, believable="joy")
    assert [CLUSTER_OF[word] for word in caption.words] == ["joy"]
    assert "good news" in caption.reason
    assert error_rate(NoiseRates(miss_sarcasm=0.7), "miss_sarcasm", believable="joy") == pytest.approx(0.7, abs=0.03)
    assert error_rate(NoiseRates(miss_sarcasm=0.7), "miss_sarcasm") == 0


def test_ignored_voice_loses_only_what_nothing_else_tells():
    rates = NoiseRates(ignore_voice=1.0)
    assert noisy_caption(PortableGenerator(1), CLAIMS, rates, believable=None).words == ("sad", "guilty")
    alone = (Claim("sad", {"voice": ("low",)}), Claim("guilty", {"words": ("a mistake",)}))
    caption = noisy_caption(PortableGenerator(1), alone, rates, believable=None)
    assert caption.words == ("guilty",)
    assert "voice" not in caption.reason


def test_a_flip_goes_to_a_neighbour_with_evidence_to_match():
    for number in range(50):
        caption = noisy_caption(PortableGenerator(number), CLAIMS[1:], NoiseRates(flip=1.0), believable=None)
        assert CLUSTER_OF[caption.words[0]] in CONFUSED_WITH["shame"]
        assert "a mistake" not in caption.reason


def test_an_emptied_caption_says_something_vague():
    caption = noisy_caption(PortableGenerator(1), CLAIMS, NoiseRates(drop=1.0), believable=None)
    assert len(caption.words) == 1
    assert caption.words[0] in FILLERS
    assert caption.reason == f"The person seems {caption.words[0]}."


def test_rates_over_planned_clips_are_near_the_setting():
    rates = NOISE["moderate"]
    plans = plan_clips(RenderConfig(seed=11, num_caption=3000, num_exact=0, num_validation=0, num_test=0))
    made = Counter(error for plan in plans for error in plan.caption.errors)
    sarcastic = sum(plan.sentence_kind == "sarcasm" for plan in plans)
    assert made["ignore_voice"] / len(plans) == pytest.approx(rates.ignore_voice, abs=0.03)
    assert made["insert"] / len(plans) == pytest.approx(rates.insert, abs=0.03)
    assert made["filler"] / len(plans) == pytest.approx(rates.filler, abs=0.03)
    assert made["miss_sarcasm"] / sarcastic == pytest.approx(rates.miss_sarcasm, abs=0.08)
    assert made["flip"] / made["drop"] == pytest.approx(1 - rates.drop, abs=0.1)
    assert sum(plan.weak for plan in plans) / len(plans) == pytest.approx(rates.weak_cues, abs=0.03)


@pytest.mark.skipif("AFFECTGPT_WHEELS" not in os.environ, reason="AFFECTGPT_WHEELS does not name the published wheels")
@pytest.mark.parametrize(("noise", "low", "high"), [("moderate", 65.0, 72.0), ("hard", 54.0, 62.0)])
def test_noisy_captions_agree_with_the_truth_as_far_as_machine_captions_do(noise, low, high):
    plans = plan_clips(RenderConfig(seed=1, num_exact=0, num_validation=0, num_test=0, noise=noise))
    score = score_table([p.caption.words for p in plans], [p.truth.words for p in plans], load_lexicon("mer2025"))
    assert low < 100 * score["mean_level1"]["f1"] < high


@pytest.mark.parametrize("word", list(CLUSTER_OF))
def test_each_emotion_word_is_in_the_bundled_lexicon(word):
    assert word in load_lexicon("bundled")
