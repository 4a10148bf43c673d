"""What a run finds in its folder: nothing, itself, or another run, which it does not touch."""

from __future__ import annotations

import json
import logging
import shutil
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig

from affectgpt_r1.config.instantiate import checkpoint_to_resume
from affectgpt_r1.config.run_folder import (
    began_here,
    begin,
    check_may_train,
    config_hash,
    is_outdated,
    log_file,
    look_up,
    recorded_metrics,
)
from affectgpt_r1.errors import CheckpointError, ConfigError
from helpers.configs import compose_config


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    return compose_config("train", *overrides, "experiment_name=t")


@pytest.fixture
def composed(tmp_path):
    """``composed(*overrides)``: ``experiment=demo/sft`` in ``outputs/t/sft``; values are set where they can be."""

    def build(*overrides: str, outputs: Path = tmp_path / "outputs", experiment: str = "sft") -> DictConfig:
        groups = tuple(
            one for one in overrides if one.startswith(("+", "logger=", "callbacks=", "debug=", "model.lora"))
        )
        config = _composed((f"experiment=demo/{experiment}", *groups)).copy()
        config.paths.outputs = str(outputs)
        config.merge_with_dotlist([one for one in overrides if one not in groups])
        return config

    return build


def leave(config, *, finished: bool = True, last: bool = True, **record) -> Path:
    """What a run of this configuration leaves."""
    folder = Path(config.paths.run)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    begin(config)
    (folder / "checkpoints").mkdir(exist_ok=True)
    for name in ("best.ckpt", *(("last.ckpt",) if last else ())):
        (folder / "checkpoints" / name).write_bytes(b"weights")
    if finished:
        (folder / "run.json").write_text(json.dumps({"config_hash": config_hash(config), **record}))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(config, error: type[Exception] = ConfigError) -> str:
    """The message; nothing in the folder changes."""
    folder = Path(config.paths.run)
    before = files_of(folder)
    with pytest.raises(error) as raised:
        check_may_train(config, look_up(config))
    assert files_of(folder) == before
    return str(raised.value)


def test_a_new_folder_and_one_whose_run_failed_before_its_first_checkpoint_are_new(composed):
    config = composed()
    assert look_up(config).state == "new"
    begin(composed("seed=2"))
    assert look_up(config).state == "new"
    check_may_train(config, look_up(config))


def test_the_same_run_is_finished_or_goes_on(composed):
    config = composed("stage.monitor=val/loss")
    folder = leave(config, metrics={"train/loss": 0.5, "val/f1": None}, best=0.25)
    assert look_up(config) == ("finished", ())
    metrics = recorded_metrics(folder)
    assert (metrics["train/loss"], metrics["best"]) == (0.5, 0.25)
    assert metrics["val/f1"] != metrics["val/f1"]
    (folder / "run.json").unlink()
    assert look_up(config) == ("unfinished", ())
    check_may_train(config, look_up(config))


@pytest.mark.parametrize(
    "override",
    [
        *("logger=none", "callbacks=none", "num_threads=2", "data.num_workers=3", "evaluate_after=true"),
        *("data.eval_batch_size=3", "trainer.log_every_n_steps=1", "paths.features=/elsewhere", "experiment_name=t2"),
    ],
)
def test_what_changes_no_weight_does_not_tell_runs_apart(composed, override):
    folder = leave(composed())
    assert look_up(composed(override, f"paths.run={folder}")) == ("finished", ())


@pytest.mark.parametrize(
    ("override", "said", "finished"),
    [
        ("optim.optimizer.lr=0.5", "optim.optimizer.lr=0.002 (here 0.5)", True),
        ("seed=2", "seed=1 (here 2)", False),
        ("paths.data=/data/own", "data.root=<root>/data/synthetic (here /data/own)", True),
        ("+optim.optimizer.eps=0.1", "optim.optimizer.eps=null (here 0.1)", False),
        ("model.lora={r: 4, alpha: 8, dropout: 0.0, target_modules: [q_proj]}", "model.lora", True),
        ("trainer.devices=2", "trainer.devices=1 (here 2)", False),
    ],
)
def test_another_run_is_refused_with_the_key_and_the_remedies(composed, override, said, finished):
    leave(composed(), finished=finished)
    message = refused(composed(override))
    assert said in message
    assert f"holds {'a finished' if finished else 'an unfinished'} run with" in message
    assert "paths.run=FOLDER to keep both, or overwrite=true" in message


