"""The rules by hand; files merged, scored and refused; three published systems of OV-MERD."""

from __future__ import annotations

import json
from itertools import permutations

import pytest

from affectgpt_r1.cli.merge import main
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.metrics.merge_answers import merge_answers

LEXICON = load_lexicon("bundled")
ANSWERS = [("happy", "calm", "happy"), ("Joyful", "sad"), ("sad", "angry", "qwertz"), ("sad ",)]


@pytest.mark.parametrize(
    ("rule", "most", "words"),
    [
        # Votes: sad 3, happy (joyful is its synonym) 2, calm, angry and qwertz 1.
        ("union", None, ("sad", "happy", "calm", "angry", "qwertz")),
        ("union", 2, ("sad", "happy")),
        ("vote", None, ("sad",)),
        ("cap", None, ("sad", "happy")),  # 2, 2, 3 and 1 distinct words: two on average
        ("cap", 1, ("sad",)),
    ],
)
def test_the_rules_by_hand(rule, most, words):
    assert LEXICON.synonym("joyful") == LEXICON.synonym("happy")
    assert merge_answers(ANSWERS, LEXICON, rule, most) == words


def test_without_a_majority_the_words_of_most_answers_stay():
    assert merge_answers([("happy",), ("sad",)], LEXICON, "vote") == ("happy", "sad")
    four = [("happy", "calm"), ("happy",), ("sad",), ("angry",)]
    assert merge_answers(four, LEXICON, "vote") == ("happy",)
    assert merge_answers([(), ()], LEXICON, "vote") == ()


@pytest.mark.parametrize("rule", ["union", "vote", "cap"])
def test_equal_answers_stay_as_they_score_and_the_order_of_systems_only_orders_ties(rule):
    answer = ("happy", "sad", "angry")
    assert merge_answers([answer] * 3, LEXICON, rule) == answer
    kept = {
        frozenset(LEXICON.synonym(word) or word for word in merge_answers(order, LEXICON, rule))
        for order in permutations(ANSWERS)
    }
    assert len(kept) == 1


@pytest.mark.parametrize(("rule", "most", "message"), [("mean", None, "--rule mean: take one of union, vote, cap"),
                                                      ("vote", 0, "--most 0: keep at least 1 word")])  # fmt: skip
def test_a_rule_that_cannot_be_is_refused(rule, most, message):
    with pytest.raises(ConfigError, match=message):
        merge_answers(ANSWERS, LEXICON, rule, most)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"name": "x", "openset": "happy, sad"}\n{"name": "y", "openset": "calm"}\n')
    (tmp_path / "b.csv").write_text("name,openset\ny.mp4,calm\nx.mp4,joyful\n")
    (tmp_path / "c.csv").write_text('name,openset\nx,"angry, happy"\ny,sad\n')
    (tmp_path / "t.csv").write_text("name,openset\nx,happy\ny,calm\n")
    return tmp_path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", "-openset.npz"])
def test_merged_files_are_scored_next_to_each_system(files, capsys, suffix):
    output, report = files / f"merged{suffix}", files / "scores.json"
    systems = [str(files / name) for name in ("a.jsonl", "b.csv", "c.csv")]
    main([*systems, "--output", str(output), "--targets", str(files / "t.csv"), "--json", str(report)])
    printed = capsys.readouterr().out
    assert "2 clips, 1.00 words each (of 1.50, 1.00, 1.50 in the files) by vote" in printed
    scores = json.loads(report.read_text())["systems"]
    assert list(scores) == ["merged-openset" if suffix.endswith(".npz") else "merged", "a", "b", "c"]
    merged = next(iter(scores.values()))
    assert merged["f1"] == 1.0
    assert scores["a"]["difference"] == pytest.approx(1.0 - scores["a"]["f1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.jsonl", "--output", "m.jsonl"], "merge takes two or more different files, not"),
        (["a.jsonl", "a.jsonl", "--output", "m.jsonl"], "merge takes two or more different files, not"),
        (["a.jsonl", "one.csv", "--output", "m.jsonl"], "do not answer the same clips: 1 are missing and 0 are not"),
        (["a.jsonl", "b.csv", "--output", "b.csv"], "--output b.csv is one of the files that are merged: choose"),
        (["a.jsonl", "b.csv", "--output", "m.txt"], "the suffix is none of .jsonl, .csv and -openset.npz; rename it"),
        (["a.jsonl", "b.csv", "--output", "m.csv", "--json", "s.json"], "give --targets FILE as well"),
    ],
)
def test_what_cannot_be_merged_is_one_line(files, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(files)
    (files / "one.csv").write_text("name,openset\nx,happy\n")
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
