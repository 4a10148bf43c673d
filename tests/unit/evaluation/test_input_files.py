"""Files that people hold: each gives the right figure, or says what is wrong. None gives a silent zero."""

import json

import numpy as np
import openpyxl
import pytest

from affectgpt_r1.errors import DataError
from affectgpt_r1.evaluation.score_files import score_files

TARGETS = 'name,openset\na,"happy, sad"\nb,calm\nc,angry\n'


def table(*answers, header="name,openset", names="abc", mark=","):
    lines = [mark.join((name, answer)) for name, answer in zip(names, answers, strict=True)]
    return "\n".join([header, *lines]) + "\n"


def quoted(*answers, **options):
    return table(*(f'"{answer}"' for answer in answers), **options)


def jsonl(*answers, field="openset"):
    return "".join(
        json.dumps({"name": name, field: answer}) + "\n" for name, answer in zip("abc", answers, strict=True)
    )


def arrays(*answers, names="abc"):
    return {"filenames": np.array(list(names)), "fileitems": np.array(answers)}


def workbook(*rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    return book


PERFECT = "happy, sad", "calm", "angry"
READ = {
    # What the published scorer reads too
    "plain.csv": (quoted(*PERFECT), []),
    "lists.csv": (quoted("['happy', 'sad']", "['calm']", "[angry]"), []),
    "repeated-words.csv": (quoted("happy, happy, sad", "calm", "angry"), []),
    "case.csv": (quoted("HAPPY, Sad", " Calm ", "angry"), []),
    "order.csv": (quoted("angry", "sad,happy", "calm", names="cab"), []),
    "forms.csv": (quoted("happily, sadness", "calmly", "anger"), []),
    "challenge-openset.npz": (arrays(*PERFECT), []),
    "columns-of-words.npz": (arrays(["happy", "sad"], ["calm", ""], ["angry", ""]), []),
    # Formats
    "tabs.tsv": (table(*PERFECT, header="name\topenset", mark="\t"), []),
    "tabs.csv": (table(*PERFECT, header="name\topenset", mark="\t"), ["tabs between its cells"]),
    "semicolons.csv": (table(*PERFECT, header="name;openset", mark=";"), ["semicolons between its cells"]),
    "byte-order-mark.csv": ("\ufeff" + quoted(*PERFECT), []),
    "utf16.csv": (quoted(*PERFECT).encode("utf-16"), ["is in UTF-16"]),
    "windows-lines.csv": (quoted(*PERFECT).replace("\n", "\r\n"), []),
    "blank-lines.csv": (quoted(*PERFECT).replace("\n", "\n\n"), []),
    "lines.jsonl": (jsonl(["happy", "sad"], ["calm"], "angry"), []),
    "by-name.json": (json.dumps(dict(zip("abc", PERFECT, strict=True))), []),
    "objects.json": (json.dumps([{"name": n, "openset": w} for n, w in zip("abc", PERFECT, strict=True)]), []),
    "book.xlsx": (workbook(("name", "openset"), *zip("abc", PERFECT, strict=True)), []),
    "book.csv": (workbook(("name", "openset"), *zip("abc", PERFECT, strict=True)), ["Excel workbook, in spite of"]),
    # Columns
    "file-label.csv": (quoted(*PERFECT, header="File,Label"), ["'File' was read as 'name'", "'Label' was read as"]),
    "video-id.csv": (quoted(*PERFECT, header="video_id,emotions"), ["'video_id' was read as 'name'"]),
    "clip-prediction.csv": (quoted(*PERFECT, header="Clip Name,predictions"), ["'predictions' was read as 'openset'"]),
    "track-1.csv": (quoted(*PERFECT, header="name,discrete"), ["'discrete' was read as 'openset'"]),
    "synonym.jsonl": (jsonl(*PERFECT, field="emotions"), ["field 'emotions' was read as 'openset'"]),
    # Names
    "suffix.csv": (quoted(*PERFECT, names=("a.mp4", "b.MP4", "c.wav")), ["3 names were paired that differ"]),
    "folders.csv": (quoted(*PERFECT, names=("x/a.mp4", "x/b.mp4", "y\\c.mp4")), ["3 names were paired"]),
    "case-of-names.csv": (quoted(*PERFECT, names="ABC"), ["3 names were paired that differ by folder, suffix, case"]),
    "more-clips.csv": (
        quoted(*PERFECT, "happy", names=("a", "b", "c", "unscored")),
        ["1 prediction has no target and was not scored, such as unscored"],
    ),
    # Answers in another form
    "tags.csv": (quoted("<answer>happy, sad</answer>", "<answer>calm</answer>", "angry"), ["2 rows have tags"]),
    "thoughts.csv": (quoted("<think>Angry?</think><answer>happy, sad</answer>", "calm", "angry"), ["1 row has tags"]),
    "after-thoughts.jsonl": (jsonl("<think>He is angry.</think> happy, sad", "calm", "angry"), ["1 row has tags"]),
    "bold.csv": (quoted("**happy**, **sad**", "*calm*", "`angry`"), ["3 rows have tags, sentences, JSON or marks"]),
    "numbered.jsonl": (jsonl("1. happy\n2. sad", "1) calm", "- angry"), ["3 rows have tags"]),
    "bullets.jsonl": (jsonl("* happy\n* sad", "\u2022 calm", "angry"), ["2 rows have tags"]),
    "emoji.csv": (quoted("happy \U0001f600, sad \U0001f622", "calm", "angry"), ["1 row has tags"]),
    "json-in-cell.jsonl": (jsonl('{"emotions": ["happy", "sad"]}', '["calm"]', "angry"), ["1 row has tags"]),
    "fenced.jsonl": (jsonl('```json\n["happy", "sad"]\n```', "calm", "angry"), ["1 row has tags"]),
    "full-stop.csv": (quoted("happy, sad.", "calm.", "angry."), ["3 rows have tags"]),
    "heading.csv": (quoted("Emotions: happy, sad", "Answer: calm", "angry"), ["2 rows have tags"]),
    "sentence.csv": (quoted("He seems to be happy and also a bit sad", "calm", "angry"), ["1 row has tags"]),
    # Free text
    "published-sentence.csv": (
        quoted("The character's emotional state is happy, sad.", "calm", "angry", header="name,reason"),
        ["the labels of 2 rows were searched for in free text"],
    ),
    "name2reason.npz": (
        {"name2reason": {"a": "She is happy and sad.", "b": "He stays calm.", "c": "An angry man."}},
        ["the labels of 3 rows were searched for in free text"],
    ),
    "negations.jsonl": (
        jsonl("Not angry but happy and sad.", "Calm rather than angry.", "Angry, far from calm.", field="reason"),
        ["3 negated spans were skipped"],
    ),
    "quoted-speech.jsonl": (
        jsonl('He says "I am so angry with you" and is happy and sad.', "calm", "angry", field="reason"),
        ["searched for in free text"],
    ),
    "emotional-state.jsonl": (
        jsonl("The person's emotional state: happy, sad.", "A calm facial expression.", "angry", field="response"),
        ["field 'response' was read as 'reason'"],
    ),
}

SAID = {
    "semicolon-labels.csv": (quoted("happy;sad", "calm", "angry"), "the labels seem to be separated by ';', as in"),
    "slashes.csv": (quoted("happy/sad", "calm", "angry"), "the labels seem to be separated by '/'"),
    "bars.csv": (quoted("happy|sad", "calm", "angry"), "the labels seem to be separated by '|'"),
    "chinese.csv": (quoted("\u9ad8\u5174", "\u5e73\u9759", "\u751f\u6c14"), "are not in Latin letters; the lexicons"),
    "unknown-words.csv": (quoted("blorp", "zzz", "angry"), "2 of 3 words map onto no wheel: blorp (1), zzz (1)"),
    "meta-words.csv": (quoted("emotional", "unknown", "angry"), "2 words name no emotion: emotional (1), unknown (1)"),
    "empty.csv": (quoted("", "", ""), "predictions: no sample has a label"),
    "mostly-empty.csv": (quoted("", "", "angry"), "predictions: 2 of 3 samples have no label"),
    "refusals.jsonl": (
        jsonl("I cannot tell.", "I'm sorry, I can't help with that.", "angry", field="reason"),
        "predictions: 2 of 3 samples have no label",
    ),
    "reason-beside-empty-openset.csv": (
        "name,openset,reason\na,,She is happy.\nb,calm,\nc,angry,\n",
        "1 row has text under 'reason' and nothing under 'openset', such as a",
    ),
}

REFUSED = {
    "pickled.npz": (
        {"filenames": np.array(["a"]), "fileitems": np.array([["happy"], None], dtype=object)},
        "holds pickled objects",
    ),
    "two-columns.csv": ("name,label,prediction\na,x,y\n", "'label', 'prediction' may each be 'openset'; name one"),
    "no-columns.csv": ("subject,words\na,happy\n", "needs the columns 'name' and 'openset'.*--columns"),
    "missing-clips.csv": (
        quoted("happy", "calm", names="ab"),
        r"1 clip \(c\) with a target and no prediction.*--subset",
    ),
    "other-clips.csv": (quoted(*PERFECT, names="xyz"), "no clip has a prediction and a target"),
    "ambiguous-names.csv": (
        quoted(*PERFECT, "sad", names=("x/a.mp4", "b", "c", "y/a.mp4")),
        r"2 clips \(x/a.mp4, y/a.mp4\) with a prediction may be 1 clip \(a\)",
    ),
    "repeated-clip.csv": (quoted(*PERFECT, "sad", names="abca"), "'a' is in row 2 already; keep one"),
    "unquoted.csv": ("name,openset\na,happy,sad\nb,calm\nc,angry\n", "row 2: does not have 2 cells; quote texts with"),
    "old.xls": (b"\xd0\xcf\x11\xe0", "the suffix is none of .csv, .tsv, .xlsx, .json, .jsonl, .npz; convert the file"),
    "number.jsonl": (jsonl(3, "calm", "angry"), "labels are text or a list of texts, not int"),
}


@pytest.fixture
def score(tmp_path):
    (tmp_path / "targets.csv").write_text(TARGETS)

    def call(file, content):
        path = tmp_path / file
        if isinstance(content, dict):
            np.savez(path, **content)
        elif isinstance(content, openpyxl.Workbook):
            content.save(tmp_path / "book.xlsx")
            path = (tmp_path / "book.xlsx").rename(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return score_files(path, tmp_path / "targets.csv").report

    return call


@pytest.mark.parametrize("file", READ)
def test_it_is_read_as_meant_and_what_was_taken_for_it_is_said(score, file):
    content, notes = READ[file]
    report = score(file, content)
    assert report["scores"]["mean_level1"]["f1"] == 1
    assert len(report["notes"]) >= len(notes)
    assert bool(report["notes"]) == bool(notes), report["notes"]
    for note in notes:
        assert any(note in line for line in report["notes"]), report["notes"]


@pytest.mark.parametrize("file", SAID)
def test_what_is_wrong_is_said(score, file):
    content, note = SAID[file]
    report = score(file, content)
    assert report["scores"]["mean_level1"]["f1"] < 1
    assert any(note in line for line in report["notes"]), report["notes"]


@pytest.mark.parametrize("file", REFUSED)
def test_what_cannot_be_meant_is_refused(score, file):
    content, message = REFUSED[file]
    with pytest.raises(DataError, match=message):
        score(file, content)
