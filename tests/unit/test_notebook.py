"""The notebooks run as Jupyter runs them, against a small outputs folder, and say what is missing in an empty one."""

import ast
import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import mlflow
import pandas as pd
import pytest

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger
from helpers.evaluated_outputs import ANSWERS, write_evaluation
from helpers.mlflow_fixtures import database_template

__all__ = ["database_template"]

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
HOSTILE = "<img src=x onerror=y>\\frac{"


def run_notebook(name, **replaced):
    """Run the code cells; return their names, and the value of each cell's last line where it is an expression.

    ``replaced`` are assignments of the first cell to change, as a reader would.
    """
    (path,) = NOTEBOOKS.glob(f"{name}-*.ipynb")
    scope, values = {}, []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), path.name, "exec"), scope)
        scope |= {key: value for key, value in replaced.items() if key in scope}
        if last is not None:
            values.append(eval(compile(ast.Expression(last.value), path.name, "eval"), scope))
    return scope, [value for value in values if value is not None]


@pytest.fixture
def repository(tmp_path, monkeypatch, database_template):
    """A clone without runs; the working folder is that of its notebooks."""
    before = mlflow.get_tracking_uri(), mpl.get_backend()
    mpl.use("agg")
    for folder in ("notebooks", "outputs"):
        (tmp_path / folder).mkdir()
    shutil.copy(database_template, tmp_path / "outputs" / "mlflow.db")
    monkeypatch.chdir(tmp_path / "notebooks")  # as Jupyter does
    with pd.option_context("display.max_colwidth", 50):
        yield tmp_path
    plt.close("all")
    mlflow.set_tracking_uri(before[0])
    mpl.use(before[1])


