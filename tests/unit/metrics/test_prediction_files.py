"""Files of predictions: every format, every fault, submissions, and the pairing of names."""

import io
import json
import re
import zipfile
from functools import partial

import numpy as np
import openpyxl
import pytest

from affectgpt_r1.emotion.extraction import AGREEMENT, extract_labels
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import DataError, WriteError
from affectgpt_r1.metrics.prediction_files import NamedSets, align, read_named_sets, write_submission

LEXICON = load_lexicon("bundled")


def write(path, content):
    if isinstance(content, dict):
        np.savez_compressed(path, **content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path):
    return read_named_sets(path, lambda text: extract_labels(text, LEXICON))


FORMATS = {
    "labels.csv": 'name,openset\na,"happy, sad"\nb,"[\'calm\']"\nc,\n',
    "others.csv": 'openset,extra,name\n"happy,sad",1,a\ncalm,,b\n"",,c\n',
    "bom.csv": b'\xef\xbb\xbfname,openset\na,"happy,sad"\nb,calm\nc,\n',
    "text.csv": "name,reason\na,Happy and sad.\nb,She is calm.\nc,He walks.\n",
    "labels.jsonl": '{"name": "a", "openset": ["happy", "sad"]}\n\n{"name": "b", "openset": "calm"}\n'
    '{"name": "c", "openset": []}\n',
    "text.jsonl": '{"name": "a", "reason": "<answer>happy, sad</answer>"}\n{"name": "b", "reason": "calm"}\n'
    '{"name": "c", "reason": "not sad"}\n',
    "array.npz": {"filenames": np.array(["a", "b", "c"]), "fileitems": np.array(["happy, sad", "['calm']", ""])},
}


@pytest.mark.parametrize("file", FORMATS)
def test_every_format(tmp_path, file):
    found = read(write(tmp_path / file, FORMATS[file]))
    assert found.names == ["a", "b", "c"]
    assert found.labels == [("happy", "sad"), ("calm",), ()]
    assert found.negated == [(), (), ("not sad",) if file == "text.jsonl" else ()]


def test_lists_of_equal_length_and_labels_before_free_text(tmp_path):
    items = {"filenames": np.array(["a", "b"]), "fileitems": np.array([["happy", "sad"], ["calm", ""]])}
    assert read(write(tmp_path / "list.npz", items)).labels == [("happy", "sad"), ("calm",)]
    both = write(tmp_path / "both.csv", "name,reason,openset\na,angry,happy\n")
    assert read(both).labels == [("happy",)]


def test_predictions_that_evaluate_writes(tmp_path):
    line = {"name": "a", "openset": ["happy"], "target": ["sad"], "completion": "<answer>happy</answer>"}
    assert read(write(tmp_path / "grpo.jsonl", json.dumps(line))).labels == [("happy",)]


def test_very_long_cells(tmp_path):
    label, text = "x" * 10_000, "happy " * 100_000
    assert read(write(tmp_path / "a.csv", f"name,openset\na,{label}\n")).labels == [(label,)]
    assert read(write(tmp_path / "b.csv", f"name,reason\na,{text}\n")).labels == [("happy",)]
    assert read(write(tmp_path / "c.jsonl", json.dumps({"name": "a", "openset": [label]}))).labels == [(label,)]


class Trap:
    """Would leave a trace if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pickled.npz", "bare.npz"])
def test_pickles_are_refused_and_never_loaded(tmp_path, name):
    items = np.array([Trap(tmp_path / "trace"), ["sad"]], dtype=object)
    if name == "bare.npz":
        items.dump(tmp_path / name)
    else:
        np.savez(tmp_path / name, filenames=np.array(["a", "b"]), fileitems=items)
    with pytest.raises(DataError, match=rf"{name}: holds pickled objects.*never loaded"):
        read(tmp_path / name)
    assert not (tmp_path / "trace").exists()


def raw_npz(shape, descr="<U1", content=b"", method=zipfile.ZIP_STORED):
    """Arrays whose header and content need not agree."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    array = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + content
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in ("filenames", "fileitems"):
            archive.writestr(f"{name}.npy", array)
    return file.getvalue()


