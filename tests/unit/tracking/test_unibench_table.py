"""The MER-UniBench table of nine stand-in sets: metrics worked out by hand, and what is printed beside them."""

import json
import os

import pytest

from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS, read_unibench
from affectgpt_r1.emotion.bundled import load_bundled
from affectgpt_r1.errors import DataError
from affectgpt_r1.evaluation.unibench_scores import unibench_over_checkpoints, unibench_table
from affectgpt_r1.evaluation.unibench_tables import unibench_rich_table
from affectgpt_r1.io.console import PlainConsole as Console
from helpers.unibench_folders import CORRECTED, PREDICTIONS, PUBLISHED, write_unibench

LEXICON = load_bundled()


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return read_unibench(write_unibench(tmp_path_factory.mktemp("unibench")))


@pytest.fixture(scope="module")
def summary(sets):
    return unibench_table(PREDICTIONS, sets, LEXICON)


def printed(summary):
    with open(os.devnull, "w") as sink:
        console = Console(file=sink, record=True, width=200)
        console.print(unibench_rich_table(summary))
        return console.export_text()


@pytest.mark.parametrize("name", LAYOUTS)
def test_values_by_hand(summary, name):
    assert summary["sets"][name]["published"] == pytest.approx(PUBLISHED[name], abs=1e-12)
    assert summary["sets"][name]["corrected"] == pytest.approx(CORRECTED[name], abs=1e-12)


def test_mean_of_nine_is_plain(summary):
    assert summary["mean"]["published"] == pytest.approx(sum(PUBLISHED.values()) / 9, abs=1e-12)
    assert summary["mean"]["corrected"] == pytest.approx(sum(CORRECTED.values()) / 9, abs=1e-12)
    assert summary["missing"] == []


def test_secondary_values(summary):
    details = {name: metrics["details"] for name, metrics in summary["sets"].items()}

    assert details["mer2023"] == {"mscore": pytest.approx(1 / 2), "unmapped_rate": 0, "empty_wheels": 0}
    # Of m2's three words all are classes of MELD: 1, 1/3, 0.
    assert details["meld"] == {"mscore": pytest.approx((1 + 1 / 3 + 0) / 3), "unmapped_rate": 0, "empty_wheels": 0}
    assert details["cmumosi"] == {"accuracy": pytest.approx(2 / 3), "accuracy_corrected": pytest.approx(1 / 3),
                                  "predicted_neutral": 1 / 4}  # fmt: skip
    assert details["ovmerdplus"] == {"precision": pytest.approx(3 / 4), "recall": pytest.approx(3 / 4),
                                     "unmapped_rate": 0, "empty_wheels": 0}  # fmt: skip


def test_summary_is_json_and_says_how_many_clips_the_papers_score(summary):
    assert json.loads(json.dumps(summary))["sets"]["meld"]["num_clips"] == 4
    assert summary["sets"]["meld"]["published_clips"] == 2610
    assert summary["lexicon"] == "bundled"


def test_the_table_prints_both_values_and_what_is_questionable(summary):
    text = printed(summary)

    (meld,) = (line for line in text.splitlines() if "MELD" in line)
    assert "66.67" in meld
    assert "33.33" in meld
    assert "4 (papers: 2,610)" in meld
    (mean,) = (line for line in text.splitlines() if "mean of nine" in line)
    assert f"{100 * sum(PUBLISHED.values()) / 9:.2f}" in mean
    assert f"{100 * sum(CORRECTED.values()) / 9:.2f}" in mean
    flat = " ".join(text.split())
    for note in ("best on that set's test clips", "target is neutral are dropped", "predicted emotions are free",
                 "predicted neutral counts as negative", "one checkpoint was scored"):  # fmt: skip
        assert note in flat


def test_the_mean_of_fewer_says_so(sets):
    few = {name: sets[name] for name in ("meld", "sims")}

    summary = unibench_table({name: PREDICTIONS[name] for name in few}, few, LEXICON)

    assert summary["mean"] == {"published": pytest.approx(2 / 3 / 2), "corrected": pytest.approx(1 / 3 / 2)}
    assert len(summary["missing"]) == 7
    text = printed(summary)
    assert "mean of 2 of the nine" in text
    assert "not comparable with a mean of nine; not scored:" in text
    assert "MER2023, MER2024, IEMOCAP" in text
    assert "mean of nine " not in text


def test_words_that_no_wheel_knows_are_counted_next_to_the_scores(sets):
    answers = {"p": ("happy", "sad", "zzz", "neutral", "Zzz"), "q": ("neutral",)}

    summary = unibench_table({"mer2023": answers}, {"mer2023": sets["mer2023"]}, LEXICON)

    assert summary["sets"]["mer2023"]["details"]["unmapped_rate"] == 2 / 4
    assert summary["sets"]["mer2023"]["published"] == 1
    assert "unmapped 50.00" in printed(summary)
    assert "that no wheel knows cost nothing" in " ".join(printed(summary).split())


def test_published_values_take_the_best_checkpoint_of_each_set_and_corrected_ones_the_chosen(sets):
    few = {name: sets[name] for name in ("mer2024", "sims")}
    early = {"mer2024": PREDICTIONS["mer2024"], "sims": {"a": ("sad",), "b": ("happy",)}}
    late = {"mer2024": {"p": ("happy",), "q": ("sad", "angry")}, "sims": PREDICTIONS["sims"]}

    summary = unibench_over_checkpoints({"epoch 30": early, "epoch 35": late}, few, LEXICON, chosen="epoch 35")

    mer2024, sims = summary["sets"]["mer2024"], summary["sets"]["sims"]
    assert (mer2024["checkpoint"], mer2024["published"], mer2024["corrected"]) == ("epoch 35", 1, 3 / 4)
    assert (sims["checkpoint"], sims["published"], sims["published_chosen"], sims["corrected"]) == ("epoch 30", 1, 0, 0)
    assert "out of epoch 30, epoch 35; corrected: epoch 35" in " ".join(printed(summary).split())


def test_sentiment_may_come_from_a_language_model(sets):
    few = {"sims": sets["sims"]}

    summary = unibench_table({"sims": PREDICTIONS["sims"]}, few, LEXICON, lambda words: 1 if "angry" in words else -1)

    assert summary["sets"]["sims"]["published"] == 1


def test_a_clip_without_a_prediction_is_refused(sets):
    with pytest.raises(DataError, match="sims: predictions lack 1 clips, such as b; predict all 2 test clips"):
        unibench_table(PREDICTIONS | {"sims": {"a": ("sad",)}}, sets, LEXICON)


def test_predictions_of_other_clips_are_counted(sets):
    more = PREDICTIONS["sims"] | {"z": ("sad",)}
    scores = unibench_table(PREDICTIONS | {"sims": more}, sets, LEXICON)["sets"]["sims"]
    assert scores == unibench_table(PREDICTIONS, sets, LEXICON)["sets"]["sims"] | {"not_scored": 1}
