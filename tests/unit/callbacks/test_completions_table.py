import dataclasses
import json
from types import SimpleNamespace

import pytest

from affectgpt_r1.callbacks import completions_table as completions
from affectgpt_r1.callbacks.completions_table import CompletionsTable, completion_rows
from affectgpt_r1.io.console import PlainConsole as Console
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
    rows = [json.loads(row) for row in (tmp_path / "completions" / "step_000002.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["clip2", "clip2", "clip3", "clip3"]  # of both micro-batches
    assert "Completions" not in capsys.readouterr().out


def test_the_rest_of_an_epoch_has_a_table_of_its_own(tmp_path, tiny_module, fit):
    fit(tiny_module(), [CompletionsTable(tmp_path, 1, console_rows=0)], accumulate_grad_batches=3, max_epochs=1)
    tables = [file.read_text().splitlines() for file in sorted((tmp_path / "completions").iterdir())]
    names = [[json.loads(row)["name"] for row in rows[::2]] for rows in tables]
    assert names == [["clip0", "clip1", "clip2"], ["clip3"]]


def test_a_step_that_is_cut_between_its_micro_batches_keeps_their_completions():
    cut, resumed = CompletionsTable("unused"), CompletionsTable("unused")
    trainer = SimpleNamespace(global_step=0)
    cut.on_train_batch_end(trainer, None, {"records": (_record(name="early"),)}, None, 0)
    resumed.load_state_dict(cut.state_dict())
    assert resumed.state_dict() == {"pending": [dataclasses.asdict(_record(name="early"))]}


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
