"""A user's mistake at any command is one line and exit code 2, never a traceback."""

from __future__ import annotations

import argparse
import errno
import gc
import os
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.types import RunMode
from omegaconf import OmegaConf

import affectgpt_r1
from affectgpt_r1.cli import main as cli
from affectgpt_r1.cli.command import lazy, run_command
from affectgpt_r1.cli.composed_command import run_composed_command
from affectgpt_r1.cli.convert import main as convert
from affectgpt_r1.cli.export import main as export
from affectgpt_r1.cli.plan import main as plan
from affectgpt_r1.cli.report import main as report
from affectgpt_r1.cli.score import main as score
from affectgpt_r1.config.compose import CONFIGS, check_overrides, clear_errors, resolved, run_with_clear_errors
from affectgpt_r1.config.instantiate import build_data
from affectgpt_r1.data.datamodule import MERCaptionDataModule
from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.policy.checkpoint import first_sentence


def refused(main, arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    printed: str = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="affectgpt-r1 try")
    made.add_argument("--number", type=int, default=2)
    return made


def test_the_result_comes_back_and_an_error_is_one_line(capsys):
    assert run_command(parser(), lambda options: options.number * 2, ["--number", "3"]) == 6

    def fail(options):
        raise DataError("rows.csv: is empty")

    assert refused(lambda given: run_command(parser(), fail, given), [], capsys) == (
        "affectgpt-r1 try: rows.csv: is empty\n"
    )


def test_overrides_are_composed_next_to_the_options(capsys):
    def work(options, config):
        return options.number, config.seed, config.stage.name

    first = ["experiment=demo/grpo", "seed=5"]
    assert run_composed_command(parser(), work, ["--number", "3", "seed=7"], first=first) == (3, 7, "grpo")
    for arguments, complaint in (
        (["--numbre", "3"], "unrecognized arguments: --numbre"),
        (["sede=3"], "the nearest is seed"),
        (["seed=${bar}"], "'bar' not found"),
    ):
        printed = refused(
            lambda given: run_composed_command(parser(), lambda _, config: config.seed, given), arguments, capsys
        )
        assert complaint in printed


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.batch_size=abc", "data.batch_size=abc is not a number; configs/ has data.batch_size="),
        ("seed=", "seed= is not a number; configs/ has seed=1"),
        ("seed=[1]", "seed=[1] is not a number; configs/ has seed=1"),
        ("+seed='3'", "seed='3' is not a number; configs/ has seed=1"),
        ("trainer.max_steps=ten", "trainer.max_steps=ten is not a number; configs/ has trainer.max_steps=1000"),
        ("evaluate_after=yes", "evaluate_after=yes is neither true nor false; configs/ has evaluate_after=false"),
        ("model=null", "model=null: there is no "),
        ("reward=", "and there are accuracy, accuracy_format, "),
        ("--experiment=sft", "--experiment=sft: keys have no dashes, as in experiment=VALUE"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_before_hydra_reads_it(override, said, capsys, monkeypatch):
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_overrides(["optim.weight_decay=0.1", override])
    monkeypatch.setattr("sys.argv", ["train", "--cfg", "job", override])
    assert said in refused(lambda _: run_with_clear_errors(lambda: pytest.fail("Hydra was asked")), [], capsys)
    if not override.startswith("-"):
        assert said in refused(plan, ["experiment=demo/grpo", "--tflops", "1", override], capsys)


def test_every_legal_way_of_giving_a_value_is_taken():
    given = (
        "seed=3 seed=null ~seed seed=1,2,3 seed=range(1,4) seed=[ data.fold='${seed}' data.subset=null "
        "optim.optimizer.lr=1e-4 stage.epsilon=inf stage.beta=${optim.weight_decay} stage.beta=choice(0.0,0.04) "
        "evaluate_after=1 experiment_name=abc ~callbacks.progress debug=fast emotion@emotion=x reward=format,accuracy "
        "trainer.devices=auto trainer.devices=[0,1] trainer.deterministic=warn +foo={a:1} hydra.run.dir=/tmp/a "
        "--config-name=sft -m job"
    )
    check_overrides(given.split())


def test_a_fault_of_the_program_is_not_hidden_behind_an_override(monkeypatch):
    def entry():
        raise TypeError("of the program")

    monkeypatch.setattr("sys.argv", ["train", "-m", "seed=1,2,3", "trainer.devices=auto"])
    with pytest.raises(TypeError, match="of the program"):
        run_with_clear_errors(entry)


def fake_job(monkeypatch, overrides: list[str], mode: str):
    job = OmegaConf.create({"mode": RunMode[mode], "overrides": {"task": overrides}})
    monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", lambda: job)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+sede=1"], "affectgpt-r1: sede is not a key of this configuration; the nearest is seed\n"),
        ([], "affectgpt-r1: rows.csv: is empty\n"),
    ],
)
def test_a_mistake_ends_a_run_before_it_begins_and_is_left_to_hydra_in_a_multirun(overrides, said, capsys, monkeypatch):
    def enter():
        with clear_errors(fake_job(monkeypatch, overrides, "RUN")):
            raise DataError("rows.csv: is empty")

    assert refused(lambda _: enter(), [], capsys) == said
    with pytest.raises((ConfigError, DataError)), clear_errors(fake_job(monkeypatch, overrides, "MULTIRUN")):
        raise DataError("rows.csv: is empty")


