"""`--against` and `--per-clip` of `affectgpt-r1 score`, by hand."""

import csv
import json
import math

import pytest
from scipy.stats import studentized_range

from affectgpt_r1.cli.score import main
from affectgpt_r1.emotion.bundled import load_bundled
from affectgpt_r1.errors import DataError
from affectgpt_r1.evaluation.score_comparison import _NEMENYI, compare_systems

LEXICON = load_bundled()
# happy, sad and angry have a cluster on every wheel, and never the same one.
TARGETS = [("happy",), ("sad",), ("angry",), ("neutral",)]
RIGHT = [("happy",), ("sad",), ("angry",), ("happy",)]
HALF = [("happy",), ("happy",), ("angry", "sad"), ()]


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("name", "openset"), *((f"c{row}", ", ".join(words)) for row, words in rows)])
    return str(path)


@pytest.fixture
def files(tmp_path):
    own = {"targets": TARGETS, "ours": HALF, "theirs": RIGHT}
    return {name: write(tmp_path / f"{name}.csv", enumerate(rows)) for name, rows in own.items()}


def test_differences_and_ranks_by_hand():
    found = compare_systems({"half": HALF, "right": RIGHT, "none": [()] * 4}, TARGETS, LEXICON)

    assert found["clips"] == 3  # neutral is on no wheel
    systems = found["systems"]
    # P = (1 + 0 + 1/2) / 3, R = (1 + 0 + 1) / 3
    half = 2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3)
    assert [systems[name]["f1"] for name in systems] == pytest.approx([half, 1, 0], abs=1e-12)
    assert systems["half"]["difference"] is None
    assert systems["right"]["difference"] == pytest.approx(half - 1, abs=1e-12)
    low, high = systems["right"]["difference_interval"]
    assert low < half - 1 < high == 0
    # Set F1 by clip: half 1, 0, 2/3; right 1, 1, 1; none 0, 0, 0.
    assert [systems[name]["mean_rank"] for name in systems] == [(1.5 + 2.5 + 2) / 3, (1.5 + 1 + 1) / 3, 8.5 / 3]
    assert found["critical_difference"] == pytest.approx(2.344 * math.sqrt(3 * 4 / 18))


def test_a_system_does_not_differ_from_itself():
    found = compare_systems({"a": HALF, "b": list(HALF)}, TARGETS, LEXICON, level=2)

    assert found["systems"]["b"]["difference"] == 0
    assert found["systems"]["b"]["difference_interval"] == [0, 0]
    assert found["systems"]["b"]["mean_rank"] == 1.5


def test_critical_values_are_those_of_the_studentized_range():
    for num_systems, value in _NEMENYI.items():
        assert value == pytest.approx(studentized_range.ppf(0.95, num_systems, math.inf) / math.sqrt(2), abs=6e-4)


def test_nothing_counts():
    with pytest.raises(DataError, match="nothing to compare: no target is in the bundled lexicon"):
        compare_systems({"a": [()], "b": [()]}, [("neutral",)], LEXICON)


def test_command_compares_and_writes_clip_by_clip(files, tmp_path, capsys):
    out, clips = tmp_path / "scores.json", tmp_path / "clips.jsonl"
    own = ["--predictions", files["ours"], "--targets", files["targets"], "--json", str(out)]
    main([*own, "--against", files["theirs"], "--per-clip", str(clips)])

    printed = capsys.readouterr().out
    assert "Systems on the same 3 clips, level 1" in printed
    assert "ours minus it" in printed
    assert printed.index("│ theirs") < printed.index("│ ours ")  # the best comes first
    against = json.loads(out.read_text())["against"]
    assert against["systems"]["theirs"]["f1"] == 1
    rows = [json.loads(line) for line in clips.read_text().splitlines()]
    assert [row["f1"] for row in rows] == [1, 0, pytest.approx(2 / 3), None]
    assert rows[2] == {
        "name": "c2",
        "f1": pytest.approx(2 / 3),
        "precision": 0.5,
        "recall": 1,
        "predicted": ["angry", "sad"],
        "target": ["angry"],
        "unmapped": [],
    }


def test_per_clip_csv_has_no_formulas(files, tmp_path):
    (tmp_path / "ours.csv").write_text("name,openset\nc0,=1+1\nc1,sad\nc2,\nc3,\n")
    main(["--predictions", files["ours"], "--targets", files["targets"], "--per-clip", str(tmp_path / "clips.csv")])

    rows = list(csv.DictReader((tmp_path / "clips.csv").open()))
    assert (rows[0]["predicted"], rows[0]["unmapped"], rows[0]["f1"]) == ("'=1+1", "'=1+1", "0.0")
    assert (rows[3]["target"], rows[3]["f1"]) == ("neutral", "")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--against", "{short}"], "lacks 3 of the 4 scored clips, such as c1"),
        (["--against", "{ours}"], "a file is given twice"),
        (["--per-clip", "clips.xlsx"], "the suffix is neither .csv nor .jsonl"),
    ],
)
def test_bad_input_is_one_line(files, tmp_path, capsys, options, complaint):
    files["short"] = write(tmp_path / "short.csv", [(0, ("happy",))])
    given = [option.format(**files) for option in options]
    with pytest.raises(SystemExit) as caught:
        main(["--predictions", files["ours"], "--targets", files["targets"], *given])
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err