def test_a_run_that_was_to_train_longer_and_was_cut_is_not_finished(composed):
    """``run.json`` is that of the shorter run, which had ended."""
    folder = leave(composed("trainer.max_steps=4"))
    longer = composed("trainer.max_steps=8", "ckpt_path=last")
    check_may_train(longer, look_up(longer))
    begin(longer)
    assert (folder / "run.json").is_file()
    assert look_up(composed("trainer.max_steps=8")) == ("unfinished", ())
    assert "trainer.max_steps=8 (here 4)" in refused(composed("trainer.max_steps=4"))


def test_a_checkpoint_that_was_trained_again_makes_another_run(composed, tmp_path):
    start = tmp_path / "start.ckpt"
    start.write_bytes(b"first")
    leave(composed(f"init_from={start}"))
    assert look_up(composed(f"init_from={start}")) == ("finished", ())
    start.write_bytes(b"second")
    assert f"init_from={start} (which has changed since .hydra/start.json was written)" in refused(
        composed(f"init_from={start}")
    )


def test_a_control_of_a_run_with_another_wall_time_is_another_run(composed, tmp_path):
    run = tmp_path / "outputs" / "t" / "grpo" / "run.json"
    run.parent.mkdir(parents=True)
    run.write_text(json.dumps({"fit_seconds": 10.0}))
    leave(composed(experiment="control"))
    assert look_up(composed(f"match_wall_time={run}", experiment="control")) == ("finished", ())
    run.write_text(json.dumps({"fit_seconds": 20.0}))
    assert f"match_wall_time={run} (which has changed since .hydra/start.json was written)" in refused(
        composed(experiment="control")
    )


def test_a_moved_folder_holds_the_same_run(composed, tmp_path):
    config = composed(experiment="grpo")
    leave(config)
    shutil.move(tmp_path / "outputs", tmp_path / "moved")
    moved = composed(experiment="grpo", outputs=tmp_path / "moved")
    assert look_up(moved) == ("finished", ())
    given = f"init_from={tmp_path}/moved/t/sft/checkpoints/best.ckpt"  # the default, written out
    assert look_up(composed(given, experiment="grpo", outputs=tmp_path / "moved")) == ("finished", ())


def test_a_checkpoint_from_elsewhere_does_not_replace_a_run(composed, tmp_path):
    folder = leave(composed())
    message = refused(composed(f"ckpt_path={tmp_path}/other/last.ckpt"))
    assert "which ckpt_path=" in message
    assert "ckpt_path=last to continue the run that is there" in message
    for allowed in ("ckpt_path=last", f"ckpt_path={folder}/checkpoints/best.ckpt"):
        config = composed(allowed, "seed=2")
        check_may_train(config, look_up(config))
    assert "give only one" in refused(composed("ckpt_path=last", "overwrite=true"))


def test_what_cannot_go_on_is_refused(composed):
    folder = leave(composed(), finished=False, last=False)
    (folder / "checkpoints" / "best.ckpt").rename(folder / "checkpoints" / "early.ckpt")
    assert "without checkpoints/last.ckpt" in refused(composed(), CheckpointError)


def test_a_run_killed_between_its_first_best_and_its_first_last_checkpoint_continues_from_the_best(composed):
    config = composed()
    folder = leave(config, finished=False, last=False)
    assert look_up(config) == ("unfinished", ())
    check_may_train(config, look_up(config))
    config.ckpt_path = "last"
    assert checkpoint_to_resume(config) == folder / "checkpoints" / "best.ckpt"
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"weights")
    assert checkpoint_to_resume(config) == folder / "checkpoints" / "last.ckpt"


def test_a_run_from_elsewhere_that_was_killed_before_its_first_last_checkpoint_begins_again(composed, tmp_path):
    """Its best.ckpt is a copy of the other run's, whose steps it must not take for its own."""
    config = composed(f"ckpt_path={tmp_path}/other/last.ckpt")
    leave(config, finished=False, last=False)
    assert look_up(config).state == "new"
    for other in (composed(), composed("seed=2", f"ckpt_path={tmp_path}/other/last.ckpt")):
        assert look_up(other).state == "unfinished"


def test_a_run_whose_configuration_is_not_known_is_not_replaced(composed):
    folder = leave(composed())
    shutil.rmtree(folder / ".hydra")
    assert "with a configuration that is not recorded" in refused(composed())
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text("seed: [")
    assert "with a configuration that cannot be read" in refused(composed())


def test_a_finished_run_without_test_figures_says_how_to_get_them(composed):
    leave(composed())
    assert "ckpt_path=last as well to answer the test clips" in refused(composed("evaluate_after=true"))


