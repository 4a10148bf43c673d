"""A stranger's database: its texts stay text in every format, its paths are not followed, its numbers are checked."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sqlite3
from contextlib import closing
from html.parser import HTMLParser

import pytest
from rich.markdown import Markdown

from affectgpt_r1.cli.report import main
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import AffectGPTError, ConfigError, DataError
from affectgpt_r1.io.clean_text import printable
from affectgpt_r1.report.build import build_report
from affectgpt_r1.report.page import page
from affectgpt_r1.report.queries import read_sweeps
from affectgpt_r1.report.summary import summarise
from affectgpt_r1.report.text_formats import latex_text, markdown_text
from helpers.latex_reader import printed_by_latex

PAYLOAD = (
    "<script>alert(1)</script>\"' onload=x <img src=x onerror=y>\x1b]0;t\x07[red]![i](http://h) www.h.org `c` "
    "\\input{/etc/passwd}$\\write18{id}$^^5cinput ]]></style></title>--> &lt;b&gt;|\u202e"
)
PLAIN = "plain"
FIELDS = (
    "choice",
    "baseline",
    "alarm",
    "prompt",
    "name",
    "subtitle",
    "target",
    "openset",
    "completion",
    "metric",
    "commit",
    "command",
)


def marked(field):
    return f"{field}:{PAYLOAD}"


def execute(outputs, statement, *values):
    with closing(sqlite3.connect(outputs / "mlflow.db")) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute(statement, values)


def small_sweep(writer, choices=("none", "ratio")):
    """A finished sweep of two trials per choice; returns the ids of its runs, the parent's first."""
    trials = [writer.trial("penalty", choice, seed, steps=3) for choice in choices for seed in (1, 2)]
    return [writer.parent("penalty", trials), *(trial["run_id"] for trial in trials)]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, database_template, make_writer):
    """A database whose every text is a payload, in a folder of such a name."""
    outputs = tmp_path_factory.mktemp("x") / PAYLOAD.replace("/", "")[:80]
    outputs.mkdir()
    shutil.copy(database_template, outputs / "mlflow.db")
    writer = make_writer(outputs, clips=3)
    parent, *runs = small_sweep(writer)
    client = writer.client
    trials = [
        {"choice": marked("choice") if place < 2 else "ratio", "seed": 1 + place % 2, "run_id": run}
        for place, run in enumerate(runs)
    ]
    answer = {
        **{"name": marked("name"), "target": ["happy", marked("target")]},
        **{"openset": ["happy", marked("openset")], "completion": marked("completion"), "f1": 0.5},
    }
    clip = {"name": marked("name"), "subtitle": marked("subtitle"), "target": [marked("target")], "frames": []}
    for run in runs:
        client.log_text(run, json.dumps(answer) + "\n", "test/answers.jsonl")
        client.set_tag(run, "affectgpt.reward_hacking", marked("alarm"))
        client.set_tag(run, "affectgpt.prompt", marked("prompt"))
        client.set_tag(run, "git_commit", marked("commit"))
    client.set_tag(parent, "affectgpt.baseline", marked("baseline"))
    client.set_tag(parent, "command", marked("command")[:190])
    client.log_text(parent, json.dumps(trials), "trials.json")
    client.log_text(parent, json.dumps([clip]), "clips/clips.json")
    for table in ("metrics", "latest_metrics"):
        execute(
            outputs, f"UPDATE {table} SET key = ? WHERE key = 'train/rewards/accuracy/mean'",
            f"train/rewards/{marked('metric')[:150]}/mean",
        )  # fmt: skip
    return outputs


@pytest.fixture(scope="module")
def files(hostile, tmp_path_factory):
    return {path.name: path.read_text("utf-8") for path in build_report(hostile, tmp_path_factory.mktemp("report"))}


