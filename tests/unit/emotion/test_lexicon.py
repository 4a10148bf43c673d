"""A small lexicon folder in the published layout, complete and damaged; the cache; where a lexicon is looked up."""

import csv
import dataclasses
import logging
import pickle
import subprocess
import sys
import zipfile

import openpyxl
import pytest

from affectgpt_r1.emotion import published_lexicon as published
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import LexiconError
from affectgpt_r1.metrics.functional.cluster_table import cluster_table

WHEEL = [
    (" Joy ", "Glad", "Cheery"),
    (None, "Calm", "Mellow"),
    ("Anger", "Mad", "Furious"),
    (None, None, "Shared"),
    ("Sad", "Low", "Shared"),
]
SYNONYMS = [
    ("Cheery", "bright, 'glad' ", "glad", "bright"),
    ("furious", "bright", "mad", "livid"),
    ("anger", "", "joy", ""),
]
FORMS = [
    ("bright", "bright,brightly"),
    ("glad", "glad,gladly,brightly"),
    ("livid", "livid"),
    ("anger", "angers"),
    ("shared", "shared"),
    ("stray", "stray"),
    ("joy", "joy"),
]


def write_book(path, rows, sheet="Sheet1"):
    book = openpyxl.Workbook()
    book.active.title = sheet
    for row in rows:
        book.active.append(row)
    book.save(path)


def write_wheels(folder, wheel=WHEEL):
    for number in range(1, 6):
        write_book(folder / f"wheel{number}.xlsx", [("level1", "level2", "level3"), *wheel])


def write_synonyms(folder, num_runs=8):
    header = [column for run in range(1, num_runs + 1) for column in (f"word_run{run}", f"synonym_run{run}")]
    write_book(folder / "synonym.xlsx", [header, *(row + (None,) * (2 * num_runs - 4) for row in SYNONYMS)])


