"""The notebook runs against an outputs folder, first without runs and then with two."""

import ast
import json
from pathlib import Path

import matplotlib as mpl
import mlflow
import pandas as pd
import pytest

from affectgpt_r1 import config
from affectgpt_r1.reporting.logger import TrackedMLFlowLogger

REPOSITORY = Path(__file__).parents[2]
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
    monkeypatch.setattr(config, "REPOSITORY", tmp_path)
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
