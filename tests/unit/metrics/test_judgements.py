"""People's preferences: what is read, who agrees, and what scores, trains and rewards by them."""

from __future__ import annotations

import json
import math

import pytest

from affectgpt_r1.data.layouts.annotations import QuestionSet
from affectgpt_r1.data.layouts.manifest import read_manifest
from affectgpt_r1.errors import DataError
from affectgpt_r1.evaluation.score_preferences import score_preferences
from affectgpt_r1.metrics.judgements import (
    Judgement,
    nominal_agreement,
    preference_agreement,
    preferences_of_clips,
    read_judgements,
)
from affectgpt_r1.rewards.judges import PeopleJudge


def judged(clip, rater, preference, *, swapped=False, systems=("grpo", "sft"), texts=("calm voice", "angry brows")):
    order = slice(None, None, -1) if swapped else slice(None)
    return Judgement(
        clip, rater, *systems[order], *texts[order], preference=preference, time="2026-01-01T00:00:00+00:00"
    )


def write(path, *judgements):
    path.write_text("".join(f"{json.dumps(judgement.row())}\n" for judgement in judgements), "utf-8")
    return path


def test_the_last_judgement_of_a_pair_counts_whatever_the_order_shown(tmp_path):
    path = write(tmp_path / "p.jsonl", judged("one", "anna", "a1"), judged("one", "anna", "a1", swapped=True))

    (kept,) = read_judgements(path)

    assert (kept.system1, kept.preference) == ("sft", "a1")


@pytest.mark.parametrize("line", ["[]", '{"clip": "one"}', '{"preference": "a3"}', "{"])
def test_a_line_that_is_no_judgement_is_named(tmp_path, line):
    path = write(tmp_path / "p.jsonl", judged("one", "anna", "a1"))
    path.write_text(path.read_text("utf-8") + line, "utf-8")

    with pytest.raises(DataError, match=r"p\.jsonl: line 2: "):
        read_judgements(path)


def test_agreement_undoes_the_order_shown():
    judgements = [judged("one", "anna", "a1"), judged("one", "ben", "a2", swapped=True), judged("two", "anna", "a1")]

    assert preference_agreement(judgements)[:2] == (1, 1.0)
    assert preference_agreement([judged("one", "anna", "same"), judged("one", "ben", "neither")]).agreed == 1.0
    assert math.isnan(preference_agreement(judgements[2:]).agreed)


def test_alpha_is_that_of_krippendorffs_example():
    """His example C: 11 units of 4 observers with missing values; nominal alpha is 0.743."""
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[str(value) for value in column if value is not None] for column in zip(*rows, strict=True)]

    assert nominal_agreement([unit for unit in units if len(unit) > 1]).alpha == pytest.approx(0.743, abs=5e-4)


def test_a_clip_has_the_preference_of_most_people():
    judgements = [judged("one", "anna", "a1"), judged("one", "ben", "a2", swapped=True), judged("one", "cleo", "a2")]
    judgements += [judged("two", "anna", "a1"), judged("two", "ben", "a2")]

    rows = preferences_of_clips(judgements)

    assert [(row["name"], row["preference"]) for row in rows] == [("one", "a1"), ("two", "same")]
    assert (rows[0]["a1"], rows[0]["a2"]) == ("calm voice", "angry brows")


def test_prefer_ranks_systems_by_the_file(tmp_path):
    path = write(tmp_path / "p.jsonl", *(judged(f"clip {n}", "anna", "a1", swapped=n == 2) for n in range(5)))

    report = score_preferences(path, None)

    assert report["pairs"] == 5
    assert [(rank["system"], rank["won"], rank["played"]) for rank in report["ranking"]] == [
        ("grpo", 4, 5),
        ("sft", 1, 5),
    ]


def test_training_reads_the_file_as_questions_of_preference(tmp_path):
    path = write(tmp_path / "p.jsonl", judged("one", "anna", "a2"), judged("two", "anna", "neither"))
    questions = QuestionSet(("preference",))

    rows = read_manifest(tmp_path, str(path), subtitles=None, questions=questions, answers_all=True)

    assert [(row.name, row.annotations["preference"]) for row in rows] == [("one", "a2"), ("two", "same")]
    assert rows[0].annotations["a1"] == "calm voice"


def test_the_perception_reward_follows_what_people_preferred(tmp_path):
    judge = PeopleJudge(write(tmp_path / "p.jsonl", judged("one", "anna", "a1"), judged("one", "ben", "a1")))

    assert judge.worth("one", "a calm voice") == pytest.approx(2 * 2 / 5)  # F1 of {a, calm, voice} and {calm, voice}
    assert judge.wins([("one", ["a calm voice", "brows", "nothing"])])[0] == [[0, 1, 1], [0, 0, 0], [0, 1, 0]]
    assert judge.wins([("two", ["a calm voice", "brows"])])[0] == [[0, 0.5], [0.5, 0]]
