from pathlib import Path

import pytest

from affectgpt_r1.data.layouts.manifest import (
    ManifestRow,
    check_disjoint,
    hash_order,
    read_cues,
    read_manifest,
)
from affectgpt_r1.errors import DataError


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_reads_labels_reasons_and_subtitles(tmp_path):
    write(tmp_path / "labels.csv", 'name,openset\na,"[concern, pessimism]"\nb,"shocked,care,serious"\nc,\n')
    write(tmp_path / "reasons.csv", "name,reason\nc,Third.\nb,\na,First; ok\nunused,x\n")
    write(tmp_path / "subtitle_chieng.csv", 'name,chinese,english\na,你好,"Hello, you"\nb,,\nc,,NaN\n')
    assert read_manifest(tmp_path, "labels.csv", reasons="reasons.csv", empty_as_neutral=True) == [
        ManifestRow("a", ("concern", "pessimism"), "First; ok", "Hello, you", 2),
        ManifestRow("b", ("shocked", "care", "serious"), "", "", 3),
        ManifestRow("c", ("neutral",), "Third.", "", 4),
    ]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("[happy]", ("happy",)),
        ("\"['happy', 'sad']\"", ("happy", "sad")),
        ("happy;sad", ("happy;sad",)),
        ('"don\'t know,sad"', ("don", "t know", "sad")),
        ('" happy ,,sad,"', ("happy", "sad")),
        ("[]", ()),
    ],
)
def test_published_label_cells(tmp_path, cell, words):
    write(tmp_path / "labels.csv", f"name,openset\na,{cell}\n")
    assert read_manifest(tmp_path, "labels.csv", subtitles=None)[0].labels == words


def test_names_stay_strings_and_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    write(tmp_path / "labels.csv", "\ufeffname,openset\n00012,happy\n")
    assert read_manifest(tmp_path, "labels.csv", subtitles=None)[0].name == "00012"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,emotion\na,happy\n", r"labels\.csv: lacks the column openset; it has name, emotion"),
        ("clip,openset\na,happy\n", r"lacks the column name; it has clip, openset"),
        ("name,openset\na,happy\nb,sad\na,sad\n", r"'a' is in rows 2 and 4"),
        ("name,openset\na,happy\n../../etc/passwd,sad\n", r"row 3: the name '../../etc/passwd' has a folder in it"),
        ("name,openset\n/etc/passwd,sad\n", r"row 2: .* has a folder"),
        ("name,openset\na\\b,sad\n", r"row 2: .* has a folder"),
        ("name,openset\n..,sad\n", r"row 2: .* has a folder"),
        ("name,openset\nsub/clip,sad\n", r"row 2: the name 'sub/clip' has a folder in it; names are file names"),
        ("name,openset\n,sad\n", r"row 2: the name is empty"),
        ("name,openset\nNA,sad\n", r"row 2: the name is empty; pandas takes NA"),
        ("name,openset\na,happy\n\n\nb,sad\na,angry\n", r"'a' is in rows 2 and 6"),
        ("name,openset\n" + "é" * 126 + ",sad\n", r"row 2: .* has 252 bytes; file systems allow 251"),
        ("name;openset\na;happy, sad\n", "semicolons are between its cells.* with commas"),
        ("name\topenset\na\thappy\n", "tabs are between its cells"),
        ("", "the file is empty"),
        ("name,openset\na,sad\nb\n", r"labels\.csv: row 3 \(b\) has no cell for the column openset; .* comma"),
        ("name,openset\n\na,sad,happy\nb,calm,sad\n", r"row 3 \(a\) has 3 cells, the header 2; .* double quotes"),
        ("name,openset\n", "no rows"),
        ('name,openset\na,"happy\n', "cannot be read as CSV"),
    ],
)
def test_unusable_label_files_are_refused(tmp_path, text, message):
    write(tmp_path / "labels.csv", text)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path, "labels.csv", subtitles=None)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"PK\x03\x04workbook", "an Excel workbook"),
        (b"\xd0\xcf\x11\xe0old", "an old Excel"),
        ("name".encode("utf-16"), "UTF-16"),
    ],
)
def test_files_of_spreadsheet_programs_are_named(tmp_path, start, message):
    (tmp_path / "labels.csv").write_bytes(start)
    with pytest.raises(DataError, match=rf"labels\.csv: it is .*{message.split()[-1]}.*save it as 'CSV UTF-8'"):
        read_manifest(tmp_path, "labels.csv", subtitles=None)


def test_rows_are_numbered_as_in_a_spreadsheet(tmp_path):
    write(tmp_path / "labels.csv", 'name,openset\n\na,happy\n\n"b","sad,\nlonely"\nc,calm\n')
    assert [row.row for row in read_manifest(tmp_path, "labels.csv", subtitles=None)] == [3, 5, 6]


