"""Instantiating what is allowed, and saying clearly what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from affectgpt_r1.config import targets
from affectgpt_r1.config.compose import (
    CONFIGS,
    check_keys,
    explain,
    instantiate,
    instantiate_stage,
    resolved,
    run_with_clear_errors,
)
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.training.sft import SFTStage
from affectgpt_r1.types import Sampling


def error_of(*overrides: str) -> str:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(HydraException) as caught:
        compose("train", overrides=list(overrides))
    return explain(caught.value, overrides)


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("stage.bata=0.1", "stage.beta"),
        ("trainer.max_step=3", "trainer.max_steps"),
        ("sed=3", "seed"),
        ("optim.optimizer.learning_rate=1", "optim.optimizer.lr"),
        ("data.batchsize=4", "data.batch_size"),
        ("stgae=grpo", "stage"),
        ("model.language_model.hiden_size=8", "model.language_model.hidden_size"),
    ],
)
def test_a_misspelt_key_names_the_nearest(override, nearest):
    message = error_of("experiment=demo/grpo", override)
    assert message == f"{override.split('=')[0]} is not a key of this configuration; the nearest is {nearest}"


def test_a_misspelt_choice_names_the_nearest_and_lists_the_choices():
    assert error_of("stage=grop") == (
        f"stage=grop: there is no {CONFIGS}/stage/grop.yaml; "
        "the nearest is grpo, and there are chord, control, grpo, pretrain_encoders, sft"
    )


def test_a_misspelt_choice_in_a_folder_of_a_group_names_the_nearest():
    message = error_of("experiment=demo/gpro")
    assert message.startswith(f"experiment=demo/gpro: there is no {CONFIGS}/experiment/demo/gpro.yaml; ")
    assert "the nearest is demo/grpo, and there are affectgpt/mercaption, " in message
    assert "the nearest is format, and there are accuracy, " in error_of("reward/parts=[accuracy,fromat]")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["experiment=demo/sft", "stage.beta=1"],
            "stage.beta is not a key of this configuration; it belongs to stage=grpo",
        ),
        (["xyzzy=1"], "xyzzy is not a key of this configuration; configs/README.md lists them"),
        (
            ["experiment=demo/grpo", "optim.lr=1"],
            "optim.lr is not a key of this configuration; the nearest is optim.optimizer.lr",
        ),
        (["emotion.qqqqqqqqqqqq=1"], "emotion.qqqqqqqqqqqq is not a key of this configuration; emotion has lexicon"),
        (["experiment", "sft"], "experiment: overrides are KEY=VALUE, without blanks"),
        (["+experiment=demo/sft"], "+experiment= is given twice: leave out the +"),
    ],
)
def test_what_hydra_refuses_is_said_in_one_line(overrides, message):
    assert error_of(*overrides) == message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+foo=3", "foo is not a key of this configuration; configs/README.md lists them"),
        ("+sede=3", "sede is not a key of this configuration; the nearest is seed"),
        ("+stage.bta=1", "stage.bta is not a key of this configuration; the nearest is stage.beta"),
        ("+data.bathc_size=1", "data.bathc_size is not a key of this configuration; the nearest is data.batch_size"),
        (
            "+prompt.enable_thinkin=true",
            "prompt.enable_thinkin is not a key of this configuration; the nearest is prompt.enable_thinking",
        ),
        ("+trainer.limit_val_batch=1", "the nearest is trainer.limit_val_batches"),
        ("+reward.rewards.format.strikt=true", "reward.rewards.format.strikt is not a key"),
        (
            "+callbacks.mine={_target_: affectgpt_r1.callbacks.hacking_alarm.RewardHackingAlarm, monitr: x}",
            "mine.monitor",
        ),
    ],
)
def test_a_key_that_nothing_reads_is_refused_though_hydra_takes_it(override, said):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", overrides=["experiment=demo/grpo", override])
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_keys(config)


@pytest.mark.parametrize(
    "override",
    [
        "+trainer.limit_val_batches=2",  # an argument of Lightning's Trainer that configs/ does not name
        "+trainer.strategy={_target_: lightning.pytorch.strategies.DDPStrategy, gradient_as_bucket_view: true}",
        "+model.language_model.rope_theta=1e6",  # passed to transformers
        "+logger.mlflow.tags.who=me",
        "+callbacks.mine={_target_: affectgpt_r1.callbacks.hacking_alarm.RewardHackingAlarm, monitor: x}",
        "model.lora={r: 4, alpha: 8, dropout: 0.0, target_modules: [q_proj]}",
        "stage.max_resamples=2",
    ],
)
def test_keys_that_something_reads_are_taken(override):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        check_keys(compose("train", overrides=["experiment=demo/grpo", override]))


def test_instantiate_builds_nested_objects_and_takes_arguments():
    built = instantiate(
        OmegaConf.create({"a": {"_target_": "affectgpt_r1.types.Sampling", "top_k": "${b}"}, "b": 7}), "stage"
    )
    assert built == {"a": Sampling(top_k=7), "b": 7}
    assert instantiate({"_target_": "affectgpt_r1.types.Sampling"}, "stage", top_p=0.5) == Sampling(top_p=0.5)


def test_a_target_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setitem(targets.LIBRARY_TARGETS, "gone", ("affectgpt_r1.types.Samplink", "affectgpt_r1.nothing.A"))
    for target in targets.LIBRARY_TARGETS["gone"]:
        with pytest.raises(ConfigError, match=f"^gone: Error locating target '{target}'"):
            instantiate({"_target_": target}, "gone")


def test_stage_keys_are_not_arguments():
    stage = OmegaConf.create(
        {"_target_": "affectgpt_r1.training.sft.SFTStage", "name": "sft", "monitor": "m", "mode": "max"}
    )
    assert isinstance(instantiate_stage(stage), SFTStage)


def test_resolved_leaves_no_interpolation():
    assert resolved(OmegaConf.create({"a": {"b": 1}, "c": ["${a.b}"], "d": "${working_directory:}"})) == {
        "a": {"b": 1},
        "c": [1],
        "d": str(Path.cwd()),
    }


def test_a_users_mistake_is_one_line_and_exit_code_two(capsys, monkeypatch):
    def fail() -> None:
        raise ConfigError("stage.beta is wrong: set it")

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("sys.argv", ["affectgpt-r1 train"])
    with pytest.raises(SystemExit) as caught:
        run_with_clear_errors(fail)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "affectgpt-r1 train: stage.beta is wrong: set it\n"


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(ZeroDivisionError):
        run_with_clear_errors(fail)


def test_what_a_target_refuses_comes_without_hydras_words():
    with pytest.raises(ConfigError, match=r"^data\.batch_size and data\.eval_batch_size must be at least 1$"):
        instantiate(
            {"_target_": "affectgpt_r1.data.datamodule.MERCaptionDataModule", "root": "x", "batch_size": 0}, "data"
        )
