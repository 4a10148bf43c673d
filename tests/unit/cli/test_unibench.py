"""`affectgpt-r1 unibench`: nine stand-in folders and three single-label sets, metrics worked out by hand."""

import json
import re

import numpy as np
import pytest

from affectgpt_r1.cli.unibench import main
from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS
from affectgpt_r1.errors import DataError
from affectgpt_r1.metrics.prediction_folders import prediction_files
from helpers.unibench_folders import CORRECTED, PUBLISHED, write_unibench

ANSWERS = {
    "mer2023.csv": 'name,openset\np,"happy, sad"\nq,neutral\n',
    "mer2024.jsonl": '{"name": "q", "openset": ["sad"]}\n{"name": "p", "openset": ["angry"]}\n',
    "meld.csv": 'name,reason\nm1,He is angry.\nm2,"Joyful, sad and angry"\nm3,She walks.\nm4,'
    "<think>well</think><answer>happy</answer>\n",
    "iemocap-openset.npz": {"Ses05_a": "angry", "Ses05_b": "happy"},
    "cmumosi.csv": "name,openset\na,happy\nb,neutral\nc,angry\nd,sad\n",
    "cmumosei.npz": {"a": "happy", "b": "sad, angry, happy"},
    "sims.csv": "name,openset\na,happy\nb,angry\n",
    "simsv2.csv": "name,openset\na,neutral\nb,neutral\n",
    "ovmerdplus.csv": 'name,openset\nx,"happy, sad"\ny,sad\nz,happy\n',
}


def write_predictions(folder, files=ANSWERS):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        if isinstance(content, dict):
            arrays = (np.array(list(part)) for part in (content.keys(), content.values()))
            np.savez_compressed(folder / file, **dict(zip(("filenames", "fileitems"), arrays, strict=True)))
        else:
            (folder / file).write_text(content)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = write_unibench(tmp_path_factory.mktemp("data"))
    fold = root / "DFEW" / "EmoLabel_DataSplit" / "test(single-labeled)"
    fold.mkdir(parents=True)
    (fold / "set_1.csv").write_text("video_name,label\n1,1\n2,1\n3,1\n4,7\n")
    (fold / "set_2.csv").write_text("video_name,label\n1,2\n")
    (root / "RAVDESS" / "Actor_01").mkdir(parents=True)
    for code in ("06", "08"):
        (root / "RAVDESS" / "Actor_01" / f"01-01-{code}-01-01-01-01.mp4").touch()
    return root


def run(data, predictions, *options):
    out = predictions.parent / "scores.json"
    main(["--predictions", str(predictions), "--data", str(data), "--json", str(out), *options])
    return json.loads(out.read_text())


def refused(capsys, data, predictions, *options):
    with pytest.raises(SystemExit) as stopped:
        run(data, predictions, *options)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("affectgpt-r1 unibench: ")
    return line


def test_nine_sets_by_hand(data, tmp_path, capsys):
    summary = run(data, write_predictions(tmp_path / "p"))["unibench"]

    assert list(summary["sets"]) == list(LAYOUTS)
    for name, metrics in summary["sets"].items():
        assert metrics["published"] == pytest.approx(PUBLISHED[name], abs=1e-12), name
        assert metrics["corrected"] == pytest.approx(CORRECTED[name], abs=1e-12), name
    assert summary["mean"]["published"] == pytest.approx(sum(PUBLISHED.values()) / 9, abs=1e-12)
    assert summary["mean"]["corrected"] == pytest.approx(sum(CORRECTED.values()) / 9, abs=1e-12)
    printed = capsys.readouterr().out
    (mean,) = (line for line in printed.splitlines() if "mean of nine" in line)
    assert "60.19" in mean
    assert "44.75" in mean
    flat = " ".join(printed.split())
    for said in ("best on that set's test clips", "target is neutral are dropped", "predicted emotions are free",
                 "counts as negative", "no wheel knows", "Qwen2.5-7B-Instruct",
                 "one checkpoint was scored", "by the offline word map",
                 "Labels of free text by offline search, bundled lexicon; measured agreement with a language model's",
                 "meld.csv: the labels of 3 rows were searched for in free text."):  # fmt: skip
        assert said in flat


def test_one_class_per_clip_has_the_weighted_f1_of_track_1(data, tmp_path, capsys):
    answers = {"mer2023.csv": "name,openset\np,happy\nq,sad\n", "mer2024.csv": 'name,openset\np,happy\nq,"sad,angry"\n'}
    sets = run(data, write_predictions(tmp_path / "p", answers))["unibench"]["sets"]
    # Targets are happy and neutral: F1 of happy is 1, of neutral 0, each of one clip.
    assert sets["mer2023"]["details"]["six_class_waf"] == 1 / 2
    assert "six_class_waf" not in sets["mer2024"]["details"]
    assert "six-class WAF 50.00" in " ".join(capsys.readouterr().out.split())


