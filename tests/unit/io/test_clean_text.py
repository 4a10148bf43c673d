"""What files bring reaches terminals, logs and spreadsheets as text only."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from contextlib import nullcontext
from logging.config import DictConfigurator
from pathlib import Path

import pytest
import yaml
from rich.progress import Progress
from rich.table import Table

from affectgpt_r1.callbacks import progress
from affectgpt_r1.cli.score import main as score
from affectgpt_r1.config.keys import CONFIGS
from affectgpt_r1.config.run_folder import log_file
from affectgpt_r1.io import clean_text
from affectgpt_r1.io.clean_text import PrintableFormatter, guard_standard_error, json_line, message, printable
from affectgpt_r1.io.console import PlainConsole
from affectgpt_r1.io.csv_format import spreadsheet_cell

SOURCE = Path(clean_text.__file__).parent
TITLE = "\x1b]0;pwned\x07"
HOSTILE = f"x{TITLE}\x1b[31m\r\x9b2J\x7f\u202egnp.exe\u2066\u2028[red]b[/red] [link=http://h]c[/link] :smile:"
SHOWN = r"x\x1b]0;pwned\x07\x1b[31m\r\x9b2J\x7f\u202egnp.exe\u2066\u2028[red]b[/red] [link=http://h]c[/link] :smile:"


def test_control_characters_are_shown_and_other_text_is_left():
    assert (
        printable(f"{HOSTILE}\ud800") == SHOWN + r"\ud800"
    )  # half a character: in any other text of a test xdist would fail
    for kept in ("", "a\tb\nc", "快乐, Ärger, café, 🙂, עצב, a\u200db", r"back\slash", "=1+1"):
        assert printable(kept) == kept


def test_json_means_the_same_and_is_printable():
    row = {"name": f"{HOSTILE}\ud800", "快乐": [0.1, "a\nb\t"]}
    line = json_line(row)
    assert json.loads(line) == row
    assert printable(line) == line
    assert line.count("\n") == 1
    assert "快乐" in line


def printed(*renderables: object) -> str:
    console = PlainConsole(file=io.StringIO(), force_terminal=True, color_system=None, width=200)
    for renderable in renderables:
        console.print(renderable)
    return console.file.getvalue()


def test_tables_print_cells_titles_and_lines_as_they_are():
    table = Table(title=f"t {HOSTILE}", caption=f"c {HOSTILE}")
    table.add_column(f"h {HOSTILE}", no_wrap=True)
    table.add_row(f"r {HOSTILE}")
    text = printed(f"l {HOSTILE}", table)
    for place in "ltchr":
        assert f"{place} {SHOWN}" in text
    assert printable(text) == text
    assert len({len(line) for line in text.splitlines() if "┃" in line or "│" in line}) == 1


def test_bars_show_a_stage_as_it_is(monkeypatch):
    console = PlainConsole(file=io.StringIO(), force_terminal=True, color_system=None, width=200)
    monkeypatch.setattr(progress, "get_console", lambda: console)
    bar = progress.LiveProgress(HOSTILE)
    live: Progress = bar._live()
    live.add_task(bar._stage, total=1, metrics="")
    live.refresh()
    bar._stop()
    assert SHOWN in console.file.getvalue()
    assert TITLE not in console.file.getvalue()


def test_no_other_console_is_used():
    users = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if "rich.console import" in path.read_text("utf-8") or "rich import" in path.read_text("utf-8")
    }
    assert users <= {"console.py", "scoring.py"}  # scoring for the type


@pytest.fixture
def record() -> logging.LogRecord:
    forged = f"a\n[2026-01-01][train][INFO] - {HOSTILE}"
    return logging.LogRecord("n", logging.WARNING, "f", 0, "clip %s", (forged,), None)


def test_no_record_can_pass_for_two(record, tmp_path):
    assert PrintableFormatter("%(message)s").format(record) == f"clip a\n  [2026-01-01][train][INFO] - {SHOWN}"

    def fail():
        with log_file(tmp_path):
            logging.getLogger().handle(record)
            raise ValueError(HOSTILE)

    with pytest.raises(ValueError, match="pwned"):
        fail()
    lines = (tmp_path / "train.log").read_text("utf-8").splitlines()
    assert [line[:3] for line in lines] == ["[20", "[20", "  [", "[20"]
    assert lines[-1].endswith(f"Ended by ValueError: {SHOWN}")


def test_warnings_and_tracebacks_are_printable(monkeypatch, capsys):
    for owner, name in ((sys, "excepthook"), (warnings, "showwarning")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back after the test
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler())
    guard_standard_error()
    warnings.showwarning(UserWarning(HOSTILE), UserWarning, f"{HOSTILE}.py", 1)
    sys.excepthook(ValueError, ValueError(HOSTILE), None)
    shown = capsys.readouterr().err
    assert f"ValueError: {SHOWN}" in shown
    assert f"UserWarning: {SHOWN}" in shown
    assert printable(shown) == shown
    assert isinstance(logging.lastResort.formatter, PrintableFormatter)


@pytest.mark.parametrize(
    ("predictions", "targets"),
    [
        ([HOSTILE, "happy"], ["b", "happy"]),  # an unknown clip
        (["[red]b[/red]", "happy"], ["[red]b[/red]", "快乐"]),  # nothing counts
        (["b", HOSTILE], ["b", HOSTILE]),  # words of no wheel, among the most frequent
        (["b", "I am not happy", "reason"], ["b", "happy"]),
    ],
)
def test_score_prints_nothing_of_a_file_raw(predictions, targets, tmp_path, capsys):
    for name, (clip, labels, *column) in (("predictions", predictions), ("targets", targets)):
        row = {"name": clip, (column or ["openset"])[0]: labels}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row), encoding="utf-8")
    files = ["--predictions", f"{tmp_path}/predictions.jsonl", "--targets", f"{tmp_path}/targets.jsonl"]
    with nullcontext() if predictions[0] == targets[0] else pytest.raises(SystemExit, match="2"):
        score([*files, "--json", f"{tmp_path}/scores.json"])
        json.loads((tmp_path / "scores.json").read_text("utf-8"))
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert shown
    assert printable(shown) == shown
    assert "[red]b[/red]" in shown or "pwned" not in shown


def test_the_log_of_a_hydra_command_is_printable(record):
    job_logging = yaml.safe_load((CONFIGS / "hydra" / "default.yaml").read_text("utf-8"))["job_logging"]
    formatter = DictConfigurator({"version": 1}).configure_formatter(job_logging["formatters"]["simple"])
    line = formatter.format(record)
    assert line.startswith("[20")
    assert f"\n  [2026-01-01][train][INFO] - {SHOWN}" in line


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("happy", "happy"),
        ("-3.4", "-3.4"),
        ("+1e-05", "+1e-05"),
        ("a.wav: -1 s, =2, a+b@c", "a.wav: -1 s, =2, a+b@c"),
        ('=cmd|" /C calc"!A0', '\'=cmd|" /C calc"!A0'),
        ("+cmd|x", "'+cmd|x"),
        ("-2+3+cmd|x", "'-2+3+cmd|x"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t'=1"),
        ("\r=1", "'\r'=1"),
        ("  =1", "'  =1"),
        ("x;=1+1", "x;'=1+1"),
        ("x\n=1+1", "x\n'=1+1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("", ""),
    ],
)
def test_no_spreadsheet_finds_a_formula(cell, shown):
    assert spreadsheet_cell(cell) == shown


def test_arguments_from_a_shell_glob_and_long_messages_are_cut_and_clean(capsys):
    for given in ([f"--{TITLE}.mp4"], ["--level", f"9{TITLE}"], ["x" * 100_000]):
        with pytest.raises(SystemExit, match="2"):
            score(["--predictions", "p.csv", "--targets", "t.csv", *given])
        said = capsys.readouterr().err
        assert printable(said) == said
        assert "score: error:" in said
        assert len(said) < 3000  # with the usage
    assert message("a\nerror: b\x85c") == "a error: b c"
    assert message("x" * 100_000) == f"{'x' * 2000}… and 98,000 more characters"