class Structure(HTMLParser):
    """Elements with the names of their attributes, in order; and the text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, *sorted(name for name, _ in attrs)))
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        raise AssertionError(data)

    def unknown_decl(self, data):
        raise AssertionError(data)


def plainly(value):
    """The same with ``PLAIN`` for every payload."""
    if isinstance(value, str):
        return re.sub(r"(?<=:)<script>.*?(?=/mean$|$)", PLAIN, value, flags=re.DOTALL)
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(
            value, **{f.name: plainly(getattr(value, f.name)) for f in dataclasses.fields(value)}
        )
    if isinstance(value, dict):
        return {plainly(key): plainly(inner) for key, inner in value.items()}
    return type(value)(map(plainly, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("field", FIELDS)
def test_every_text_of_a_database_is_shown_as_text(files, field):
    shown = Structure(files["report.html"]).text
    if field == "commit":  # printed on the terminal, and in tables.json
        assert marked(field) in json.loads(files["tables.json"])["sweeps"]["penalty"]["runs"][0]["git_commit"]
    else:
        assert f"{field}:<script>alert(1)</script>\"' onload=x <img src=x onerror=y>" in shown


def test_no_element_and_no_attribute_comes_from_a_database(hostile, files):
    sweeps = read_sweeps(hostile)
    lexicon = load_lexicon("bundled")
    ours = [plainly(sweep) for sweep in sweeps]
    harmless = Structure(page(summarise(ours, lexicon), ours, lexicon))
    shown = Structure(files["report.html"])
    assert shown.elements == harmless.elements
    named = dataclasses.replace(lexicon, name=marked("lexicon"))
    assert Structure(page(summarise(sweeps, lexicon), sweeps, named)).elements == harmless.elements
    assert "lexicon:<script>" in Structure(page(summarise(sweeps, lexicon), sweeps, named)).text
    tags, names = {element[0] for element in shown.elements}, {name for _, name, _ in shown.attributes}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "foreignobject", "use"}
    assert not [name for name in names if name.startswith("on") or name in ("srcset", "xlink:href", "action")]
    for _, name, value in shown.attributes:
        assert name not in ("src", "href") or value.startswith(("#", "data:image/png;base64,"))
        assert name != "style" or re.fullmatch(r"(--(spread|worst|name):\d+;)+|--panels:\d+", value)
        assert name != "type" or value == "radio"
    (policy,) = [
        value for tag, name, value in shown.attributes if (tag, name) == ("meta", "content") and "src" in value
    ]
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    assert ("http-equiv", "Content-Security-Policy") in {attribute[1:] for attribute in shown.attributes}


def test_markdown_shows_the_payload_and_renders_none_of_it(files):
    tokens = [token for outer in Markdown(files["tables.md"]).parsed for token in (outer, *(outer.children or ()))]
    assert {token.tag for token in tokens} <= {
        "",
        *["h1", "h2", "p", "ul", "li", "br", "table", "thead", "tbody", "tr", "th", "td"],
    }
    assert {name for token in tokens for name in token.attrs} <= {"style"}
    assert {token.type for token in tokens if not token.tag} <= {"inline", "text", "text_special"}
    shown = "".join(token.content for token in tokens if token.type.startswith("text"))
    assert "choice:<script>alert(1)</script>" in shown
    assert r"\input{/etc/passwd}$\write18{id}$" in shown
    assert "&lt;b&gt;|" in shown
    assert printable(files["tables.md"]) == files["tables.md"]
    assert "http://" not in files["tables.md"]
    assert "www." not in files["tables.md"]


def test_latex_has_no_command_but_ours(files):
    ours = {"begin", "end", "caption", "label", "small", "toprule", "midrule", "bottomrule", "usepackage", "pm", "le"}
    ours |= {
        f"text{name}" for name in ("backslash", "asciitilde", "asciicircum", "asciigrave", "less", "greater", "bar")
    }
    body = "\n".join(line for line in files["tables.tex"].splitlines() if not line.startswith("%"))
    assert set(re.findall(r"\\([A-Za-z@]+)", body)) <= ours
    assert not re.search(r"\^|(?<!\\)[#~]", body)
    assert r"choice:\textless{}script\textgreater{}" in body
    assert printable(files["tables.tex"]) == files["tables.tex"]
    assert latex_text("a\rb\x1b%") == r"a b\textbackslash{}x1b\%"
    for text in (
        marked("choice"),
        "".join(map(chr, range(33, 127))),
        "60.0 ± 1.0",
        "−1 – ≤",
        "“target’s”",
        "a---b,,c''d``e?`",
    ):
        assert printed_by_latex(latex_text(text)) == printable(text).replace("'", "’")
    assert markdown_text("a\n# b\x9b") == r"a # b\\x9b"


def test_json_is_exact_and_the_terminal_is_clean(hostile, files, tmp_path, capsys):
    assert marked("choice") in json.loads(files["tables.json"])["sweeps"]["penalty"]["choices"]
    main(["--outputs", str(hostile), "--folder", str(tmp_path)])
    captured = capsys.readouterr()
    assert "pwned" not in captured.err
    assert printable(captured.err) == captured.err
    assert f"penalty: {printable(marked('choice'))}, seed 1" in captured.err


def test_artifacts_elsewhere_are_not_read(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *given: pytest.fail("asks the network"))
    outputs, _, (parent, *runs) = finished
    for run, uri in ((parent, "s3://bucket/x"), (runs[1], "http://127.0.0.1:9/x"), (runs[0], "file:///etc")):
        shutil.copytree(outputs, tmp_path / run)
        execute(tmp_path / run, "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", uri, run)
        with pytest.raises(ConfigError, match=rf"MLflow run {run} has its artifacts at {uri}, which is not below"):
            read_sweeps(tmp_path / run)
    assert read_sweeps(outputs)[2].choices == ("none",)


@pytest.mark.parametrize(
    ("artifact", "content", "complaint"),
    [
        ("trials.json", "{}", "row 1: has no 'choice'"),
        ("trials.json", "7", "row 1: has no 'choice'"),
        ("trials.json", '[{"choice": 1, "seed": 1, "run_id": "a"}]', "row 1: has no 'choice'"),
        ("trials.json", '[{"choice": "none", "seed": "1", "run_id": "a"}]', "row 1: has no 'seed'"),
        ("trials.json", '[{"choice": "none", "seed": 1, "run_id": null}]', "row 1: has no 'run_id'"),
        ("trials.json", "[" * 100_000, "this is not JSON"),
        ("trials.json", "9" * 10_000, "this is not JSON"),
        ("trials.json", "\x00", "this is not JSON"),
        ("clips/clips.json", '[{"name": "a", "subtitle": 3, "target": [], "frames": []}]', "no 'subtitle'"),
        ("clips/clips.json", '[{"name": "a", "subtitle": null, "target": "b", "frames": []}]', "no 'target'"),
        ("clips/clips.json", '[{"name": "a", "subtitle": null, "target": [], "frames": {}}]', "no 'frames'"),
    ],
)
def test_a_file_of_another_shape_is_one_line(finished, artifact, content, complaint):
    outputs, writer, (parent, *_) = finished
    writer.client.log_text(parent, content, artifact)
    with pytest.raises(DataError) as refused:
        read_sweeps(outputs)
    assert complaint in str(refused.value)
    assert len(str(refused.value)) < 500
    writer.client.log_text(parent, json.dumps(TRIALS[parent]), "trials.json")
    writer.client.log_text(parent, "[]", "clips/clips.json")


TRIALS: dict[str, object] = {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, database_template, make_writer):
    """An outputs folder with one sweep, its writer, and its runs."""
    outputs = tmp_path_factory.mktemp("finished")
    shutil.copy(database_template, outputs / "mlflow.db")
    writer = make_writer(outputs, clips=3)
    runs = small_sweep(writer, ["none"])
    TRIALS[runs[0]] = json.loads(next((outputs / "artifacts").rglob("trials.json")).read_text("utf-8"))
    return outputs, writer, runs


def test_frames_that_are_not_png_files_are_left_out_with_a_word(writer, outputs, tmp_path):
    parent, *_ = small_sweep(writer, ["none"])
    writer.clips(parent, tmp_path, ["clip000"])
    clips = next((outputs / "artifacts").rglob("clips.json"))
    (outputs / "secret").write_text("secret")
    intact = (clips.parent / "clip000-0.png").read_bytes()
    (clips.parent / "page.png").write_bytes(b"\x89PNG<script>")
    (clips.parent / "cut.png").write_bytes(intact[:20])
    (clips.parent / "wide.png").write_bytes(intact[:16] + b"\xff\xff\xff\xff" + intact[20:])
    (clips.parent / "link.png").symlink_to(outputs / "secret")
    (clips.parent / "folder.png").mkdir()
    frames = ["page.png", "cut.png", "wide.png", "link.png", "folder.png", "../../../../../secret", "/etc/passwd",
              "a\0",               "x" * 5000, {"a": 1}, 3]  # fmt: skip
    rows = json.loads(clips.read_text("utf-8"))
    rows[0]["frames"] = [*frames, "clip000-0.png", "absent.png"]
    clips.write_text(json.dumps(rows), "utf-8")
    sweep = read_sweeps(outputs)[2]
    assert sweep.clips[0].frames == (intact,)
    left_out = [line for line in sweep.missing if "a frame of clip000 is left out" in line]
    assert len(left_out) == 7  # the others name no file, as absent.png does
    assert max(map(len, left_out)) < 600


def test_values_that_are_not_numbers_are_left_out(writer, outputs, tmp_path):
    _, *runs = small_sweep(writer, ["none", "ratio", "log_ratio"])
    metrics = "UPDATE latest_metrics SET value = ?, is_nan = ? WHERE run_uuid = ? AND key = ?"
    for run, value, is_nan in ((runs[0], 0, 1), (runs[2], 1.7976931348623157e308, 0), (runs[4], -1e9, 0)):
        execute(outputs, metrics, value, is_nan, run, "test/f1")
    for key in ("test/answers/distinct_words", "test/answers/target_words"):
        execute(outputs, metrics, 0, 1, runs[1], key)
    execute(outputs, "UPDATE metrics SET value = 1.7976931348623157e308 WHERE key = 'train/reward'")
    execute(outputs, "UPDATE metrics SET value = 0, is_nan = 1 WHERE key = 'train/entropy' AND step = 2")
    execute(outputs, "UPDATE metrics SET step = 9223372036854775807 WHERE key = 'train/entropy' AND step = 3")
    files = {path.name: path.read_text("utf-8") for path in build_report(outputs, tmp_path)}
    summary = json.loads(files["tables.json"])
    left_out = [line for line in summary["missing"] if "is left out" in line]
    assert left_out == [
        "penalty sweep: none, seed 1 is left out: it logged F1 nan",
        "penalty sweep: ratio, seed 1 is left out: it logged F1 1.79769e+308",
        "penalty sweep: log_ratio, seed 1 is left out: it logged F1 -1e+09",
    ]
    assert "answers/distinct_words" not in summary["sweeps"]["penalty"]["choices"]["none"]["metrics"]
    shown = Structure(files["report.html"]).text + files["tables.md"]
    assert not re.search(r"(?<!logged F1 )\b(nan|inf)\b|\d{30}", shown)


def test_long_texts_are_cut(writer, outputs, tmp_path, capsys):
    _, *runs = small_sweep(writer, ["none"])
    long = "x" * 1_000_000
    execute(outputs, "UPDATE tags SET value = ? WHERE key IN ('affectgpt.baseline', 'affectgpt.prompt')", long)
    execute(outputs, "UPDATE runs SET name = ?", long)
    execute(outputs, "UPDATE runs SET name = NULL WHERE run_uuid = ?", runs[0])
    main(["--outputs", str(outputs), "--folder", str(tmp_path)])
    assert len(capsys.readouterr().err) < 5000
    assert (tmp_path / "report.html").stat().st_size < 100_000


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE runs SET status = '<script>'",
        "UPDATE runs SET artifact_uri = NULL",
        "UPDATE alembic_version SET version_num = 'x'",
        "DROP TABLE latest_metrics",
        "ALTER TABLE tags RENAME COLUMN value TO other",
    ],
)
def test_a_database_that_mlflow_cannot_read_is_one_line(finished, tmp_path, statement):
    shutil.copy(finished[0] / "mlflow.db", tmp_path / "mlflow.db")
    execute(tmp_path, statement)
    with pytest.raises(AffectGPTError) as refused:
        read_sweeps(tmp_path)
    assert len(str(refused.value)) < 800


def test_a_folder_that_a_database_names_is_not_a_lexicon(finished, tmp_path, capsys):
    outputs, _, (_, run, _) = finished
    shutil.copytree(outputs, tmp_path / "outputs")
    execute(
        tmp_path / "outputs",
        "INSERT INTO params (key, value, run_uuid) VALUES ('emotion.lexicon', '/net/host', ?)",
        run,
    )
    with pytest.raises(SystemExit):
        main(["--outputs", str(tmp_path / "outputs")])
    assert (
        "scored by the lexicon '/net/host', a folder; if it is yours, name it by --lexicon" in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        main(["--outputs", str(tmp_path / "outputs"), "--lexicon", str(tmp_path / "none")])
    assert f"no lexicon '{tmp_path / 'none'}'" in capsys.readouterr().err