@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only")])
def test_a_full_or_locked_disk_is_one_line(code, said, capsys, monkeypatch):
    def enter():
        with clear_errors(fake_job(monkeypatch, [], "RUN")):
            raise OSError(code, os.strerror(code), "/outputs/run.json")

    printed = refused(lambda _: enter(), [], capsys)
    assert printed.startswith(f"affectgpt-r1: /outputs/run.json: {said}")
    assert "paths.outputs=" in printed
    with pytest.raises(FileNotFoundError), clear_errors(fake_job(monkeypatch, [], "RUN")):
        Path("/nowhere/at/all").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tflops", "0"], "must be above 0"),
        (["--tflops", "nan"], "must be above 0"),
        (["--gpus", "0"], "must be above 0"),
        (["experiment=demo/grpo", "paths.root=/nowhere", "--tflops", "1"], "No tokenizer at /nowhere/data"),
        (["experiment=affectgpt_r1/grpo", "--tflops", "1", "--json", "/proc/x/plan.json"], "cannot be written"),
    ],
)
def test_plan(arguments: list[str], complaint: str, capsys):
    assert complaint in refused(plan, arguments, capsys)


def test_export_and_convert_name_the_output_that_cannot_be_written(tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    printed = refused(export, ["init_from=any.ckpt", "--output", str(tmp_path / "file" / "folder")], capsys)
    assert "--output" in printed
    assert "folder: cannot be written: Not a directory; choose another --output" in printed
    monkeypatch.setattr("affectgpt_r1.config.import_affectgpt.published_settings", lambda *given: {})
    monkeypatch.setattr("affectgpt_r1.config.import_affectgpt._our_state", lambda *given: {})
    torch.save({"weight": torch.zeros(1)}, tmp_path / "released.pth")
    output = str(tmp_path / "file" / "ours")
    assert "cannot be written" in refused(convert, [str(tmp_path / "released.pth"), "--output", output], capsys)


@pytest.mark.parametrize(
    ("given", "key", "remedy"),
    [
        (["prompt=think"], "prompt.enable_thinking=false, here it is true", "give prompt=no_think, as "),
        (["data.visual=frame"], 'data.visual="face", here it is "frame"', 'give data.visual="face", as '),
        (["prompt.question=What?"], "prompt.question=", 'give prompt.question="Please'),
    ],
)
def test_export_with_another_prompt_than_in_training_is_refused(tmp_path: Path, capsys, given, key, remedy):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        trained = compose("train", ["experiment=demo/grpo", "data.visual=face"])
        config = resolved(trained)
    checkpoint = tmp_path / "best.ckpt"
    torch.save({"state_dict": {}, "config": config}, checkpoint)
    usual = [
        "experiment=demo/grpo",
        "data.visual=face",
        f"init_from={checkpoint}",
        "--output",
        str(tmp_path / "folder"),
    ]
    printed = refused(export, [*usual, *given], capsys)
    assert f"{checkpoint} was trained with {key}" in printed
    assert remedy in printed
    assert not (tmp_path / "folder").exists()


def test_no_advice_to_run_a_file(tmp_path: Path):
    (tmp_path / "labels.csv").write_text("name,openset\na,happy\n")
    with pytest.raises(Exception, match="weights_only") as raised:
        torch.load(tmp_path / "labels.csv", weights_only=True)
    assert first_sentence(raised.value) == "Weights only load failed"
    assert first_sentence(EOFError()) == "EOFError"


def test_convert_of_what_is_not_a_gguf_file(tmp_path: Path, capsys):
    (tmp_path / "model.gguf").write_text("junk")
    assert "model.gguf cannot be converted into" in refused(convert, [str(tmp_path / "model.gguf")], capsys)


def test_report_on_what_is_not_a_database(tmp_path: Path, capsys):
    assert "no MLflow database" in refused(report, ["--outputs", str(tmp_path)], capsys)
    (tmp_path / "mlflow.db").write_text("junk")
    assert "this is not an SQLite database" in refused(report, ["--outputs", str(tmp_path)], capsys)
    for damaged in (b"SQLite format 3\x00" + b"junk" * 2000, _database(tmp_path / "whole.db")[:9000]):
        (tmp_path / "mlflow.db").write_bytes(damaged)
        printed = refused(report, ["--outputs", str(tmp_path)], capsys)
        assert "mlflow.db: the MLflow database is damaged" in printed
        assert "restore it" in printed


def _database(path: Path) -> bytes:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table experiments (name text)")
        connection.executemany("insert into experiments values (?)", [("x" * 500,)] * 100)
    return path.read_bytes()


def test_score_says_why_targets_of_another_language_have_no_score(tmp_path: Path, capsys):
    (tmp_path / "rows.csv").write_text('name,openset\na,"快乐,悲伤"\n', encoding="utf-8")
    score(["--predictions", str(tmp_path / "rows.csv"), "--targets", str(tmp_path / "rows.csv")])
    assert "Nothing counts: no label of" in capsys.readouterr().out


def test_score_reads_tabs_and_says_so(tmp_path: Path, capsys):
    (tmp_path / "rows.csv").write_text("name\topenset\na\thappy\n", encoding="utf-8")
    score(["--predictions", str(tmp_path / "rows.csv"), "--targets", str(tmp_path / "rows.csv")])
    assert "rows.csv: has tabs between its cells, and was read so." in capsys.readouterr().out.replace("\n", "")


def test_a_run_folder_that_cannot_be_made_is_named_but_other_missing_files_are_not_hidden(capsys, tmp_path: Path):
    (tmp_path / "file").write_text("")

    def hydra_sets_up():
        (tmp_path / "file" / "run").mkdir(parents=True)

    assert "choose another by paths.outputs=" in refused(lambda _: run_with_clear_errors(hydra_sets_up), [], capsys)

    def _entry():
        (tmp_path / "gone").read_text()

    with pytest.raises(FileNotFoundError):
        run_with_clear_errors(_entry)


@pytest.mark.parametrize("key", ["num_frames", "image_size", "num_windows", "window_seconds"])
def test_media_settings_are_above_zero(key: str):
    with pytest.raises(ConfigError, match=rf"data\.{key}=0 must be above 0"):
        MediaSettings(**{key: 0})


@pytest.mark.parametrize("key", ["batch_size", "eval_batch_size"])
def test_batches_hold_a_clip(key: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"must be at least 1"):
        MERCaptionDataModule(tmp_path, **{key: 0})


def test_sft_does_not_learn_to_reason_from_nothing():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", overrides=["experiment=demo/sft", "prompt=think", "data.train_reasons=null"])
    with pytest.raises(ConfigError, match=r"data\.train_reasons, which is null"):
        build_data(config)


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141)])
def test_an_interruption_and_a_closed_pipe_are_no_tracebacks(raised, code: int, monkeypatch, tmp_path: Path):
    def interrupted():
        raise raised

    monkeypatch.setattr("affectgpt_r1.cli.score.main", interrupted)
    with (tmp_path / "output").open("w") as output:
        monkeypatch.setattr("sys.stdout", output)
        with pytest.raises(SystemExit) as stopped:
            cli.main(["score"])
    assert stopped.value.code == code


def test_what_a_command_imports_is_not_searched_for_garbage(tmp_path, monkeypatch):
    (tmp_path / "heavy.py").write_text(
        "import gc; collects = gc.isenabled(); answer = str; kept = [[] for _ in range(1000)]"
    )
    monkeypatch.setattr(affectgpt_r1, "__path__", [str(tmp_path)])
    before = gc.get_freeze_count()
    try:
        assert lazy("heavy:answer")() == ""
        module = sys.modules.pop("affectgpt_r1.heavy")
        assert (module.collects, gc.isenabled()) == (False, True)
        assert gc.get_freeze_count() >= before + 1000
    finally:
        gc.unfreeze()