def test_a_name_with_nul_is_refused(tmp_path):
    write(tmp_path / "labels.csv", "name,openset\nb,sad\na\0c,sad\n")
    with pytest.raises(DataError):
        read_manifest(tmp_path, "labels.csv", subtitles=None)


def test_other_encodings_and_missing_files_are_refused(tmp_path):
    write(tmp_path / "labels.csv", "name,openset\na,悲\n", encoding="gbk")
    with pytest.raises(DataError, match="not UTF-8"):
        read_manifest(tmp_path, "labels.csv", subtitles=None)
    with pytest.raises(DataError, match=r"other\.csv: no such file; set the data folder"):
        read_manifest(tmp_path, "other.csv")


@pytest.mark.parametrize("option", ["reasons", "subtitles"])
def test_companion_files_must_cover_the_labels(tmp_path, option):
    write(tmp_path / "labels.csv", "name,openset\na,happy\nb,sad\n")
    write(tmp_path / "more.csv", "name,reason,english\na,x,y\n")
    options = {"subtitles": None} | {option: "more.csv"}
    with pytest.raises(DataError, match=r"more\.csv: has no row for 1 of 2 labelled clips: b"):
        read_manifest(tmp_path, "labels.csv", **options)


def test_overlapping_splits_are_refused():
    train = [ManifestRow("a", (), row=2), ManifestRow("b", (), row=3)]
    check_disjoint(train, [ManifestRow("c", (), row=2)])
    with pytest.raises(DataError, match=r"1 clips are in two splits: b \(rows 3 and 9\)"):
        check_disjoint(train, [ManifestRow("b", (), row=9)])


def test_hash_order_depends_on_names_and_salt_alone():
    rows = [ManifestRow(f"clip{number}", ()) for number in range(50)]
    one = hash_order(rows, "subset")
    assert one == hash_order(reversed(rows), "subset")
    assert one != hash_order(rows, "validation")
    assert [row.name for row in one[:3]] == ["clip32", "clip2", "clip37"]


def test_cues_are_numbers_by_name(tmp_path):
    path = write(tmp_path / "cues.jsonl", '{"name": "a", "cues": {"pitch": 1, "smile": -0.5}, "other": "x"}\n')
    assert read_cues(path) == {"a": {"pitch": 1.0, "smile": -0.5}}
    write(path, '{"name": "a", "cues": {}}\n{"name": "b"}\n')
    with pytest.raises(DataError, match="line 2"):
        read_cues(path)
    for value in ("NaN", "1e999", "1" + "0" * 400, '"1"', "[]"):
        write(path, f'{{"name": "a", "cues": {{"smile": {value}}}}}\n')
        with pytest.raises(DataError, match=r"line 1 is not .*a cue is a number"):
            read_cues(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name,openset\n"a\nb",sad\n', "row 2: the name .* has a control character in it"),
        (",".join(f"c{number}" for number in range(1001)) + "\n", "its header has more than 1,000 cells"),
    ],
)
def test_hostile_label_files_are_refused(tmp_path, text, message):
    write(tmp_path / "labels.csv", text)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path, "labels.csv", subtitles=None)


def test_a_long_subtitle_is_cut_and_counted_with_file_and_row(tmp_path, caplog):
    write(tmp_path / "labels.csv", "name,openset\na,happy\nb,sad\nc,sad\n")
    said = "I was there. " * 5000
    write(tmp_path / "subtitle_chieng.csv", f"name,english\nunused,{said}\nc,{said}\na,Hello.\nb,{said}\n")
    rows = read_manifest(tmp_path, "labels.csv")
    assert [len(row.subtitle) for row in rows] == [6, 2000, 2000]
    assert said.startswith(rows[1].subtitle)
    (record,) = caplog.records
    assert "subtitle_chieng.csv: 2 of 3 subtitles are longer than 2,000 characters" in record.message
    assert "the first is row 5 (b) with 65,000" in record.message


def test_names_and_subtitles_agree_across_normal_forms(tmp_path):
    write(tmp_path / "labels.csv", "name,openset\nm\u00fcde,sad\n")
    write(tmp_path / "subtitle_chieng.csv", "name,english\nmu\u0308de,fu\u0308r\n")
    (row,) = read_manifest(tmp_path, "labels.csv")
    assert (row.name, row.subtitle) == ("m\u00fcde", "f\u00fcr")
    write(tmp_path / "labels.csv", "name,openset\nm\u00fcde,sad\nmu\u0308de,sad\n")
    with pytest.raises(DataError, match="is in rows 2 and 3"):
        read_manifest(tmp_path, "labels.csv")
