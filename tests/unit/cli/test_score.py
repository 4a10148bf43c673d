"""`affectgpt-r1 score`, end to end."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

import affectgpt_r1.cli.score
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.corpus_report import corpus_report
from affectgpt_r1.metrics.functional.wheel_f1 import score_table

PREDICTIONS = 'name,openset\na,happy\nb,"sad, angry"\nc,zzz\n'
TARGETS = 'name,openset\nc,calm\nb,sad\na,"happy, sad"\n'


@pytest.fixture
def files(tmp_path):
    (tmp_path / "p.csv").write_text(PREDICTIONS)
    (tmp_path / "t.csv").write_text(TARGETS)
    return tmp_path


def run(folder, *options, predictions="p.csv", targets="t.csv"):
    arguments = ["--predictions", str(folder / predictions), "--targets", str(folder / targets)]
    affectgpt_r1.cli.score.main([*arguments, "--json", str(folder / "out" / "scores.json"), *options])
    return json.loads((folder / "out" / "scores.json").read_text())


def test_scores_intervals_and_baselines(files, capsys):
    report = run(files)
    lexicon = load_lexicon("bundled")
    predictions, targets = [("zzz",), ("sad", "angry"), ("happy",)], [("calm",), ("sad",), ("happy", "sad")]
    assert report["scores"] == score_table(predictions, targets, lexicon)
    mean = report["scores"]["mean_level1"]
    low, high = report["intervals"]["mean_level1"]["f1"]
    assert low < mean["f1"] < high
    assert report["samples"] == 3
    assert (report["version"], report["lexicon_digest"]) == (affectgpt_r1.__version__, lexicon.digest)
    assert report["unmapped_rate"] == pytest.approx(1 / 4)
    baselines = report["baselines"]
    assert baselines["constant"]["words"] == ["happy", "sad", "angry"]
    assert baselines["frequent"]["words"] == ["sad", "calm", "happy"]
    assert baselines["frequent"]["scores"] == score_table([("sad", "calm", "happy")] * 3, targets, lexicon)
    printed = capsys.readouterr().out
    assert f"{100 * mean['f1']:.2f} [{100 * low:.2f}, {100 * high:.2f}]" in printed
    assert "always “happy, sad, angry”" in printed
    assert "always “sad, calm, happy” (most frequent targets)" in printed
    assert "25.0 % of the predicted words" in printed


def test_challenge_interval_surrounds_the_challenge_score(files):
    report = run(files, "--level", "2")
    low, high = report["intervals"]["mer2025_challenge"]["f1"]
    assert low <= report["scores"]["mer2025_challenge"]["f1"] <= high
    assert set(report["intervals"]) == set(report["scores"])


def test_level_decides_what_is_printed(files, capsys):
    report = run(files, "--level", "2")
    printed = capsys.readouterr().out
    assert "level 2, mean over five wheels" in printed
    assert f"{100 * report['scores']['mean_level2']['f1']:.2f} [" in printed


def test_free_text_reports_negated_spans(files, capsys):
    (files / "p.jsonl").write_text(
        "".join(json.dumps({"name": n, "reason": r}) + "\n" for n, r in (("a", "not happy"), ("b", "sad"), ("c", "")))
    )
    report = run(files, predictions="p.jsonl")
    assert report["negated"] == {"a": ["not happy"]}
    assert "1 negated span was skipped, as in a." in capsys.readouterr().out


def test_no_match_is_zero_or_null(files):
    (files / "p.csv").write_text("name,openset\na,\nb,\nc,\n")
    assert run(files)["scores"]["mean_level1"]["f1"] == 0
    assert run(files, "--no-match", "nan")["scores"]["mean_level1"]["f1"] is None


def test_targets_that_map_nowhere(files):
    (files / "t.csv").write_text("name,openset\na,zzz\nb,\nc,zzz\n")
    report = run(files)
    assert report["scores"]["mean_level1"]["f1"] is None
    assert report["intervals"] == {}
    assert report["counted"] == {f"wheel{wheel}": 0 for wheel in range(1, 6)}


def test_a_wheel_without_a_target_is_left_out_zero_or_null(files, capsys):
    lexicon = load_lexicon("bundled")
    word = next(word for word in lexicon.entries if sorted(map(bool, lexicon.masks(word)))[:2] == [False, True])
    (files / "t.csv").write_text(f"name,openset\na,{word}\n")
    own, zero, null = (run(files, *options, targets="t.csv", predictions="t.csv") for options in
                       ((), ("--no-target", "zero"), ("--no-target", "nan")))  # fmt: skip
    assert [report["scores"]["mean_level1"]["f1"] for report in (own, zero, null)] == [1, 0.8, None]
    assert [report["intervals"].get("mean_level1", {}).get("f1") for report in (own, zero, null)] == [
        [1, 1], [pytest.approx(0.8)] * 2, None
    ]  # fmt: skip
    wheel = list(own["counted"].values()).index(0) + 1
    note = (
        f"No target counts on wheel{wheel}: left out of the mean over the wheels, which is ours; the official scorers"
    )
    assert [any(line.startswith(note) for line in report["notes"]) for report in (own, zero, null)] == [
        True,
        False,
        False,
    ]
    assert note[:60] in capsys.readouterr().out
    assert "--strict: 1 line above says" in fails(capsys, files, "--strict", targets="t.csv", predictions="t.csv")


def test_six_classes_of_track_1(files, capsys):
    (files / "t.csv").write_text("name,discrete\na,happy\nb,worried\nc,neutral\nd,neutral\n")
    (files / "p.csv").write_text('name,discrete\na,Happy\nb,"worried,sad"\nc,neutral\nd,angry\n')
    track1 = run(files)["track1"]
    wanted, given = ["happy", "worried", "neutral", "neutral"], ["happy", "", "neutral", "angry"]
    assert track1["waf"] == pytest.approx(f1_score(wanted, given, average="weighted"), abs=1e-12)
    assert (track1["accuracy"], track1["scored"]) == (0.5, 4)
    printed = capsys.readouterr().out
    assert f"{100 * track1['waf']:.2f}" in next(line for line in printed.splitlines() if "track 1, six classes" in line)
    (files / "t.csv").write_text("name,discrete\na,happy\nb,worried\nc,proud\nd,neutral\n")
    assert run(files)["track1"] == {}


def fails(capsys, folder, *options, **files):
    with pytest.raises(SystemExit) as stopped:
        run(folder, *options, **files)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("affectgpt-r1 score: ")
    assert error.count("\n") == 1
    return error


def test_name_mismatch_stops_it(files, capsys):
    (files / "p.csv").write_text("name,openset\na,happy\nb,sad\n")
    assert "1 clip (c) with a target and no prediction" in fails(capsys, files)
    assert run(files, "--subset")["samples"] == 2
    assert "1 target has no prediction and was not scored, such as c." in capsys.readouterr().out
    (files / "q.csv").write_text("name,openset\nd,happy\n")
    assert "no clip has a prediction and a target: 1 clip (d) with a prediction" in fails(
        capsys, files, predictions="q.csv"
    )


def test_predictions_of_more_clips_are_counted_and_not_scored(files, capsys):
    (files / "p.csv").write_text("name,openset\na,happy\nb,sad\n")
    assert run(files, predictions="t.csv", targets="p.csv")["samples"] == 2
    assert "1 prediction has no target and was not scored, such as c." in capsys.readouterr().out


def test_strict_fails_where_something_may_be_wrong(files, capsys):
    (files / "p.csv").write_text("name,openset\na,happy\nb,sad\nc,calm\n")
    assert run(files, "--strict", predictions="p.csv", targets="p.csv")["samples"] == 3
    (files / "q.csv").write_text("name,openset\na,happy;sad\nb,sad\nc,calm\n")
    line = fails(capsys, files, "--strict", predictions="q.csv", targets="p.csv")
    assert "--strict: 2 lines above say what may be wrong, the first: predictions: the labels seem to be sep" in line
    assert run(files, predictions="q.csv", targets="p.csv")["unmapped_words"] == [["happy;sad", 1]]


def test_an_empty_openset_next_to_a_reason_is_said(files, capsys):
    (files / "p.csv").write_text("name,openset,reason\na,,He is happy.\nb,sad,\nc,calm,\n")
    run(files, predictions="p.csv", targets="p.csv")
    assert "p.csv: 1 row has text under 'reason' and nothing under 'openset', such as a." in capsys.readouterr().out


def test_columns_by_name(files, capsys):
    (files / "p.csv").write_text("id,label,prediction\na,sad,happy\n")
    (files / "u.csv").write_text("id,label,prediction\na,happy,sad\n")
    options = ("--columns", "openset=prediction", "--target-columns", "openset=label")
    assert run(files, *options, targets="u.csv")["scores"]["mean_level1"]["f1"] == 1
    assert "p.csv: column 'id' was read as 'name'." in capsys.readouterr().out
    assert "--columns takes name, openset, reason once each" in fails(capsys, files, "--columns", "labels=x")


def test_bad_input_is_one_line(files, capsys):
    assert "no lexicon 'mer1999'" in fails(capsys, files, "--lexicon", "mer1999")
    np.savez(files / "p.npz", filenames=np.array(["a"]), fileitems=np.array([["a"], None], dtype=object))
    assert "pickled" in fails(capsys, files, predictions="p.npz")
    (files / "out").write_text("a file")
    assert "cannot be written" in fails(capsys, files)


def test_report_of_a_perfect_answer():
    targets = [("happy",), ("sad", "calm")]
    report = corpus_report(targets, targets, load_lexicon("bundled"))
    assert all(math.isclose(scores["f1"], 1) for scores in report["scores"].values())
    assert report["intervals"]["mean_level1"]["f1"] == [1, 1]


def test_submission_scores_like_its_source(files, capsys):
    path = files / "team-openset.npz"
    affectgpt_r1.cli.score.main(["--predictions", str(files / "p.csv"), "--submission", str(path)])
    assert "3 clips, 0 of them without a label" in capsys.readouterr().out
    assert run(files, predictions=path.name) == run(files)


def test_submission_errors_are_one_line(files, capsys):
    with pytest.raises(SystemExit) as stopped:
        affectgpt_r1.cli.score.main(["--predictions", str(files / "p.csv"), "--submission", str(files / "team.npz")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("affectgpt-r1 score: ")


def test_a_file_is_scored_and_written_for_a_challenge_at_once(files, capsys):
    path = files / "team-openset.npz"
    run(files, "--submission", str(path))
    printed = capsys.readouterr().out
    assert "always “happy, sad, angry”" in printed
    assert "3 clips, 0 of them without a label" in printed
    assert path.is_file()


@pytest.mark.parametrize("given", [[], ["--submission", "a-openset.npz", "--json", "s.json"]])
def test_scores_need_targets(files, capsys, given):
    with pytest.raises(SystemExit) as stopped:
        affectgpt_r1.cli.score.main(["--predictions", str(files / "p.csv"), *given])
    assert stopped.value.code == 2
    assert "give --targets FILE to score, or --submission" in capsys.readouterr().err


def test_leaked_names_are_reported(files, capsys):
    (files / "seen.csv").write_text("name,openset\nb,sad\nd,sad\n")
    (files / "track2_train_mercaptionplus.csv").write_text("name,openset\nd,sad\n")
    (files / "track2_train_human.csv").write_text(TARGETS)
    train = [str(files / file) for file in ("seen.csv", "track2_train_mercaptionplus.csv")]
    report = run(files, "--train", *train, targets="track2_train_human.csv")
    assert report["leakage"]["names"] == {train[0]: ["b"], train[1]: []}
    assert report["leakage"]["known"].startswith("548 names")
    printed = " ".join(capsys.readouterr().out.split())
    assert "Leakage: 1 of 3 scored names are in" in printed
    assert "such as b: the scores are not of unseen clips." in printed
    assert "Leakage: 0 of 3 scored names are in" in printed
    assert "Beware: 548 names are known to be in both" in printed
    assert run(files, "--train", train[0])["leakage"]["known"] == ""
    assert "leakage" not in run(files)
    with pytest.raises(SystemExit) as stopped:
        run(files, "--train", str(files / "gone.csv"))
    assert stopped.value.code == 2
