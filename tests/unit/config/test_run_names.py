"""What decides the folder of a run: its stage, and what the command line changes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.config.run_names import LONGEST, run_name


@cache
def _composed(entry: str, overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(entry, [*overrides, "paths.outputs=/o"], return_hydra_config=True)


@pytest.fixture
def job(monkeypatch, tmp_path):
    """``job(entry, *overrides, swept=())``: the configuration as a job of Hydra's sees it.

    Composed with what a name or a folder is made of only, since that takes long.
    """

    def build(entry: str, *overrides: str, swept: tuple[str, ...] | None = None, written: bool = True) -> DictConfig:
        keys = ("experiment", "debug", "prompt", "seed", "experiment_name")
        config = _composed(entry, tuple(one for one in overrides if one.partition("=")[0] in keys)).copy()
        OmegaConf.set_readonly(config.hydra, False)
        config.hydra.overrides.task = list(overrides)
        config.hydra.mode, config.hydra.sweep.dir = "RUN" if swept is None else "MULTIRUN", str(tmp_path)
        if swept is not None and written:
            of_the_sweep = {"overrides": {"task": list(swept)}, "sweeper": {"params": None}}
            OmegaConf.save({"hydra": of_the_sweep}, tmp_path / "multirun.yaml")
        monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
        HydraConfig.instance().set_config(config)
        return config

    return build


@pytest.fixture
def folder_of(job):
    """``folder_of(entry, *overrides)``: the run's folder, seen from the outputs."""
    return lambda *given, **options: str(Path(job(*given, **options).paths.run).relative_to("/o"))


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        ("experiment=demo/grpo", "demo-no_think-seed1/grpo"),
        (
            "experiment=demo/grpo stage.beta=0.04 penalty=ratio",
            "demo-no_think-seed1/grpo+penalty-ratio+stage.beta-0.04",
        ),
        (
            "experiment=demo/grpo penalty=ratio stage.beta=0.04",
            "demo-no_think-seed1/grpo+penalty-ratio+stage.beta-0.04",
        ),
        (
            "experiment=demo/grpo reward/parts=[accuracy,dual]",
            "demo-no_think-seed1/grpo+reward.parts-accuracy_dual-00e70c24",
        ),
        ("experiment=demo/grpo seed=3 prompt=think", "demo-think-seed3/grpo"),
        (
            "experiment=demo/grpo prompt.max_completion_length=9",
            "demo-no_think-seed1/grpo+prompt.max_completion_length-9",
        ),
        ("experiment=demo/sft data.batch_size=4 experiment_name=t", "t/sft"),
        ("experiment=demo/sft logger=none callbacks=none num_threads=2 data.num_workers=1", "demo-no_think-seed1/sft"),
        ("experiment=demo/sft trainer=ddp trainer.devices=2 evaluate_after=true", "demo-no_think-seed1/sft"),
        ("experiment=demo/sft ckpt_path=last overwrite=true paths.data=/d", "demo-no_think-seed1/sft"),
        ("experiment=affectgpt_r1/grpo stage.beta=0.1", "affectgpt-r1-think-seed1/grpo+stage.beta-0.1"),
        ("experiment=demo/pretrain_encoders trainer.max_steps=2", "pretrain_encoders"),
        ("experiment=demo/grpo penalty=ratio debug=fast", "debug/demo-no_think-seed1/grpo"),
        ("experiment=demo/pretrain_encoders debug=overfit", "debug/demo-no_think-seed1/pretrain_encoders"),
        (
            "experiment=demo/control match_wall_time=/o/demo-no_think-seed1/grpo+penalty-ratio/run.json",
            "demo-no_think-seed1/control+match_wall_time-grpo_penalty-ratio-6cab3aff",
        ),
    ],
)
def test_folder_of_a_training_run(folder_of, overrides, folder):
    assert folder_of("train", *overrides.split()) == folder


@pytest.mark.parametrize(
    ("overrides", "swept", "folder"),
    [
        ("optim.optimizer.lr=0.1 data.batch_size=4", "optim.optimizer.lr=0.1,0.2", "sft+optim.optimizer.lr-0.1"),
        ("optim.optimizer.lr=0.1 experiment_name=t", "optim.optimizer.lr=0.1,0.2", "sft+optim.optimizer.lr-0.1"),
        ("seed=2 data.batch_size=4", "seed=1,2 data.batch_size=4", "sft"),
        ("seed=2 experiment_name=t", "seed=1,2", "sft+seed-2"),
        ("data.num_workers=2", "data.num_workers=1,2", "sft+data.num_workers-2"),
        ("experiment=demo/sft", "experiment=demo/sft,demo/grpo", "sft"),
    ],
)
def test_a_sweep_names_what_it_varies(folder_of, overrides, swept, folder):
    found = folder_of("train", *overrides.split(), swept=tuple(swept.split()))
    assert found.partition("/")[2] == folder


def test_a_sweep_of_another_sweeper_names_all_that_is_given(folder_of):
    found = folder_of("train", "seed=2", "data.batch_size=4", swept=(), written=False)
    assert found == "demo-no_think-seed2/sft+data.batch_size-4"


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        ("", "demo-no_think-seed1"),
        ("seed=2 logger=none data.eval_batch_size=4", "demo-no_think-seed2"),
        ("experiment_name=t", "t"),
        ("num_clips=10 experiment_name=t", "t/evaluate+num_clips-10"),
        ("systems.grpo=/o/demo-no_think-seed1/grpo/checkpoints/best.ckpt", "demo-no_think-seed1"),
        (
            "systems.grpo=/o/demo-no_think-seed1/grpo+penalty-ratio/checkpoints/best.ckpt",
            "demo-no_think-seed1/evaluate+systems.grpo-grpo_penalty-ratio-5fde529b",
        ),
    ],
)
def test_folder_of_an_evaluation(folder_of, overrides, folder):
    assert folder_of("evaluate", *overrides.split()) == folder


def test_the_mlflow_run_is_called_as_its_folder(job):
    assert job("train", "experiment=demo/grpo", "penalty=ratio").logger.mlflow.run_name == "grpo+penalty-ratio-seed1"
    assert job("evaluate").logger.mlflow.run_name == "evaluate-seed1"


@pytest.mark.parametrize("value", ["[video,text]", "{r: 4, alpha: 8}", "größer", "a=b", "x" * 200, "/data/ü/a b.csv"])
def test_a_folder_can_be_given_to_hydra_unquoted_and_differs_with_the_value(value):
    name = run_name("sft", {"data.modalities": value, "stage.beta": "-1"})
    assert len(name) <= LONGEST
    parsed = OverridesParser.create().parse_override(f"init_from=/o/{name}/checkpoints/best.ckpt")
    assert not parsed.is_sweep_override()
    assert parsed.value() == f"/o/{name}/checkpoints/best.ckpt"
    assert name != run_name("sft", {"data.modalities": value + "+", "stage.beta": "-1"})