def write_forms(folder):
    with (folder / "format.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "format"), *FORMS])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = tmp_path / "wheels"
    made.mkdir()
    write_wheels(made)
    write_synonyms(made)
    write_forms(made)
    return made


def test_the_rules(folder):
    lexicon = load_lexicon(folder)
    assert lexicon.name == "wheels"
    assert lexicon.clusters(1, 1) == ("anger", "joy", "sad")
    assert lexicon.clusters(5, 2) == ("calm", "glad", "low", "mad")
    # brightly: bases bright and glad; wheel words cheery, furious, glad; the alphabetically first decides
    assert lexicon.base_form("Brightly ") == "bright"
    assert lexicon.synonym("brightly") == "cheery"
    assert (lexicon.cluster("brightly", 1), lexicon.cluster("brightly", 1, 2)) == ("joy", "glad")
    assert (lexicon.cluster("livid", 3), lexicon.cluster("livid", 3, 2)) == ("anger", "mad")
    assert (lexicon.cluster("joy", 2), lexicon.cluster("joy", 2, 2)) == ("joy", "calm")
    assert lexicon.cluster("angers", 2, 2) == "mad"
    assert lexicon.masks("livid") == (0b001,) * 5
    assert lexicon.masks("joy") == (0b010,) * 5


def test_words_that_map_nowhere(folder):
    lexicon = load_lexicon(folder)
    assert "livid" in lexicon
    assert "  LIVID" in lexicon
    assert "stray" not in lexicon
    assert "elsewhere" not in lexicon
    assert 3 not in lexicon
    assert (lexicon.base_form("stray"), lexicon.synonym("stray")) == ("stray", None)
    assert (lexicon.base_form("elsewhere"), lexicon.synonym("elsewhere")) == (None, None)
    assert lexicon.masks("stray", 2) == (0,) * 5
    assert lexicon.cluster("stray", 1) is None


def test_a_word_in_two_clusters_belongs_to_the_last(folder):
    write_book(
        folder / "synonym.xlsx",
        [[f"{kind}_run{run}" for run in range(1, 9) for kind in ("word", "synonym")], ["shared", "stray"]],
    )
    lexicon = load_lexicon(folder)
    assert (lexicon.cluster("stray", 4), lexicon.cluster("stray", 4, 2)) == ("sad", "low")


def test_no_such_wheel_or_level(folder):
    lexicon = load_lexicon(folder)
    for wheel, level in ((0, 1), (6, 1), (1, 0), (1, 3)):
        with pytest.raises(ValueError, match="no wheel"):
            lexicon.cluster("joy", wheel, level)
    with pytest.raises(ValueError, match="level"):
        lexicon.masks("joy", 3)


def test_pickle_and_hash(folder):
    lexicon = load_lexicon(folder)
    assert pickle.loads(pickle.dumps(lexicon)) == lexicon
    assert hash(pickle.loads(pickle.dumps(lexicon))) == hash(lexicon)
    with pytest.raises(AttributeError):
        lexicon.name = "other"


def test_equal_lexicons_share_tables_without_a_look_at_every_word(folder):
    class Words(dict):
        def __eq__(self, other):
            raise AssertionError("compared word by word")

        __hash__ = None

    first, second = (
        dataclasses.replace(lexicon, entries=Words(lexicon.entries)) for lexicon in map(load_lexicon, [folder] * 2)
    )
    other = dataclasses.replace(first, entries=Words(list(first.entries.items())[1:]))
    assert (first == second, first == other, first == first.name) == (True, False, False)
    assert cluster_table(first, 1) is cluster_table(second, 1)
    assert cluster_table(first, 1) is not cluster_table(other, 1)


def _truncate(folder):
    path = folder / "wheel2.xlsx"
    path.write_bytes(path.read_bytes()[:900])


def _other_sheet(folder):
    write_book(folder / "wheel3.xlsx", [("level1", "level2", "level3"), *WHEEL], sheet="Tabelle1")


def _hole(folder):
    write_book(
        folder / "wheel4.xlsx", [("level1", "level2", "level3"), ("Joy", "Glad", "Cheery"), (None, "Calm", None)]
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "wheel5.xlsx").unlink(), r"wheel5\.xlsx is missing: copy"),
        (lambda folder: (folder / "synonym.xlsx").unlink(), r"synonym\.xlsx is missing"),
        (lambda folder: (folder / "format.csv").unlink(), r"format\.csv is missing"),
        (_other_sheet, r"wheel3\.xlsx has no sheet 'Sheet1' \(it has Tabelle1\)"),
        (_truncate, r"wheel2\.xlsx cannot be read as a workbook .*copy"),
        (lambda folder: (folder / "wheel1.xlsx").write_bytes(b""), r"wheel1\.xlsx cannot be read"),
        (lambda folder: (folder / "wheel1.xlsx").write_text("level1,level2"), r"wheel1\.xlsx cannot be read"),
        (_hole, r"wheel4\.xlsx, sheet Sheet1, row 3: column 'level3' is empty"),
        (lambda folder: write_wheels(folder, []), r"wheel1\.xlsx, sheet Sheet1: no rows"),
        (lambda folder: write_wheels(folder, [(None, "Calm", "Mellow")]), r"row 2: column 'level1' is empty"),
        (lambda folder: write_book(folder / "wheel1.xlsx", [("level1", "level3")]), r"row 1: no column level2;"),
        (lambda folder: write_book(folder / "wheel1.xlsx", []), r"row 1: no column level1, level2, level3"),
        (lambda folder: write_synonyms(folder, num_runs=7), r"synonym\.xlsx.*no column word_run8, synonym_run8"),
        (
            lambda folder: (folder / "format.csv").write_text("name,forms\na,b\n"),
            r"format\.csv, row 1: no column format",
        ),
        (lambda folder: (folder / "format.csv").write_text("name,format\na,b\n,c\n"), r"format\.csv, row 3: a name"),
        (lambda folder: (folder / "format.csv").write_text("name,format\na\n"), r"format\.csv, row 2: a name"),
        (
            lambda folder: (folder / "format.csv").write_text('name,format\na,"b\n'),
            r"format\.csv cannot be read as CSV",
        ),
        (
            lambda folder: (folder / "format.csv").write_bytes(b"name,format\na,\xff\n"),
            r"format\.csv cannot be read as CSV",
        ),
        (lambda folder: (folder / "format.csv").write_text("name,format\n"), r"format\.csv: no rows"),
        (lambda folder: (folder / "format.csv").write_text(""), r"format\.csv, row 1: no column name, format"),
    ],
)
def test_damage_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(LexiconError, match=message):
        load_lexicon(folder)


def _without_compiling(monkeypatch):
    def refuse(*_):
        raise AssertionError("the cache should have answered")

    monkeypatch.setattr(published, "_read_folder", refuse)


def test_the_cache_answers_the_second_time(folder, monkeypatch):
    lexicon = load_lexicon(folder)
    _without_compiling(monkeypatch)
    assert load_lexicon(folder) == lexicon


def _rewrite(path, part, content):
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, kept in {**parts, part: content}.items():
            archive.writestr(name, kept)


