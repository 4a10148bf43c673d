"""Scores by slice: each equals the score of those clips alone."""

import json

import pytest

from affectgpt_r1.cli.score import main

ROWS = [
    # name, answer, target, language, seconds
    ("a", "happy", "happy", "en", 1.0),
    ("b", "sad", "happy, sad", "en", 2.0),
    ("c", "angry", "sad", "zh", 3.5),
    ("d", "zzz", "zzz", "", 4.0),
    *((f"e{number}", "calm", "calm", "zh", 5.0 + number) for number in range(8)),
]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "p.csv").write_text("name,openset\n" + "".join(f'{n},"{p}"\n' for n, p, *_ in ROWS))

    def call(*options, keep=lambda row: True, extra=True):
        lines = [
            f'{name},"{target}"' + f",{language},{seconds}" * extra
            for name, _, target, language, seconds in filter(keep, ROWS)
        ]
        header = "name,openset" + ",language,seconds" * extra
        (tmp_path / "t.csv").write_text("\n".join([header, *lines]) + "\n")
        files = ["--predictions", tmp_path / "p.csv", "--targets", tmp_path / "t.csv", "--json", tmp_path / "s.json"]
        main([*map(str, files), *options])
        return json.loads((tmp_path / "s.json").read_text())

    return call


def test_usual_columns_are_slices_unasked_and_score_like_their_clips(run, capsys):
    slices = run()["slices"]
    assert list(slices) == ["language"]
    assert {value: row["clips"] for value, row in slices["language"].items()} == {"(empty)": 1, "en": 2, "zh": 9}
    assert slices["language"]["(empty)"]["f1"] is None
    for language in ("en", "zh"):
        alone = run(keep=lambda row, language=language: row[3] == language, extra=False)
        row = slices["language"][language]
        assert {key: row[key] for key in ("f1", "precision", "recall")} == alone["scores"]["mean_level1"]
        assert row["interval"] == alone["intervals"]["mean_level1"]["f1"]
        assert alone["slices"] == {}
    assert "By language, 3 slices" in capsys.readouterr().out


def test_ranges_clusters_and_lengths(run):
    slices = run("--by", "seconds", "cluster", "length")["slices"]
    assert {value: row["clips"] for value, row in slices["seconds"].items()} == {
        "1 to 3.875": 3, "3.875 to 6.5": 3, "6.5 to 9.25": 3, "9.25 to 12": 3
    }  # fmt: skip
    assert sum(row["clips"] for row in slices["cluster"].values()) >= 12  # b is in two, d in none
    assert {value: row["clips"] for value, row in slices["length"].items()} == {"1": 11, "2": 1}


def test_faults_are_one_line(run, capsys):
    with pytest.raises(SystemExit):
        run("--by", "speaker")
    message = "t.csv: no column 'speaker' for --by; it has 'name', 'openset', 'language', 'seconds'"
    assert message in capsys.readouterr().err
