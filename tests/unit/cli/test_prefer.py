"""`affectgpt-r1 prefer`: scores by hand and by scikit-learn, consistency, ranking, and what it refuses."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from affectgpt_r1.cli.prefer import main
from affectgpt_r1.evaluation.score_preferences import read_preferences
from affectgpt_r1.metrics.functional.preference import preference_scores, rank_systems, swap_consistency

EMOPREFER = Path(os.environ.get("AFFECTGPT_FIXTURES", ""), "published_outputs", "emoprefer")


def write(path, answers, **columns):
    names = [f"c{row}" for row in range(len(answers))]
    rows = zip(names, answers, *columns.values(), strict=True)
    path.write_text("\n".join([",".join(("name", "preference", *columns)), *map(",".join, rows)]) + "\n")
    return path


def run(folder, *arguments):
    main([*map(str, arguments), "--json", str(folder / "report.json")])
    return json.loads((folder / "report.json").read_text())


def test_scores_consistency_and_what_was_answered(tmp_path, capsys):
    predictions = write(tmp_path / "p.csv", ["A1", "same", "a2.", "no idea"])
    targets = write(tmp_path / "t.csv", ["a1", "a1", "same", "a2"])
    swapped = write(tmp_path / "s.csv", ["a2", "same", "a2", "a1"])
    report = run(tmp_path, "--predictions", predictions, "--targets", targets, "--swapped", swapped)
    # Two classes: c0 and c1 (`same` counts as a1) are right, c3 is not. F1 of a1 is 1, of a2 is 0; a1 has 2 of 3 pairs.
    assert report["scores"]["two_class"] == {"accuracy": 2 / 3, "waf": 2 / 3, "scored": 3}
    assert report["scores"]["two_class_strict"]["accuracy"] == 1 / 3
    assert report["scores"]["three_class"]["accuracy"] == 1 / 4
    assert report["swap_consistency"] == 2 / 4
    assert report["answered"] == {"a1": 1, "a2": 1, "same": 1, "unreadable": 1}
    printed = capsys.readouterr().out
    assert "two classes, as published" in printed
    assert "50.00 % of the answers stay" in printed


@pytest.mark.skipif(not EMOPREFER.is_dir(), reason="AFFECTGPT_FIXTURES does not name a folder")
def test_the_official_formulas_on_emoprefers_labels():
    """300 random files of answers; the official scorer maps `same` onto a1 and calls scikit-learn."""
    targets = read_preferences(EMOPREFER / "preference_emoprefer.csv").answers
    swapped = read_preferences(EMOPREFER / "preference_emoprefer_reverse.csv").answers
    assert len(targets) == 574
    assert swap_consistency(targets, swapped) == 1
    generator = np.random.default_rng(0)
    kept = [row for row, target in enumerate(targets) if target != "same"]
    for _ in range(300):
        answers = generator.choice(["a1", "a2", "same"], len(targets), p=generator.dirichlet([1, 1, 1])).tolist()
        scores = preference_scores(answers, targets)
        wanted, given = [targets[row] for row in kept], [answers[row].replace("same", "a1") for row in kept]
        for kind, truth, answer in (("two_class", wanted, given), ("three_class", targets, answers)):
            assert scores[kind]["waf"] == pytest.approx(f1_score(truth, answer, average="weighted"), abs=1e-12)
            assert scores[kind]["accuracy"] == pytest.approx(accuracy_score(truth, answer), abs=1e-12)


def test_systems_are_ranked(tmp_path, capsys):
    first = ["x"] * 6 + ["y"] * 4 + ["x"]
    second = ["y"] * 6 + ["z"] * 4 + ["z"]
    answers = ["a1"] * 5 + ["a2"] + ["a1"] * 3 + ["same", "nonsense"]
    report = run(tmp_path, "--predictions", write(tmp_path / "p.csv", answers, system1=first, system2=second))
    ranking = {rank["system"]: rank for rank in report["ranking"]}
    assert list(ranking) == ["x", "y", "z"]
    assert [(rank["won"], rank["played"]) for rank in ranking.values()] == [(5, 6), (1 + 3.5, 10), (0.5, 4)]
    assert all(rank["low"] <= rank["strength"] <= rank["high"] for rank in ranking.values())
    assert "Bradley-Terry" in capsys.readouterr().out


def test_a_ranking_is_symmetric():
    """Swapping the sides of every pair, and its answer, changes nothing."""
    generator = np.random.default_rng(1)
    first, second = generator.choice(["p", "q", "r"], (2, 40))
    answers = generator.choice(["a1", "a2", "same"], 40).tolist()
    turned = [{"a1": "a2", "a2": "a1"}.get(answer, answer) for answer in answers]
    strengths = [
        {rank.system: rank.strength for rank in ranking}
        for ranking in (rank_systems(first, second, answers), rank_systems(second, first, turned))
    ]
    assert strengths[0] == pytest.approx(strengths[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "name,choice\na,a1\n",
            "row 1: no column 'preference', which was to be read as 'openset'; it has 'name', 'choice'",
        ),
        ("name,preference\na,a1\na,a2\n", "row 3: the name 'a' is in row 2 already; keep one"),
        ("name,preference\n", "the file has no rows"),
    ],
)
def test_bad_files_are_one_line(tmp_path, capsys, content, message):
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        main(["--predictions", str(tmp_path / "p.csv")])
    assert stopped.value.code == 2
    assert f"p.csv{':' if message.startswith('the') else ','} {message}" in capsys.readouterr().err


def test_targets_and_names_that_do_not_fit(tmp_path, capsys):
    predictions = write(tmp_path / "p.csv", ["a1", "a2"])
    for targets, message in (
        (write(tmp_path / "t.csv", ["a1", "maybe"]), "t.csv: the target of 'c1' is none of a1, a2 and same"),
        (write(tmp_path / "u.csv", ["a1", "a2", "a1"]), "1 clip (c2) with a target and no prediction"),
    ):
        with pytest.raises(SystemExit):
            main(["--predictions", str(predictions), "--targets", str(targets)])
        assert message in capsys.readouterr().err