FAULTS = {
    "column.csv": (
        "name,words\na,happy\n",
        "row 1: needs the columns 'name' and 'openset'.*has 'name', 'words'.*--columns",
    ),
    "noname.csv": ("subject,openset\na,happy\n", "row 1: needs the columns 'name'"),
    "two.csv": (
        "name,label,prediction\na,happy,sad\n",
        "row 1: 'label', 'prediction' may each be 'openset'.*--columns openset",
    ),
    "empty.json": ("[]", "the file has no rows"),
    "number.json": ("3", "needs a list of objects, or an object with the labels by name"),
    "cut.json": ('[{"name": "a"', "not JSON"),
    "reasons.json": ('{"name2reason": 3}', "key 'name2reason': labels are text or a list of texts, not int"),
    "damaged.xlsx": (b"PK\x03\x04 and no more", "cannot be read as a workbook .*; save it as .csv"),
    "old.csv": (b"\xd0\xcf\x11\xe0 and more", "old Excel workbook"),
    "repeated.npz": (b"PK\x05\x06" + bytes(18), "no array 'filenames', only none"),
    "columns.csv": ("name,openset,openset\na,happy,sad\n", "row 1: has several columns 'openset'; keep one"),
    "digits.jsonl": ('{"name":"a","openset":' + "1" * 5000 + "}", "line 1: not JSON"),
    "twice.csv": ("name,openset\na,happy\nb,sad\na,calm\n", "row 4: 'a' is in row 2 already"),
    "twice.jsonl": ('{"name":"a","openset":""}\n{"name":"a","openset":""}\n', "line 2: 'a' is in line 1 already"),
    "blank.csv": ("name,openset\n ,happy\n", "row 2: 'name' is ' '"),
    "cells.csv": ("name,openset\na,happy,sad\n", "row 2: does not have 2 cells"),
    "short.csv": ("name,openset\na\n", "row 2: does not have 2 cells"),
    "quote.csv": ('name,openset\na,"happy\n', "cannot be read as CSV"),
    "empty.csv": ("", "the file is empty"),
    "header.csv": ("name,openset\n", "the file has no rows"),
    "empty.jsonl": ("\n\n", "the file has no rows"),
    "latin.csv": ("name,openset\na,hé\n".encode("latin-1"), "not UTF-8.*save it as UTF-8"),
    "wide.csv": ("name,openset\na,happy\n".encode("utf-16")[:-1], "not UTF-8"),
    "latin.jsonl": ('{"name": "é"}'.encode("latin-1"), "not UTF-8"),
    "json.jsonl": ('{"name":"a","openset":""}\n{', "line 2: not JSON"),
    "deep.jsonl": ("[" * 200_000, "line 1: not JSON"),
    "list.jsonl": ("[1]", "line 1: not an object"),
    "field.jsonl": ('{"name":"a","words":[]}', "line 1: needs the fields.*has 'name', 'words'"),
    "null.jsonl": ('{"name":"a","openset":null}', "line 1: neither 'openset' nor 'reason'"),
    "number.jsonl": ('{"name":"a","openset":3}', "line 1: labels are text or a list of texts, not int"),
    "name.jsonl": ('{"name":3,"openset":""}', "line 1: 'name' is 3"),
    "key.npz": ({"filenames": np.array(["a"])}, "no array 'fileitems', only 'filenames'"),
    "pair.npz": ({"filenames": np.array(["a"]), "fileitems": np.array(["x", "y"])}, "do not pair up"),
    "type.npz": ({"filenames": np.array([1]), "fileitems": np.array(["x"])}, "'filenames' is of type <i8"),
    "damaged.npz": (b"PK\x03\x04 and no more", "not a zip archive, as .npz files are, or cut short; write or fetch"),
    "text.npz": ("name,openset\na,happy\n", "not a zip archive, as .npz files are"),
    "none.npz": (b"", "the file is empty"),
    "long.csv": (f"name,openset\na,sad\nb,{'x' * 100_000}\n", "row 3: a label of 100,000 characters; labels are words"),
    "long.jsonl": (json.dumps({"name": "a", "openset": ["x" * 10_001]}), "line 1: a label of 10,001 characters"),
    "long.npz": ({"filenames": np.array(["a"]), "fileitems": np.array(["x" * 100_000])}, "item 0: a label of 100,000"),
    "control.csv": ('name,openset\n"a\nb",happy\n', r"row 2: the name 'a\\nb' has a control character"),
    "control.jsonl": ('{"name":"a\\u0000","openset":""}', "line 1: the name .* has a control character"),
    "surrogate.jsonl": ('{"name":"\\ud800","openset":""}', "line 1: not JSON .half a character"),
    "nested.jsonl": ('{"name":' + "[" * 50 + "]" * 50 + ',"openset":""}', "line 1: 'name' is .*give the clip's name"),
    "columns1000.csv": (",".join(f"c{number}" for number in range(1001)), "its header has more than 1,000 cells"),
    "text.jsonl": (json.dumps({"name": "a", "reason": "x " * 500_001}), "line 1: 1,000,002 characters; an answer has"),
    "words.csv": (
        f'name,openset\na,{"x" * 9}\nb,"{"x," * 10_001}"\n',
        "row 3: 10,001 labels; a clip has at most 10,000",
    ),
    "shape.npz": (raw_npz("(1000000000,)", "<U100"), "has 0 bytes for .1000000000,. texts of 100 characters"),
    "item.npz": (raw_npz("(1,)", "<U500000000"), "has 0 bytes for .1,. texts of 500000000 characters"),
    "zero.npz": (raw_npz("(1000000000,)", "<U0"), "has 0 bytes for .1000000000,. texts of 0 characters"),
    "minus.npz": (raw_npz("(-1,)"), "its header is damaged"),
    "object.npz": (raw_npz("(1,)", "|O", b"\x80\x04N."), "holds pickled objects"),
    "point.npz": (raw_npz("(1,)", content=b"\0\0\x11\0"), "item 0: not text .code point not in range"),
    "half.npz": (raw_npz("(1,)", content=b"\0\xd8\0\0"), "item 0: not text .code point in surrogate"),
    "method.npz": (raw_npz("(1,)", content=b"a\0\0\0", method=zipfile.ZIP_BZIP2), "compressed by method 12"),
    "labels.txt": ("", "the suffix is none of .csv, .tsv, .xlsx, .json, .jsonl, .npz"),
}


