"""The report on what `make grpo` alone leaves: three policies and their evaluation, without a sweep."""

import json
import re
import shutil
import subprocess

import pytest

from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.report import opening
from affectgpt_r1.report.build import build_report
from affectgpt_r1.report.evaluations import read_evaluations
from helpers.evaluated_outputs import write_evaluation

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, database_template):
    """An outputs folder of one seed, and its MLflow runs; read only but for the report in it."""
    outputs = tmp_path_factory.mktemp("evaluated") / "outputs"
    outputs.mkdir()
    shutil.copy(database_template, outputs / "mlflow.db")
    return outputs, write_evaluation(outputs)


@pytest.fixture(scope="module")
def report(evaluated, tmp_path_factory, write_mp4):
    data = tmp_path_factory.mktemp("data")
    write_mp4(data / "video" / "clip0.mp4", sound=False)
    (data / "subtitle_chieng.csv").write_text("name,english\nclip0,Look at <b>that</b>!\n")
    files = build_report(evaluated[0], tmp_path_factory.mktemp("report"), data=data)
    return {file.name: file.read_text("utf-8") for file in files}


def test_it_opens_with_what_was_asked_what_came_out_and_how_sure_one_can_be(report):
    summary = json.loads(report["tables.json"])
    (finding,) = summary["findings"]
    assert finding["asked"].startswith("Does GRPO on the emotion-wheel metric make the policy better")
    f1 = {
        name: choice["metrics"]["f1"]["mean"] for name, choice in summary["sweeps"]["demo-no_think"]["choices"].items()
    }
    assert finding["result"] == (
        f"F1 in points on 4 test clips, seed 1: GRPO {100 * f1['grpo']:.2f}, control {100 * f1['control']:.2f}, "
        f"SFT {100 * f1['sft']:.2f}."
    )
    assert f"GRPO minus SFT: +{100 * (f1['grpo'] - f1['sft']):.2f} points, 95 % interval [" in finding["certainty"]
    assert finding["certainty"].endswith("The clips are rendered: nothing is said on recorded people.")
    assert re.fullmatch(
        r"3 runs, seed 1, up to 30 steps; commits 1111111111, 2121212121, 3131313131; ended on \d{4}-\d\d-\d\d\. "
        "Command: affectgpt-r1 train experiment=demo/grpo",
        finding["provenance"],
    )
    assert finding["result"] in report["report.html"]
    assert summary["missing"] == []
    assert summary["directions"] == []


def test_every_drawing_has_its_numbers_labels_and_units(report):
    figures = json.loads(report["tables.json"])["figures"]
    assert figures["demo-no_think-val-f1"]["y"] == "points"
    assert figures["demo-no_think-val-f1"]["series"]["grpo"]["steps"] == [9, 19, 29]
    assert figures["demo-no_think-val-f1"]["series"]["grpo"]["mean"] == pytest.approx([79, 89, 99])
    assert figures["demo-no_think-wheel"]["grpo"]["joy"] == {"hits": 1, "misses": 0, "extra": 0, "f1": 1.0}
    assert figures["demo-no_think-wheel"]["sft"]["joy"] == {"hits": 0, "misses": 1, "extra": 0, "f1": 0.0}
    html = report["report.html"]
    for key in figures:
        assert f'<figure id="{key}"' in html
        assert f"<code>{key}</code>" in html
    assert html.count(">optimizer step</text>") == html.count(">points</text>") + html.count(">words</text>") + 2


def test_it_names_steps_commits_seeds_and_the_command(report, evaluated):
    (table,) = [part for part in report["tables.md"].split("## ") if part.startswith("Policies of demo-no_think: runs")]
    assert "| GRPO | 1 | 30 | " in table
    assert f" | 3131313 | {evaluated[1]['grpo'][:8]} |" in table
    assert "Command: affectgpt-r1 train experiment=demo/grpo" in table