def test_some_sets(data, tmp_path, capsys):
    predictions = write_predictions(tmp_path / "p", {file: ANSWERS[file] for file in ("meld.csv", "sims.csv")})
    (predictions / "notes.txt").write_text("not ours")
    summary = run(data, predictions)["unibench"]

    assert summary["mean"] == {"published": pytest.approx(1 / 3), "corrected": pytest.approx(1 / 6)}
    assert len(summary["missing"]) == 7
    printed = capsys.readouterr().out
    assert "mean of 2 of the nine" in printed
    assert "not comparable with a mean of nine" in printed


def test_several_checkpoints(data, tmp_path, capsys):
    write_predictions(tmp_path / "p" / "epoch_30", {"sims.csv": "name,openset\na,sad\nb,happy\n"})
    predictions = write_predictions(tmp_path / "p" / "epoch_35", {"sims.csv": ANSWERS["sims.csv"]}).parent
    summary = run(data, predictions, "--checkpoint", "epoch_35")["unibench"]

    assert summary["mean"] == {"published": 1, "corrected": 0}
    printed = capsys.readouterr().out
    assert "epoch_30; the chosen one has 0.00" in printed
    assert "Chosen without: the one of --checkpoint." in printed
    assert (summary["choice"]["mean"]["optimism"], summary["choice"]["by"]) == (1.0, "named")
    assert run(data, predictions, "--checkpoint", "35")["unibench"]["checkpoints"]["chosen"] == "epoch_35"
    for name in ("epoch_5", "epoch"):
        options = ("--checkpoint", name)
        assert "without test clips, out of epoch_30, epoch_35" in refused(capsys, data, predictions, *options)


def test_every_checkpoint_and_the_published_choice(data, tmp_path, capsys):
    write_predictions(tmp_path / "p" / "epoch_30", {"sims.csv": "name,openset\na,sad\nb,happy\n"})
    predictions = write_predictions(tmp_path / "p" / "epoch_35", {"sims.csv": ANSWERS["sims.csv"]}).parent
    summary = run(data, predictions)["unibench"]
    assert summary["mean"] == {"published": 1, "corrected": None}
    assert summary["checkpoints"] == {
        "names": ["epoch_30", "epoch_35"],
        "chosen": None,
        "published": {"epoch_30": {"sims": 1, "mean": 1}, "epoch_35": {"sims": 0, "mean": 0}},
    }
    printed = capsys.readouterr().out
    assert re.search(r"epoch_35 +│ +0\.00 │ +0\.00", printed)
    assert "corrected: none was named" in printed


def test_affectgpts_tree(data, tmp_path, capsys):
    """Labels are read in place of answers, and the file's sentiment in place of the word map's."""
    for results, clips in (("results-iemocapfour", ("Ses05_a", "Ses05_b")), ("results-sims", ("a", "b"))):
        model = tmp_path / "p" / results / "model"
        model.mkdir(parents=True)
        for epoch, words in (("30", ["angry", "sad"]), ("40", ["happy", "happy"])):
            stem = model / f"checkpoint_0000{epoch}_loss_0.5"
            np.savez_compressed(f"{stem}.npz", name2reason=dict.fromkeys((*clips, "other"), "She is calm."))
            items = {"filenames": np.array([*clips, "other"]), "fileitems": np.array([*words, "sad"])}
            np.savez_compressed(f"{stem}-openset.npz", **items)
            if results == "results-sims":
                judged = {"filenames": np.array(clips), "fileitems": np.array(["negative", "Positive"])}
                np.savez_compressed(f"{stem}-openset-sentiment.npz", **judged)
    summary = run(data, tmp_path / "p")["unibench"]
    assert summary["checkpoints"]["published"] == {
        "checkpoint_000030_loss_0.5": {"iemocap": 1, "sims": 1, "mean": 1},
        "checkpoint_000040_loss_0.5": {"iemocap": 0, "sims": 1, "mean": 0.5},
    }
    assert summary["sets"]["sims"]["not_scored"] == 1
    assert "by the files of sentiment for sims" in capsys.readouterr().out
    (tmp_path / "p" / "results-sims" / "second").mkdir()
    np.savez_compressed(
        tmp_path / "p" / "results-sims" / "second" / "x.npz", name2reason=dict.fromkeys(("a", "b"), "Calm.")
    )
    assert "x: has no predictions for iemocap, as another checkpoint" in refused(capsys, data, tmp_path / "p")


def test_sets_without_data_are_named(data, tmp_path, capsys):
    predictions = write_predictions(tmp_path / "p", {file: ANSWERS[file] for file in ("meld.csv", "sims.csv")})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / LAYOUTS["sims"].folder).symlink_to(data / LAYOUTS["sims"].folder)
    assert list(run(tmp_path / "data", predictions)["unibench"]["sets"]) == ["sims"]
    assert "meld was predicted and not scored:" in capsys.readouterr().out


