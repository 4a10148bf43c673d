"""The notebook runs against an outputs folder, first without runs and then with two."""

import ast
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import matplotlib as mpl
import mlflow
import pandas as pd
import pytest

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger

REPOSITORY = Path(__file__).parents[2]
HOSTILE = "<img src=x onerror=y>\\frac{"
NOTEBOOK = REPOSITORY / "notebooks" / "01-browse-runs.ipynb"


def run_notebook():
    """Run the code cells; return their names, and the value of each cell's last line where it is an expression."""
    scope, values = {}, []
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), NOTEBOOK.name, "exec"), scope)
        if last is not None:
            values.append(eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), scope))
    return scope, [value for value in values if value is not None]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    before = mlflow.get_tracking_uri(), mpl.get_backend()
    mpl.use("agg")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")  # as Jupyter does
    with pd.option_context("display.max_colwidth", 50):
        yield tmp_path
    mlflow.set_tracking_uri(before[0])
    mpl.use(before[1])


def test_it_says_what_to_run_and_then_shows_curves_and_tables(repository):
    scope, (runs, evaluation, completions) = run_notebook()

    assert len(runs) == 0
    assert [list(axis.lines) for axis in scope["axes"]] == [[], []]
    assert (evaluation, completions) == ("none yet: run `make evaluate`", "none yet: run `make grpo`")

    outputs = repository / "outputs"
    grpo = TrackedMLFlowLogger(outputs, "demo-no_think-seed1", run_name="grpo-seed1", stage="grpo")
    for step in (10, 20):
        grpo.log_metrics({"train/reward": step / 100, "val/f1": step / 50}, step)
        grpo.log_table(["step", "completion"], [[step, "happy"]], f"completions/step_{step:06d}.json")
    grpo.log_data("digest", synthetic=True)
    evaluate = TrackedMLFlowLogger(outputs, "demo-no_think-seed1", run_name="evaluate-seed1", stage="evaluate")
    evaluate.log_table(["system", "f1"], [["SFT", 0.5], ["GRPO", 0.75]], "evaluation/table.json")
    evaluate.end("FINISHED")

    scope, (runs, evaluation, completions) = run_notebook()

    assert runs["run"].tolist() == ["grpo-seed1", "evaluate-seed1"]
    assert runs["last val/f1"].tolist()[0] == 0.4
    assert runs["synthetic"].tolist()[0] == "true"
    curves = [[line.get_xydata().tolist() for line in axis.lines] for axis in scope["axes"]]
    assert curves == [[[[10.0, 0.1], [20.0, 0.2]]], [[[10.0, 0.2], [20.0, 0.4]]]]
    assert evaluation.to_dict("list") == {"system": ["SFT", "GRPO"], "f1": [0.5, 0.75]}
    assert completions.to_dict("list") == {"step": [20], "completion": ["happy"]}

    hostile = TrackedMLFlowLogger(outputs, f"$x_{HOSTILE}$", run_name=f"$x_{HOSTILE}$", stage="grpo")
    for step in (1, 2):
        hostile.log_metrics({"train/reward": 0.5}, step)
    hostile.log_table([HOSTILE], [[HOSTILE]], "completions/step_000001.json")

    scope, (runs, _, completions) = run_notebook()

    scope["figure"].canvas.draw()  # a formula that Matplotlib cannot set would be an error
    assert completions.to_dict("list") == {HOSTILE: [HOSTILE]}
    for table in (runs, completions):
        assert "&lt;img src=x onerror=y&gt;" in table._repr_html_()
        assert not re.search(r"<(?!/?(div|style|table|thead|tbody|tr|th|td|p)\b)", table._repr_html_())

    run_id = runs["run_id"].iloc[-1]
    with closing(sqlite3.connect(outputs / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE runs SET artifact_uri = 's3://bucket/x' WHERE run_uuid = ?", (run_id,))
    with pytest.raises(ConfigError, match=f"{run_id} has its artifacts at s3://bucket/x, which is not below"):
        run_notebook()
