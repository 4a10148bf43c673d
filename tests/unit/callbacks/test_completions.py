import json

import pytest
from rich.console import Console

from affectgpt_r1.callbacks import completions
from affectgpt_r1.callbacks.completions import CompletionsTable, completion_rows
from affectgpt_r1.types import CompletionRecord


@pytest.fixture(autouse=True)
def wide_console(monkeypatch):
    monkeypatch.setattr(completions, "get_console", lambda: Console(width=140))


def _record(**changes):
    values = {
        "name": "a",
        "prompt": "p",
        "target": "sad",
        "completion": "<answer>[/b] sad</answer>",
        "rewards": {"accuracy": 1.0},
        "reward": 1.0,
        "advantage": 0.5,
    }
    return CompletionRecord(**{**values, **changes})


def test_columns_hold_every_reward_part():
    columns, rows = completion_rows([_record(), _record(rewards={"format": None, "accuracy": 0.0})], step=7)
    assert columns == ["step", "name", "target", "completion", "accuracy", "format", "reward", "advantage", "prompt"]
    assert rows[0] == [7, "a", "sad", "<answer>[/b] sad</answer>", 1.0, None, 1.0, 0.5, "p"]
    assert rows[1][4:6] == [0.0, None]


def test_tables_of_the_first_and_every_fifth_step(tmp_path, tiny_module, fit, capsys):
    fit(tiny_module(), [CompletionsTable(tmp_path / "run", every_n_steps=5, console_rows=1)])
    files = sorted((tmp_path / "run" / "completions").iterdir())
    assert [path.name for path in files] == ["step_000001.jsonl", "step_000005.jsonl", "step_000010.jsonl"]
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert len(rows) == 2
    assert rows[0] == {
        "step": 1,
        "name": "clip0",
        "prompt": "What does [the person] feel?",
        "target": "sad, tired",
        "completion": "<answer>sad</answer>",
        "accuracy": 0.5,
        "format": None,
        "reward": 0.5,
        "advantage": None,
    }
    printed = capsys.readouterr().out
    assert "Completions at step 10" in printed
    assert printed.count("sad, tired │ <answer>sad</answer> │    0.500 │      - │  0.500 │") == 3


def test_accumulated_batches_log_a_step_once(tmp_path, tiny_module, fit, capsys):
    fit(tiny_module(), [CompletionsTable(tmp_path, 2, console_rows=0)], accumulate_grad_batches=2)
    files = sorted(path.name for path in (tmp_path / "completions").iterdir())
    assert files == [f"step_00000{step}.jsonl" for step in (1, 2, 4, 6)]
    first = json.loads((tmp_path / "completions" / "step_000002.jsonl").read_text().splitlines()[0])
    assert first["name"] == "clip3"
    assert "Completions" not in capsys.readouterr().out


def test_stage_without_records_writes_nothing(tmp_path, tiny_module, fit, monkeypatch):
    module = tiny_module()
    step = module.training_step
    monkeypatch.setattr(module, "training_step", lambda batch, batch_idx: {**step(batch, batch_idx), "records": ()})
    fit(module, [CompletionsTable(tmp_path / "run", every_n_steps=1)])
    assert not (tmp_path / "run").exists()


def test_brackets_in_text_are_not_read_as_markup(tmp_path, tiny_module, fit, capsys, monkeypatch):
    module = tiny_module()
    step = module.training_step
    odd = {"records": (_record(completion="[/bold] [red]"),)}
    monkeypatch.setattr(module, "training_step", lambda batch, batch_idx: {**step(batch, batch_idx), **odd})
    fit(module, [CompletionsTable(tmp_path, every_n_steps=100)])
    assert "[/bold] [red]" in capsys.readouterr().out