@pytest.fixture
def evaluated(repository, write_mp4, write_wav):
    """A clone after `make grpo`, with the clips."""
    write_evaluation(repository / "outputs")
    data = repository / "data" / "synthetic"
    write_mp4(data / "video" / "clip0.mp4", sound=False)
    write_wav(data / "audio" / "clip0.wav", seconds=1.0)
    (data / "subtitle_chieng.csv").write_text("name,english\nclip0,That costs $5 and $6.\n")
    rows = [f'{name},"{", ".join(row[0])}"\n' for name, row in ANSWERS.items()]
    (data / "track2_test.csv").write_text("name,openset\n" + "".join(rows))
    return repository


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_is_short_and_defines_nothing(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    assert len(cells) < 10
    code = ast.parse("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    assert not [node for node in ast.walk(code) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)]
    assert any(isinstance(node, ast.ImportFrom) and node.module.startswith("affectgpt_r1.") for node in code.body)
    assert not any(cell.get("outputs") for cell in cells)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_is_as_nbstripout_leaves_it(path):
    """Without outputs, counts of executions and random identifiers: pre-commit runs nbstripout."""
    cells = json.loads(path.read_text("utf-8"))["cells"]

    assert [cell["id"] for cell in cells] == [str(number) for number in range(len(cells))]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)


def test_browse_shows_reward_against_held_out_f1(evaluated):
    scope, (runs, evaluation, completions) = run_notebook("01")

    assert runs["run"].tolist() == ["sft-seed1", "control-seed1", "grpo-seed1"]
    assert runs["last val/f1"].tolist() == pytest.approx([0.79, 0.89, 0.99])
    lines = [[line.get_ydata().tolist() for line in axis.lines] for axis in scope["axes"].flat]
    assert [len(curves) for curves in lines] == [1, 3, 1, 1]
    assert lines[2][0] == pytest.approx([0.34, 0.44, 0.54])
    (line,) = scope["axis"].lines
    assert line.get_xdata().tolist() == pytest.approx([0.59, 0.64, 0.69])  # the mean of 0.59, 0.69, 0.79 so far
    assert line.get_ydata().tolist() == pytest.approx([0.79, 0.89, 0.99])
    assert evaluation == "none yet: run `make evaluate`"
    assert completions["advantage"].tolist() == [0.8, -0.9, 0.1]


def test_browse_says_what_to_run(repository):
    scope, (runs, evaluation, completions) = run_notebook("01")

    assert len(runs) == 0
    assert [list(axis.lines) for axis in (*scope["axes"].flat, scope["axis"])] == [[]] * 5
    assert (evaluation, completions) == ("none yet: run `make evaluate`", "none yet: run `make grpo`")


def test_browse_shows_hostile_texts_and_reads_nothing_elsewhere(repository):
    outputs = repository / "outputs"
    evaluate = TrackedMLFlowLogger(outputs, "demo-no_think-seed1", run_name="evaluate-seed1", stage="evaluate")
    evaluate.log_table(["system", "f1"], [["SFT", 0.5], ["GRPO", 0.75]], "evaluation/table.json")
    evaluate.end("FINISHED")
    hostile = TrackedMLFlowLogger(outputs, f"$x_{HOSTILE}$", run_name=f"$x_{HOSTILE}$", stage="grpo")
    for step in (1, 2):
        hostile.log_metrics({"train/reward": 0.5, "val/f1": 0.5}, step)
    hostile.log_table([HOSTILE], [[HOSTILE]], "completions/step_000001.json")

    scope, (runs, evaluation, completions) = run_notebook("01")

    assert evaluation.to_dict("list") == {"system": ["SFT", "GRPO"], "f1": [0.5, 0.75]}
    for figure in ("figure", "against"):
        scope[figure].canvas.draw()  # a formula that Matplotlib cannot set would be an error
    assert completions.to_dict("list") == {HOSTILE: [HOSTILE]}
    for table in (runs, completions):
        assert "&lt;img src=x onerror=y&gt;" in table._repr_html_()
        assert not re.search(r"<(?!/?(div|style|table|thead|tbody|tr|th|td|p)\b)", table._repr_html_())

    run_id = runs["run_id"].iloc[-1]
    with closing(sqlite3.connect(outputs / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE runs SET artifact_uri = 's3://bucket/x' WHERE run_uuid = ?", (run_id,))
    with pytest.raises(ConfigError, match=f"{run_id} has its artifacts at s3://bucket/x, which is not below"):
        run_notebook("01")


def test_score_gives_intervals_and_the_worst_clips(evaluated, capsys):
    _, (scores, constant, worst) = run_notebook("02")

    assert list(scores.columns) == ["precision", "recall", "F1", "F1, low", "F1, high"]
    assert list(scores.index) == ["all five wheels", *(f"wheel {wheel}" for wheel in range(1, 6))]
    assert (scores["F1, low"] <= scores["F1"]).all()
    assert (scores["F1"] <= scores["F1, high"]).all()
    assert constant.loc["yours", "F1"] == scores.loc["all five wheels", "F1"]
    assert worst["F1"].tolist() == sorted(worst["F1"])
    assert worst.loc["clip0", ["target", "answer", "words", "F1"]].tolist() == ["happy", "happy, happy", 2, 100.0]

    theirs = evaluated / "theirs.csv"
    theirs.write_text("name,openset\nclip0,happy\nclip1,hapy\nclip2,\nclip3,surprised\n")
    _, (scores, _, worst) = run_notebook("02", predictions=theirs)

    assert scores.loc["all five wheels", "F1"] == pytest.approx(50.0)
    assert worst["F1"].tolist() == [0, 0, 100, 100]
    assert "Note: " in capsys.readouterr().out


def test_look_shows_the_group_that_grpo_compares(evaluated, capsys):
    scope, (group,) = run_notebook("03")

    assert capsys.readouterr().out == "How do they feel?\n"
    assert group["reward"].tolist() == pytest.approx([1.0, 0.6, 0.2])
    assert group["above the mean"].tolist() == pytest.approx([0.4, 0.0, -0.4])
    assert [bar.get_width() for bar in scope["axis"].patches] == [0.8, 0.1, -0.9]
    assert scope["figure"].get_suptitle() == "clip0, target: happy\n“That costs \\$5 and \\$6.”"
    assert len(scope["figure"].axes) == 8 + 1
    for figure in ("figure", "bars"):
        scope[figure].canvas.draw()


def test_look_says_what_to_run(repository):
    with pytest.raises(FileNotFoundError, match="has no completions yet: run `make grpo`, then this notebook again"):
        run_notebook("03")