def test_clips_can_be_ordered_and_filtered_without_a_script(report):
    html = report["report.html"]
    cards = html.split('<article class="clip ')[1:]
    assert [card.split("<bdi>")[1].split("<")[0] for card in cards] == ["clip0", "clip3", "clip2", "clip1"]
    assert [card.split('"')[0].split() for card in cards] == [
        ["differ", "missed", "repeated"], ["differ", "missed", "empty"], [], ["missed"],
    ]  # fmt: skip
    assert "Look at &lt;b&gt;that&lt;/b&gt;!" in cards[0]
    assert html.count("data:image/png;base64,") == 3
    assert "<script" not in html


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: Debian has it as the package chromium")
@pytest.mark.parametrize(
    ("chosen", "shown"),
    [
        ((), "clip0 clip3 clip2 clip1"),
        (("sort-name",), "clip0 clip1 clip2 clip3"),
        (("show-empty",), "clip3"),
        (("show-missed", "sort-name"), "clip0 clip1 clip3"),
    ],
)
def test_a_browser_orders_and_filters(report, tmp_path, chosen, shown):
    html = report["report.html"]
    for name in chosen:
        html = html.replace(f'id="{name}"', f'id="{name}" checked')
    policy = re.search(r"<meta http-equiv=.*?>", html).group()  # the page allows no script, not even this test's
    probe = """<script>document.title = [...document.querySelectorAll('.clip')].filter(clip => clip.offsetHeight)
      .sort((a, b) => a.offsetTop - b.offsetTop).map(clip => clip.querySelector('h3').textContent).join(' ')</script>"""
    page = tmp_path / "page.html"
    page.write_text(html.replace(policy, "") + probe, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    dom = subprocess.run(
        [*command, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
        capture_output=True, check=True, timeout=120, encoding="utf-8",
    ).stdout  # fmt: skip
    assert f"<title>{shown}</title>" in dom


def test_it_is_attached_to_the_grpo_run(report, evaluated):
    from mlflow.tracking import MlflowClient

    outputs, runs = evaluated
    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    attached = {file.path.removeprefix("report/") for file in client.list_artifacts(runs["grpo"], "report")}
    assert attached == set(report)
    assert client.list_artifacts(runs["sft"]) == []


def test_seeds_are_pooled_and_what_is_missing_is_said(outputs, tmp_path):
    runs = [write_evaluation(outputs, seed) for seed in (1, 2)]
    (sweep,) = read_evaluations(outputs, tmp_path)
    assert (sweep.run_id, sweep.other_seeds) == (runs[1]["grpo"], (runs[0]["grpo"],))
    files = build_report(outputs, tmp_path / "report", data=tmp_path)
    for seed, run in enumerate(runs, start=1):  # the report of both seeds is on the page of each
        attached = outputs / "artifacts" / f"demo-no_think-seed{seed}" / run["grpo"] / "artifacts" / "report"
        assert {file.name: file.read_bytes() for file in attached.iterdir()} == {
            file.name: file.read_bytes() for file in files
        }
    (outputs / "demo-no_think-seed2" / "sft" / "mlflow_run_id").write_text("../../x\n")
    summary = json.loads((outputs / "demo-no_think-seed2" / "summary.json").read_text())
    del summary["runs"]["control"]
    (outputs / "demo-no_think-seed2" / "predictions" / "grpo.jsonl").unlink()
    (outputs / "demo-no_think-seed2" / "summary.json").write_text(json.dumps(summary))
    (sweep,) = read_evaluations(outputs, tmp_path)
    assert [(trial.choice, trial.seed, bool(trial.curves)) for trial in sweep.trials] == [
        ("sft", 1, True), ("sft", 2, False), ("control", 1, True), ("grpo", 1, True),
    ]  # fmt: skip
    assert sweep.missing == (
        "demo-no_think: sft, seed 2 has no run in MLflow, so no curves",
        "demo-no_think: control, seed 2 was not evaluated",
        f"demo-no_think: grpo, seed 2 has no answers in {outputs}/demo-no_think-seed2/predictions/grpo.jsonl",
        f"demo-no_think: {tmp_path} has no films of the clips, so no frames are shown; name the data folder by --data",
    )


def test_texts_of_strangers_are_shown_and_their_paths_are_not_followed(outputs, tmp_path):
    write_evaluation(outputs, name="<script>x")
    (folder,) = outputs.glob("<script>x-seed1")
    hostile = {"name": "../../secret", "target": ["happy"], "openset": [SCRIPT], "completion": SCRIPT, "f1": 0.0}
    with (folder / "predictions" / "grpo.jsonl").open("a") as file:
        file.write(json.dumps(hostile) + "\n")
    summary = json.loads((folder / "summary.json").read_text())
    summary["runs"]["sft"]["checkpoint"] = "../../elsewhere/checkpoints/best.ckpt"
    (folder / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "secret.mp4").write_bytes(b"")

    html = build_report(outputs, tmp_path / "report", data=tmp_path / "data" / "here")[0].read_text("utf-8")

    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2  # the answer's word and its completion
    assert "<bdi>../../secret</bdi>" in html
    assert "sft, seed 1 has no run in MLflow" in html


def test_steps_and_dates_that_mlflow_does_not_know_are_left_out():
    runs = [{"run_id": seed, "seed": seed, "git_commit": "unknown", "date": "", "steps": None} for seed in (1, 2)]
    assert opening._provenance({"runs": runs, "command": ""}) == "2 runs, seeds 1, 2; commits unknown."


RUN = '{"experiment": "x", "runs": {"sft": {"seed": 1, "checkpoint": "x/sft/checkpoints/best.ckpt"}}, "sft": %s}'


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"runs": 7}',
        '{"runs": {"sft": {"seed": 1}}}',
        '{"runs": {"sft": {"seed": "1", "checkpoint": "x"}}}',
        '{"runs": {}}',
        RUN % "7",
        RUN % '{"mean_level1": {"f1": 1.5}}',
        RUN % '{"mean_level1": {"f1": NaN}}',
        RUN % ('{"mean_level1": {"f1": %s}}' % ("9" * 400)),
        RUN % '{"mean_level1": {"f1": 0.5}, "without": {"video": 3}}',
    ],
)
def test_a_damaged_evaluation_is_named(outputs, tmp_path, text):
    (outputs / "x").mkdir()
    (outputs / "x" / "summary.json").write_text(text)
    with pytest.raises(DataError, match=r"x/summary\.json: not an evaluation \(.*\); run `make evaluate` again"):
        read_evaluations(outputs, tmp_path)


def test_a_lexicon_of_ones_own_has_to_be_named(outputs, tmp_path):
    write_evaluation(outputs)
    file = outputs / "demo-no_think-seed1" / "summary.json"
    file.write_text(file.read_text().replace('"bundled"', '"/home/wheels"'))
    with pytest.raises(
        ConfigError, match="scored by the lexicon '/home/wheels', a folder; if it is yours, name it by --lex"
    ):
        read_evaluations(outputs, tmp_path)