def test_names_that_differ_in_form(data, tmp_path):
    predictions = write_predictions(tmp_path / "p", {"sims.csv": "name,openset\nx/A.mp4,sad\nB,happy\nc,happy\n"})
    scores = run(data, predictions)["unibench"]["sets"]["sims"]
    assert (scores["published"], scores["not_scored"]) == (1, 1)


def test_single_label_sets(data, tmp_path, capsys):
    answers = {
        # happy: right, two labels, no class; fear: right
        "dfew.csv": 'name,openset\n00001,Happiness\n00002,"happy, sad"\n00003,calm\n00004,fearful\n',
        "ravdess.csv": "name,openset\n01-01-06-01-01-01-01,fear\n01-01-08-01-01-01-01,calm\n",
    }
    report = run(data, write_predictions(tmp_path / "p", answers))

    assert report["unibench"] is None
    dfew, ravdess = report["recognition"]["dfew"], report["recognition"]["ravdess"]
    assert (dfew["war"], dfew["uar"], dfew["unparsed_rate"]) == (1 / 2, pytest.approx((1 / 3 + 1) / 2), 1 / 2)
    assert (ravdess["war"], ravdess["uar"], ravdess["unparsed_rate"]) == (1 / 2, 1 / 2, 0)
    printed = capsys.readouterr().out
    assert re.search(r"DFEW .* 4 .* 50\.00 .* 66\.67 .* 50\.00 .*set_1\.csv", printed)
    assert "answer with several labels" in printed
    second = write_predictions(tmp_path / "second", {"dfew.csv": "name,openset\n00001,sad\n"})
    assert run(data, second, "--fold", "2")["recognition"]["dfew"]["war"] == 1


def test_a_chat_model_may_judge(data, tmp_path, monkeypatch, capsys):
    asked = []

    class Judge:
        identity = "a judge"

        def __call__(self, prompt, instruction=""):
            asked.append(prompt)
            return "[furious]" if "." in prompt else "positive" if prompt == "angry" else "negative"

    monkeypatch.setattr("affectgpt_r1.cli.unibench.chat_from", lambda options: Judge())
    predictions = write_predictions(tmp_path / "p", {"sims.csv": ANSWERS["sims.csv"]})
    assert run(data, predictions, "--sentiment", "chat")["unibench"]["sets"]["sims"]["published"] == 1
    assert asked == ["happy", "angry"]
    assert "Sentiment of the labels by chat model a judge." in capsys.readouterr().out
    assert run(data, predictions)["unibench"]["sets"]["sims"]["published"] == 0
    meld = write_predictions(tmp_path / "m", {"meld.csv": "name,reason\n" + "".join(f"m{n},Hm.\n" for n in "1234")})
    assert run(data, meld)["unibench"]["sets"]["meld"]["published"] == pytest.approx(1 / 3)


def test_a_judge_that_is_not_named(data, tmp_path, capsys):
    predictions = write_predictions(tmp_path / "p")
    assert "--sentiment chat needs a chat model" in refused(capsys, data, predictions, "--sentiment", "chat")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"mld.csv": ""}, "mld.csv: 'mld' is not a data set; the nearest is 'meld' of mer2023"),
        ({"sims.csv": "", "sims.jsonl": ""}, "sims.csv and sims.jsonl both predict sims; keep one"),
        (
            {"sims.csv": "name,openset\na,happy\n"},
            "sims: predictions lack 1 clips, such as b; predict all 2 test clips",
        ),
        ({"sims.csv": ""}, "sims.csv: the file is empty"),
        ({"sims.csv": "name,words\na,happy\n"}, "sims.csv, row 1: needs the columns 'name' and 'openset'"),
        ({"mafw.csv": "name,openset\na,happy\n"}, "no_caption/set_1/test.txt: cannot be read"),
        ({"notes.txt": ""}, "has no predictions SET.csv, SET.jsonl or SET.npz, SET being mer2023"),
        ({"sims-sentiment.csv": ""}, "sims-sentiment.csv: sentiment without the predictions sims.csv or the like"),
    ],
)
def test_one_clear_line(data, tmp_path, capsys, files, message):
    assert message in refused(capsys, data, write_predictions(tmp_path / "p", files))


def test_missing_folders(data, tmp_path, capsys):
    assert "there is no such folder of predictions" in refused(capsys, data, tmp_path / "nowhere")
    predictions = write_predictions(tmp_path / "p")
    assert "label-6way.npz: no such file" in refused(capsys, tmp_path, predictions)


def test_folders_that_contradict_themselves(tmp_path):
    write_predictions(tmp_path / "a" / "one", {"sims.csv": ""})
    write_predictions(tmp_path / "a" / "two", {"sims.csv": "", "meld.csv": ""})
    (tmp_path / "a" / "empty").mkdir()
    with pytest.raises(DataError, match="one: has no predictions for meld, as another checkpoint has"):
        prediction_files(tmp_path / "a", LAYOUTS)
    write_predictions(tmp_path / "a", {"sims.csv": ""})
    with pytest.raises(DataError, match="predictions both of its own and in one, two"):
        prediction_files(tmp_path / "a", LAYOUTS)