@pytest.mark.parametrize("file", FAULTS)
def test_one_clear_error(tmp_path, file):
    content, message = FAULTS[file]
    with pytest.raises(DataError, match=f"{re.escape(file)}.*{message}") as raised:
        read(write(tmp_path / file, content))
    assert "\n" not in str(raised.value)


def test_archives_that_are_cut_short_or_changed(tmp_path):
    path = write(tmp_path / "a.npz", {"filenames": np.array(["a"]), "fileitems": np.array(["happy"])})
    content = path.read_bytes()
    for end in (1, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match=r"a\.npz: not a zip archive, as \.npz files are, or cut short"):
            read(path)
    place = content.index(b"filenames.npy") + 60
    path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
    with pytest.raises(DataError, match=r"a\.npz: array 'filenames' cannot be read .*; write the file again"):
        read(path)


def test_an_array_too_large_is_not_unpacked(tmp_path):
    path = write(tmp_path / "bomb.npz", {"filenames": np.array(["a"]), "fileitems": np.zeros(300, "U60000")})
    assert path.stat().st_size < 200_000
    with pytest.raises(DataError, match=r"array 'fileitems' cannot be read .*72,000,\d+ bytes, too many"):
        read(path)


def test_a_small_archive_of_many_words_is_refused(tmp_path):
    names, items = (np.array([str(row) for row in range(200)]), np.full(200, "a," * 9000))
    path = write(tmp_path / "a.npz", {"filenames": names, "fileitems": items})
    assert path.stat().st_size < 30_000
    with pytest.raises(DataError, match="item 111: more than 1,000,000 labels so far"):
        read(path)


def test_lists_in_the_order_of_fortran(tmp_path):
    items = np.asfortranarray(np.array([["happy", "sad"], ["calm", ""], ["x", "y"]]))
    path = write(tmp_path / "list.npz", {"filenames": np.array(["a", "b", "c"]), "fileitems": items})
    assert read(path).labels == [("happy", "sad"), ("calm",), ("x", "y")]
    swapped = {"filenames": np.array(["ä", "b"], ">U2"), "fileitems": np.array(["happy", "sad"], ">U5")}
    assert read(write(tmp_path / "swapped.npz", swapped)).names == ["ä", "b"]


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        read(tmp_path / "none.csv")