def test_overwrite_removes_what_runs_make_and_nothing_else(composed):
    folder = leave(composed())
    (folder / "notes.txt").write_text("mine")
    (folder / "nonfinite_step_000003.jsonl").write_text("{}")
    config = composed("seed=2", "overwrite=true")
    check_may_train(config, look_up(config))
    assert (folder / "run.json").is_file()
    begin(config)
    left = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert left == ["config.yaml", "notes.txt", "overrides.yaml", "start.json"]


@pytest.mark.parametrize("kept", range(1, 4))
def test_a_run_whose_removal_was_killed_does_not_pass_for_finished(composed, monkeypatch, kept):
    folder = leave(composed())
    (folder / "test").mkdir()

    class KilledError(Exception):
        pass

    removed = []

    def remove(path):
        removed.append(path)
        if len(removed) == kept:
            raise KilledError

    monkeypatch.setattr("affectgpt_r1.config.run_folder.shutil.rmtree", remove)
    with pytest.raises(KilledError):
        begin(composed("overwrite=true"))
    assert look_up(composed()).state == "new"


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:40], lambda content: b"\0\xff" * 99])
@pytest.mark.parametrize(("name", "finished"), [(".hydra/config.yaml", True), (".hydra/start.json", False)])
def test_a_damaged_file_is_named_and_the_checkpoint_still_continues(composed, name, damage, finished, tmp_path):
    folder = leave(composed(), finished=finished)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    config = composed()
    message = refused(config)
    assert f"cannot be read ({folder / name}); ckpt_path=last continues by the settings in the checkpoint" in message
    assert not began_here(composed(f"ckpt_path={tmp_path}/other.ckpt"), look_up(config))
    again = composed("ckpt_path=last")
    check_may_train(again, look_up(again))
    begin(again)
    assert look_up(config) == ("finished" if finished else "unfinished", ())


def test_only_a_run_whose_start_was_trained_again_is_outdated(composed, tmp_path):
    start = tmp_path / "grpo.json"
    start.write_text('{"fit_seconds": 10.0}')
    config = composed(f"match_wall_time={start}")
    assert not is_outdated(look_up(config))
    leave(config)
    assert not is_outdated(look_up(config))
    start.write_text('{"fit_seconds": 20.0}')
    assert is_outdated(look_up(config))
    assert not is_outdated(look_up(composed(f"match_wall_time={start}", "seed=2")))


def test_a_log_that_cannot_be_written_says_so_once(tmp_path, capsys):
    (tmp_path / "train.log").symlink_to("/dev/full")
    with log_file(tmp_path):
        for number in range(3):
            logging.getLogger("affectgpt_r1").warning("line %d", number)
    lines = [line for line in capsys.readouterr().err.splitlines() if "train.log" in line]
    assert lines == [
        f"{tmp_path}/train.log: cannot be written: No space left on device; make room, or choose another paths.outputs="
    ]


def test_a_debug_run_replaces_a_debug_run_and_no_other(composed):
    folder = leave(composed("debug=overfit"), finished=False)
    assert folder.parts[-3:] == ("debug", "t", "sft")
    again = composed("debug=overfit", "seed=2")
    check_may_train(again, look_up(again))
    real = leave(composed())
    assert "holds a finished run" in refused(composed("debug=overfit", f"paths.run={real}"))


def test_files_that_no_run_made_stay(composed):
    """``paths.run=FOLDER`` may name a folder that holds something of the user's."""
    folder = Path(composed().paths.run)
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "mine.csv").write_text("mine")
    assert look_up(composed()).state == "new"
    begin(composed())
    assert (folder / "test" / "mine.csv").read_text() == "mine"


def test_overwrite_does_not_remove_what_the_run_starts_from(composed):
    folder = leave(composed())
    config = composed("seed=2", "overwrite=true", f"init_from={folder}/checkpoints/best.ckpt")
    assert "overwrite=true would remove init_from=" in refused(config)


def test_a_run_that_began_from_another_runs_checkpoint_continues_by_the_same_command(composed, tmp_path):
    start = f"ckpt_path={tmp_path}/other/last.ckpt"
    leave(composed(start), finished=False)
    config = composed(start)
    assert began_here(config, look_up(config))
    for other in (
        composed(f"ckpt_path={tmp_path}/another/last.ckpt"),
        composed(start, "seed=2"),
        composed("ckpt_path=last"),
    ):
        assert not began_here(other, look_up(other))
    begin(composed("ckpt_path=last"))  # what that command makes of itself; it is killed, and given a third time
    assert began_here(config, look_up(config))