_SHEET_XML = "xl/worksheets/sheet1.xml"
_SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
)
_STYLES = (
    '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
    '<fonts count="x"><font><sz val="abc"/></font></fonts></styleSheet>'
)
_ENTITY = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "lol">]>'


@pytest.mark.parametrize(
    ("part", "content", "fault"),
    [
        (_SHEET_XML, _SHEET.format(" " * (1 << 22)), "more than 2,097,152 bytes"),
        (_SHEET_XML, _SHEET.format("<row/>" * 100_000 + "</row>" * 100_001), "more than 200,000 tags"),
        (_SHEET_XML, _ENTITY + _SHEET.format("<row><c><v>&a;</v></c></row>"), "as a spreadsheet program writes it"),
        (_SHEET_XML, _SHEET.format("").encode("utf-16"), "as a spreadsheet program writes it"),
        (_SHEET_XML, '<?xml version="1.0" encoding="cp037"?>', "as a spreadsheet program writes it"),
        (
            _SHEET_XML,
            _SHEET.format('<row r="1048576"><c r="XFD1048576" t="b"><v>1</v></c></row>'),
            "more than 20,000 rows",
        ),
        (_SHEET_XML, _SHEET.format('<row><c t="s"><v>9999</v></c></row>'), "IndexError"),
        (_SHEET_XML, _SHEET.format('<row r="x"><c r="??"/></row>'), "ValueError"),
        ("xl/styles.xml", _STYLES, "TypeError"),
        ("xl/workbook.xml", "<workbook", "ParseError"),
        ("[Content_Types].xml", "\0\0", "ParseError"),
    ],
    ids=range(11),
)
def test_a_hostile_workbook_is_one_error_at_once(folder, part, content, fault):
    _rewrite(folder / "wheel1.xlsx", part, content)
    with pytest.raises(LexiconError, match=rf"wheel1\.xlsx cannot be read as a workbook .*{fault}"):
        load_lexicon(folder)


def test_forms_are_bounded(folder, monkeypatch):
    with (folder / "format.csv").open("a") as file:
        file.write(f"livid,{'x' * 101}\n")
    with pytest.raises(LexiconError, match=r"format\.csv, row 9: a form of 101 characters"):
        load_lexicon(folder)
    write_forms(folder)
    monkeypatch.setattr(published, "_MOST_REACHABLE", 5)
    with pytest.raises(LexiconError, match="have more than 5 wheel words"):
        load_lexicon(folder)


def test_changed_content_is_compiled_anew(folder):
    assert "novel" not in load_lexicon(folder)
    with (folder / "format.csv").open("a") as file:
        file.write("livid,novel\n")
    assert "novel" in load_lexicon(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": 1, "cluster_names": [], "entries": []}'])
def test_a_damaged_cache_is_passed_over(folder, tmp_path, content):
    lexicon = load_lexicon(folder)
    (cached,) = (tmp_path / "cache" / "affectgpt_r1").iterdir()
    cached.write_text(content)
    assert load_lexicon(folder) == lexicon
    assert len(cached.read_text()) > 100


def test_a_cache_that_cannot_be_written_is_no_matter(folder, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.DEBUG):
        assert "livid" in load_lexicon(folder)
    assert "is not cached" in caplog.text
    assert all(record.levelno == logging.DEBUG for record in caplog.records)


def test_published_names_are_looked_up_below_the_root(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("AFFECTGPT_WHEELS", str(tmp_path))
    folder.rename(tmp_path / "mer2026")
    assert load_lexicon("mer2026").name == "mer2026"
    with pytest.raises(LexiconError, match=r"mer2025.*AFFECTGPT_WHEELS.*data/emotion_wheel"):
        load_lexicon("mer2025")


def test_without_the_variable_the_data_folder_of_the_working_directory_is_searched(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("AFFECTGPT_WHEELS", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LexiconError, match=r"AFFECTGPT_WHEELS \(it is not set\).*data/emotion_wheel.*'bundled'"):
        load_lexicon("mer2025")
    (tmp_path / "data" / "emotion_wheel").mkdir(parents=True)
    folder.rename(tmp_path / "data" / "emotion_wheel" / "mer2025")
    assert "livid" in load_lexicon("mer2025")


@pytest.mark.parametrize("spec", ["bundeld", "", "/nonexistent/wheels"])
def test_an_unknown_lexicon(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LexiconError, match="'bundled', 'mer2025' or 'mer2026'"):
        load_lexicon(spec)


def test_lexicons_do_without_torch():
    code = (
        "import sys; import affectgpt_r1.emotion.lexicon as l; l.load_lexicon('bundled'); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