def test_a_bare_array_is_no_archive(tmp_path):
    with (tmp_path / "bare.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="not an archive of arrays"):
        read(tmp_path / "bare.npz")


def test_submission_is_text_that_loads_without_pickle(tmp_path):
    path = tmp_path / "new" / "team-openset.npz"
    write_submission(path, ["b", "a"], [("happy", "sad"), ()])
    with np.load(path, allow_pickle=False) as archive:
        assert sorted(archive) == ["fileitems", "filenames"]
        assert archive["filenames"].tolist() == ["b", "a"]
        assert archive["fileitems"].tolist() == ["happy, sad", ""]
    assert read(path)[:3] == (["b", "a"], [("happy", "sad"), ()], [(), ()])


def test_submissions_that_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match=r"named \*-openset.npz"):
        write_submission(tmp_path / "team.npz", ["a"], [("happy",)])
    with pytest.raises(DataError, match="the answer to 'b' has 100,000 characters"):
        write_submission(tmp_path / "t-openset.npz", ["a", "b"] * 1000, [(), ("x" * 100_000,)] * 1000)
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        write_submission(tmp_path / "file" / "t-openset.npz", ["a"], [()])


def named(*names):
    return NamedSets(list(names), [(f"of {name}",) for name in names], [()] * len(names))


def test_names_pair_up():
    predictions, targets = align(named("c", "a", "b"), named("a", "b", "c"))
    assert predictions == targets == named("a", "b", "c")
    predictions, targets = align(named("c", "a"), named("a", "b", "c"), subset=True)
    assert targets == named("a", "c")
    assert predictions.notes == ("1 target has no prediction and was not scored, such as b.",)
    predictions, targets = align(named("a", "t", "u"), named("a"))
    assert predictions.names == targets.names == ["a"]
    assert predictions.notes == ("2 predictions have no target and were not scored, such as t.",)


def test_names_that_differ_by_folder_suffix_case_or_accents():
    given = named("clips/B.mp4", "d\\Cafe\u0301.WAV", "a", "other")
    predictions, targets = align(given, named("a", "b", "café"))
    assert predictions.labels == [("of a",), ("of clips/B.mp4",), ("of d\\Cafe\u0301.WAV",)]
    assert targets == named("a", "b", "café")
    assert predictions.names == targets.names
    assert predictions.notes == (
        "2 names were paired that differ by folder, suffix, case or accents, such as clips/B.mp4 and b.",
        "1 prediction has no target and was not scored, such as other.",
    )


def test_a_name_of_its_own_goes_first():
    predictions, _ = align(named("a", "A", "x/a"), named("a", "A"))
    assert predictions.labels == [("of a",), ("of A",)]


def test_names_that_differ():
    with pytest.raises(DataError, match=r"2 clips \(c, d\) with a target and no prediction.*--subset"):
        align(named("a", "b"), named("a", "b", "c", "d"))
    for subset in (False, True):
        with pytest.raises(
            DataError, match=r"no clip has a prediction and a target: 7 clips \(t, u, v, w, x, …\) with"
        ):
            align(named(*"tuvwxyz"), named("a"), subset=subset)
    with pytest.raises(DataError, match=r"2 clips \(x/a, y/a\) with a prediction may be 1 clip \(a\) with a target"):
        align(named("x/a", "y/a"), named("a"))
    with pytest.raises(DataError, match=r"1 clip \(a\) with a prediction may be 2 clips \(A, x/a\) with a target"):
        align(named("a"), named("A", "x/a"))


def searched(num_rows):
    return f"the labels of {num_rows} row{'s' * (num_rows > 1)} were searched for in free text; {AGREEMENT}."


