import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from affectgpt_r1.cli.report import main
from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.report.build import build_report
from affectgpt_r1.report.curves import quantities
from affectgpt_r1.report.queries import CURVES, read_sweeps
from affectgpt_r1.report.result_tables import all_tables
from helpers.latex_reader import printed_by_latex

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def report(swept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return {path.name: path.read_text("utf-8") for path in build_report(swept, folder)}


class Page(HTMLParser):
    """Elements, table cells and text of an HTML page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.tables, self.headings, self._open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "input"):
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "h3":
            self.headings.append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, tag

    def handle_data(self, data):
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data
        elif "h3" in self._open:
            self.headings[-1] += data


def markdown_tables(text):
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    rows = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]
    return [[[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in row] for row in [t[0], *t[2:]]] for t in rows]


def latex_tables(text):
    tables = []
    for block in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL):
        lines = [line.strip() for line in block.splitlines() if line.strip().endswith(r"\\")]
        rows = [re.split(r"(?<!\\)&", line.removesuffix(r"\\")) for line in lines]
        tables.append([[printed_by_latex(cell.strip()) for cell in row] for row in rows])
    return tables


def test_every_anchor_is_there_once(report):
    elements = Page(report["report.html"]).elements
    anchors = [attributes["id"] for _, attributes in elements if "id" in attributes]
    links = [attributes["href"] for tag, attributes in elements if tag == "a"]
    assert len(set(anchors)) == len(anchors)
    assert {link.removeprefix("#") for link in links} <= set(anchors)


def test_the_curves_that_are_read_are_those_that_are_drawn(swept):
    sweep = read_sweeps(swept)[0]
    drawn = {quantity.key for quantity in quantities(sweep)}
    parts = {"train/rewards/accuracy/mean", "train/rewards/format/mean"}
    assert drawn == {*CURVES, *parts}
    assert parts < {key for trial in sweep.trials for key in trial.curves} < drawn


def test_html_markdown_and_latex_have_the_same_cells(report):
    summary = json.loads(report["tables.json"])
    cells = [[list(table.columns), *map(list, table.rows)] for table in all_tables(summary)]
    assert len(cells) == 11
    assert markdown_tables(report["tables.md"]) == cells
    assert latex_tables(report["tables.tex"]) == cells
    assert Page(report["report.html"]).tables == cells


def test_printed_values_are_those_of_the_json(report):
    choice = json.loads(report["tables.json"])["sweeps"]["reward"]["choices"]["accuracy"]
    table = next(t for t in markdown_tables(report["tables.md"]) if t[0][:2] == ["Reward", "n"])
    row = next(dict(zip(table[0], row, strict=True)) for row in table[1:] if row[0] == "accuracy")
    f1, tests = choice["metrics"]["f1"], choice["against_baseline"]
    assert row["n"] == "3"
    assert row["F1"] == f"{100 * f1['mean']:.2f} ± {100 * (f1['high'] - f1['mean']):.2f}"
    assert row["F1 per seed"] == ", ".join(f"{100 * value:.2f}" for value in f1["values"].values())
    assert float(row["difference"].replace("−", "-")) == pytest.approx(100 * tests["clips"]["difference"], abs=0.006)
    low, high = (100 * tests["seeds"][key] for key in ("low", "high"))
    assert row["seeds"].replace("−", "-") == f"[{low:+.2f}, {high:+.2f}]"
    assert float(row["p"]) == pytest.approx(tests["seeds"]["p"], abs=0.0006)


def test_json_holds_what_mlflow_holds(report, swept):
    from mlflow.tracking import MlflowClient

    summary = json.loads(report["tables.json"])
    client = MlflowClient(f"sqlite:///{swept / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ablations").experiment_id
    for run in client.search_runs([experiment], "tags.`affectgpt.kind` = 'trial'"):
        sweep, _, rest = run.info.run_name.partition("-")
        choice, _, seed = rest.partition("-seed")
        metrics = summary["sweeps"][sweep]["choices"][choice]["metrics"]
        for name, value in run.data.metrics.items():
            if name.startswith("test/"):
                assert metrics[name.removeprefix("test/")]["values"][seed] == value
    shared = summary["sweeps"]["penalty"]["choices"]["none"]["metrics"]
    assert shared == summary["sweeps"]["reasoning"]["choices"]["no_think"]["metrics"]
    assert summary["sweeps"]["reward"]["choices"]["none"]["metrics"]["f1"]["n"] == 1
    assert summary["sweeps"]["reward"]["choices"]["none"]["against_baseline"]["seeds"]["n"] == 3
    assert summary["sweeps"]["reward"]["alarms"] == [{"choice": "accuracy", "seed": 2, "step": "30"}]
    (finding,) = [finding for finding in summary["findings"] if finding["anchor"] == "reward"]
    assert "ccuracy, seed 2 from step 30: the reward rose while F1 on the validation clips fell" in finding["certainty"]
    assert [sweep["prompts"] for sweep in summary["sweeps"].values()] == [
        ["think"],
        ["no_think", "think"],
        ["no_think"],
    ]
    assert summary["sweeps"]["penalty"]["clips"] == 40
    assert "Prompt mode of every row: no-think." in report["tables.md"]
    assert (summary["synthetic"], summary["confidence"], summary["missing"]) == (True, 0.95, [])


def test_synthetic_is_said_in_the_title_and_at_every_measured_table(report):
    page = Page(report["report.html"])
    assert "<title>Rewards, reasoning and length penalties: synthetic demo clips</title>" in report["report.html"]
    measured = [heading for heading in page.headings if "papers" not in heading and "clip0" not in heading]
    assert len(measured) == 10 + 3 + 3  # tables, curves, wheels
    assert all("synthetic" in heading for heading in measured)
    for name, heading in (("tables.md", r"^## (.*)"), ("tables.tex", r"\\caption\{(.*)\}")):
        titles = re.findall(heading, report[name], re.MULTILINE)
        assert [("synthetic" in title, "papers" in title) for title in titles] == [(True, False)] * 10 + [(False, True)]


def test_it_is_attached_to_the_parent_run_of_each_sweep(report, swept):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{swept / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ablations").experiment_id
    parents = client.search_runs([experiment], "tags.`affectgpt.kind` = 'sweep'")
    attached = [{file.path for file in client.list_artifacts(run.info.run_id, "report")} for run in parents]
    assert attached == [{f"report/{name}" for name in report}] * 3


def test_page_asks_for_nothing_and_runs_nothing(report):
    page = Page(report["report.html"])
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "input" or attributes["type"] == "radio"
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"url\(|@import", report["report.html"])
    assert [tag for tag, _ in page.elements].count("img") == 9
    assert report["report.html"].count("&lt;script&gt;") > 10


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: Debian has it as the package chromium")
def test_browser_shows_a_script_answer_and_does_not_run_it(report, tmp_path):
    html = report["report.html"]
    policy = re.search(r"<meta http-equiv=.*?>", html).group()
    canary = "<script>document.documentElement.dataset.scripts = 'run'</script>"
    page = tmp_path / "page.html"
    page.write_text(html.replace(policy, "") + canary, encoding="utf-8")  # escaping alone, without the second lock
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [*command, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
        capture_output=True, check=True, timeout=120, encoding="utf-8",
    ).stdout  # fmt: skip
    assert 'data-scripts="run"' in shown  # this browser does run scripts
    assert "<title>Rewards, reasoning and length penalties: synthetic demo clips</title>" in shown
    assert shown.count("<script") == 1
    assert "onerror=" not in re.sub(r">[^<]*<", "><", shown)
    assert "&lt;script&gt;document.title='run'&lt;/script&gt;" in shown


def test_a_run_logged_under_the_old_names_gives_the_same_report(make_writer, old_names, database_template, tmp_path):
    reports = []
    for names in ({}, old_names):
        outputs = tmp_path / f"{len(names)} names"
        outputs.mkdir()
        shutil.copy(database_template, outputs / "mlflow.db")
        writer = make_writer(outputs, clips=6, old_names=names)
        trials = [writer.trial("penalty", choice, seed, steps=20) for choice in ("none", "ratio") for seed in (1, 2)]
        writer.parent("penalty", trials)
        files = {path.name: path.read_text("utf-8") for path in build_report(outputs, outputs / "report")}
        for index, trial in enumerate(trials):
            for name in files:
                files[name] = (
                    files[name].replace(trial["run_id"], f"run {index}").replace(trial["run_id"][:8], f"run {index}")
                )
        reports.append(files)
    new, old = reports
    assert old == new
    assert "unmapped_rate" in old["tables.json"]
    assert "names (validation), fraction by optimizer step: P2" in old["report.html"]
    assert "share" not in json.dumps(old)


def test_unfinished_trials_and_missing_sweeps_are_named(writer, outputs, tmp_path):
    trials = [writer.trial("penalty", "none", 1, steps=3), writer.trial("penalty", "none", 2, steps=3)]
    trials += [
        writer.trial("penalty", "ratio", 1, steps=3),
        writer.trial("penalty", "ratio", 2, status="FAILED", steps=3),
    ]
    trials.append({"choice": "inverse_gap", "seed": 1, "run_id": "0" * 32})
    writer.parent("penalty", trials)
    html = build_report(outputs, tmp_path)[0].read_text("utf-8")
    summary = json.loads((tmp_path / "tables.json").read_text("utf-8"))
    assert summary["missing"] == [
        "the reward sweep has not been run: `make ablations` runs it",
        "the reasoning sweep has not been run: `make ablations` runs it",
        "penalty sweep: ratio, seed 2 is not finished",
        "penalty sweep: inverse_gap, seed 1 is not finished",
        "penalty sweep: ratio lacks seed 2",
    ]
    assert all(f"<li>{line}</li>" in html for line in summary["missing"])
    assert summary["sweeps"]["penalty"]["choices"]["ratio"]["against_baseline"]["seeds"] is None
    assert "Missing:" in (tmp_path / "tables.md").read_text("utf-8")
    assert "% Missing: penalty sweep: ratio lacks seed 2" in (tmp_path / "tables.tex").read_text("utf-8")


def test_sweep_that_was_killed_shows_what_it_logged(writer, outputs):
    parent = writer.parent("reasoning", None)
    writer.trial("reasoning", "no_think", 1, parent, steps=3)
    writer.trial("reasoning", "think", 1, parent, status="RUNNING", steps=3)
    sweep = read_sweeps(outputs)[1]
    assert sweep.choices == ("no_think",)
    assert sweep.missing == (
        "the reasoning sweep has not ended: only what it has logged so far is shown",
        "reasoning sweep: think, seed 1 is not finished",
        "reasoning sweep: the baseline think has no finished trial, so nothing is compared with it",
    )


def test_damaged_answers_are_named(writer, outputs, tmp_path):
    entry = writer.trial("penalty", "none", 1, steps=2)
    writer.client.log_text(entry["run_id"], '{"name": "clip"}\n', "test/answers.jsonl")
    writer.parent("penalty", [entry])
    with pytest.raises(DataError, match=r"answers\.jsonl, line 1: not an answer"):
        build_report(outputs, tmp_path)


def test_no_database_or_no_ablation_is_one_line(tmp_path, outputs, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--outputs", str(tmp_path / "nowhere")])
    assert stop.value.code == 2
    assert "no MLflow database; run `make grpo` or `make ablations` first" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(
        ConfigError, match="no policy was evaluated and no sweep was run; run `make grpo` or `make ablations` first"
    ):
        build_report(outputs, tmp_path)
