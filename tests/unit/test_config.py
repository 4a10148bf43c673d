"""Instantiating what is allowed, and saying clearly what is wrong."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from affectgpt_r1 import config as config_module
from affectgpt_r1.config import CONFIGS, explain, instantiate, instantiate_stage, resolved, run_with_clear_errors
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.stages.sft import SFTStage
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
    message = error_of("experiment=grpo", override)
    assert f"{override.split('=')[0]} is no key of this configuration; the nearest is {nearest}" in message.splitlines()


def test_a_misspelt_choice_lists_the_choices():
    message = error_of("stage=grop")
    assert "stage/grop" in message
    assert {"grpo", "sft", "towers"} <= set(message.split())
    assert "is no key" not in message


def test_flags_and_right_keys_are_not_called_wrong():
    overrides = ["--cfg", "job", "seed=3", "stage=grpo", "data=ovmer", "+experiment=grpo", "stage.beta=1"]
    assert explain(HydraException("what Hydra said"), overrides) == "what Hydra said"


def test_instantiate_builds_nested_objects_and_takes_arguments():
    built = instantiate(OmegaConf.create({"a": {"_target_": "affectgpt_r1.types.Sampling", "top_k": "${b}"}, "b": 7}))
    assert built == {"a": Sampling(top_k=7), "b": 7}
    assert instantiate({"_target_": "affectgpt_r1.types.Sampling"}, top_p=0.5) == Sampling(top_p=0.5)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.load",
        "affectgpt_r1_other.run",
        "affectgpt_r1.config.os.system",  # imported there, at home elsewhere
        "affectgpt_r1.config.sys.exit",
        "lightning.pytorch.trainer.trainer.os.system",
    ],
)
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: {"deep": [{"callbacks": one}]}])
def test_targets_from_elsewhere_are_refused(target, wrap):
    with pytest.raises(ConfigError, match=rf"_target_: {target} is not allowed"):
        instantiate(wrap({"_target_": target, "command": "false"}))


@pytest.mark.parametrize("target", ["affectgpt_r1.types.Samplink", "affectgpt_r1.nothing.Sampling"])
def test_a_target_that_does_not_exist_is_named(target):
    with pytest.raises(ConfigError, match=f"{target} does not exist"):
        instantiate({"_target_": target})


def test_stage_keys_are_not_arguments():
    stage = OmegaConf.create(
        {"_target_": "affectgpt_r1.stages.sft.SFTStage", "name": "sft", "monitor": "m", "mode": "max"}
    )
    assert isinstance(instantiate_stage(stage), SFTStage)


def test_resolved_leaves_no_interpolation():
    assert resolved(OmegaConf.create({"a": {"b": 1}, "c": ["${a.b}"], "d": "${repository:}"})) == {
        "a": {"b": 1},
        "c": [1],
        "d": str(config_module.REPOSITORY),
    }


def test_a_users_mistake_is_one_line_and_exit_code_two(capsys, monkeypatch):
    def fail() -> None:
        raise ConfigError("stage.beta is wrong: set it")

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit) as caught:
        run_with_clear_errors(fail)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: stage.beta is wrong: set it\n"


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(ZeroDivisionError):
        run_with_clear_errors(fail)