OTHER_FILES = {
    "tabs.tsv": ("name\topenset\na\thappy, sad\nb\tcalm\nc\t\n", ()),
    "tabs.csv": ("name\topenset\na\thappy, sad\nb\tcalm\nc\t\n", ("has tabs between its cells, and was read so.",)),
    "german.csv": ("name;openset\na;happy, sad\nb;calm\nc;\n", ("has semicolons between its cells, and was read so.",)),
    "commas.tsv": ('name,openset\na,"happy, sad"\nb,calm\nc,\n', ("has commas between its cells, and was read so.",)),
    "wide.csv": (
        'name,openset\na,"happy, sad"\nb,calm\nc,\n'.encode("utf-16"),
        ("is in UTF-16, and was read as such.",),
    ),
    "case.csv": (
        'Clip ID,Label\na,"happy, sad"\nb,calm\nc,\n',
        ("column 'Clip ID' was read as 'name'.", "column 'Label' was read as 'openset'."),
    ),
    "list.json": (
        '[{"name":"a","openset":["happy","sad"]},{"name":"b","openset":"calm"},{"name":"c","openset":[]}]',
        (),
    ),
    "names.json": ('{"a": "happy, sad", "b": ["calm"], "c": ""}', ()),
    "objects.json": (
        '{"a": {"openset": "happy, sad"}, "b": {"openset": "calm"}, "c": {"reason": "He walks."}}',
        (searched(1),),
    ),
    "reasons.json": ('{"name2reason": {"a": "Happy and sad.", "b": "calm", "c": ""}}', (searched(3),)),
}


def test_answers_in_another_form_are_read_and_said(tmp_path):
    content = (
        'name,openset\na,"**happy**, sad."\nb,<answer>calm</answer>\nc,He seems to be proud of it\nd,"angry, sad"\n'
    )
    sets = read(write(tmp_path / "marks.csv", content))
    assert sets.labels == [("happy", "sad"), ("calm",), ("proud",), ("angry", "sad")]
    assert sets.notes == (
        "marks.csv: 3 rows have tags, sentences, JSON or marks under 'openset', of which the labels were taken, such "
        "as a; the published scorer splits them at commas as they are.",
    )


@pytest.mark.parametrize("file", OTHER_FILES)
def test_what_people_have(tmp_path, file):
    content, notes = OTHER_FILES[file]
    sets = read(write(tmp_path / file, content))
    assert sets.names == ["a", "b", "c"]
    assert sets.labels == [("happy", "sad"), ("calm",), ()]
    assert sets.notes == tuple(f"{file}: {note}" for note in notes)


@pytest.mark.parametrize("suffix", ["xlsx", "csv"])
def test_workbooks(tmp_path, suffix):
    book = openpyxl.Workbook()
    for row in (["filename", "openset"], ["a", "happy, sad"], ["b", "calm"], [None, None], ["c", None], [7, "happy"]):
        book.active.append(row)
    book.create_sheet("notes")
    book.save(tmp_path / "a.xlsx")
    path = (tmp_path / "a.xlsx").rename(tmp_path / f"b.{suffix}")
    sets = read(path)
    assert dict(zip(sets.names, sets.labels, strict=True)) == {
        "a": ("happy", "sad"), "b": ("calm",), "c": (), "7": ("happy",)
    }  # fmt: skip
    said = ["is an Excel workbook, in spite of its name; its first sheet was read"] * (suffix == "csv")
    said += ["has 2 sheets; 'Sheet', the first, was read", "column 'filename' was read as 'name'"]
    assert sets.notes == tuple(f"b.{suffix}: {note}." for note in said)


def test_affectgpts_reasons(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", name2reason={"a": "Happy and sad.", "b": "She is calm.", "c": "not sad"})
    sets = read(tmp_path / "a.npz")
    assert sets.names == ["a", "b", "c"]
    assert sets.labels == [("happy", "sad"), ("calm",), ()]
    np.savez_compressed(tmp_path / "b.npz", name2reason={"a": Trap(tmp_path / "trace")})
    with pytest.raises(DataError, match=r"name2reason is a pickle that asks for.*refused"):
        read(tmp_path / "b.npz")
    assert not (tmp_path / "trace").exists()


def test_columns_that_the_caller_names(tmp_path):
    path = write(tmp_path / "a.csv", "id,label,prediction,text\na,sad,happy,He is calm.\n")
    extract = partial(extract_labels, lexicon=LEXICON)
    assert read_named_sets(path, extract, {"openset": "prediction"}).labels == [("happy",)]
    assert read_named_sets(path, extract, {"reason": "text", "name": "id"}).labels == [("calm",)]
    with pytest.raises(DataError, match=r"a\.csv, row 1: no column 'words', which was to be read as 'openset'; it has"):
        read_named_sets(path, extract, {"openset": "words"})


def test_a_target_next_to_free_text_is_not_taken_for_the_prediction(tmp_path):
    path = write(tmp_path / "a.csv", "name,reason,label\na,She is calm.,sad\n")
    assert read(path).labels == [("calm",)]
