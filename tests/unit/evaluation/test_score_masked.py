"""Answers without a modality: what changes, by hand."""

import json

import pytest

from affectgpt_r1.cli.score import main

FULL = "name,openset,reason\na,happy,A loud voice.\nb,sad,A frown.\nc,angry,He walks.\nd,calm,\n"
MASKED = "name,openset,reason\nd,calm,He nods.\na,joyful,The tone is bright.\nb,angry,A frown.\nc,,Nothing.\n"


def run(folder, *options):
    files = ["--predictions", folder / "full.csv", "--targets", folder / "full.csv", "--json", folder / "out.json"]
    main([*map(str, [*files, *options])])
    return json.loads((folder / "out.json").read_text())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "full.csv").write_text(FULL)
    (tmp_path / "masked.csv").write_text(MASKED)
    return tmp_path


def test_what_changes_without_the_sound(folder, capsys):
    masked = run(folder, "--masked", f"audio={folder / 'masked.csv'}", f"smell={folder / 'full.csv'}")["masked"]
    audio, smell = masked["audio"], masked["smell"]
    # happy and joyful share every cluster; b has another one, c has none any more.
    assert (audio["clips"], audio["changed"], audio["agreement"]) == (4, 0.5, 0.5)
    # Of four clips with as many targets two are hit, and c has no answer: P = R = 1/2 on wheels that hold all of them.
    assert audio["drop"] == pytest.approx(0.5, abs=0.1)
    assert audio["interval"][0] <= audio["drop"] <= audio["interval"][1]
    assert [count for _, count in audio["lost"]] == [1, 1]
    assert [count for _, count in audio["gained"]] == [1]
    assert (audio["cues"], audio["cues_full"]) == (1 / 4, 1 / 3)
    assert (smell["changed"], smell["agreement"], smell["drop"], smell["cues"]) == (0, 1, 0, None)
    printed = capsys.readouterr().out
    assert "With a modality masked, against the full answers (4 clips)" in printed


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("audio", "--masked takes MODALITY=FILE once for each, as in audio=no_audio.csv, not 'audio'"),
        ("audio={}/short.csv", "lacks 3 of the 4 scored clips, such as b; --masked compares answers to the same clips"),
    ],
)
def test_faults_are_one_line(folder, capsys, option, message):
    (folder / "short.csv").write_text("name,openset\na,happy\n")
    with pytest.raises(SystemExit):
        run(folder, "--masked", option.format(folder))
    assert message in capsys.readouterr().err
