"""A dozen synthetic clips, their tokenizer, briefly pretrained encoders and a policy, all made by the real code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from affectgpt_r1.cli.render import render
from affectgpt_r1.cli.train import train
from affectgpt_r1.distributed.sharding import full_tensor
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.training.module import AffectModule
from helpers.configs import compose_config
from helpers.mlflow_fixtures import database_template
from helpers.processes import TWO, become_rank, held_port, run_two
from helpers.recorded import generate_by_name, letters
from helpers.shared import made_once

__all__ = ["database_template"]

SMALL = (
    "trainer.log_every_n_steps=1",
    "callbacks.completions.console_rows=0",
    "callbacks.progress.every_n_steps=1",
    "data.eval_batch_size=4",
    "callbacks.modality_faithfulness.max_clips=0",
)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, database_template: Path) -> Path:
    """Make a folder with ``data/`` rendered, ``outputs/pretrain_encoders`` trained for two steps, and a database.

    The workers of pytest-xdist make it once and copy it.
    """

    def make(folder: Path) -> None:
        sizes = ("num_caption=6", "num_exact=4", "num_validation=3", "num_test=4", "workers=1", "vocab_size=400")
        render(compose_config("render", f"paths.data={folder}/data", *sizes))
        briefly = (*paths(folder), *steps(2), "trainer.val_check_interval=2", "logger=none", *SMALL)
        train(compose_config("train", "experiment=demo/pretrain_encoders", *briefly))
        shutil.copy(database_template, folder / "outputs")

    return shutil.copytree(
        made_once(tmp_path_factory, "workspace", make), tmp_path_factory.mktemp("workspace") / "copy"
    )


@pytest.fixture(scope="session")
def sft_run(run_stage: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a policy for two steps of SFT, to start from; nobody trains it further."""
    return run_stage("sft", tmp_path_factory.mktemp("sft") / "run", 2)


@pytest.fixture(scope="session")
def start(sft_run: Path) -> str:
    """Return ``init_from=``, with which a run starts from :func:`sft_run`."""
    return f"init_from={sft_run}/checkpoints/last.ckpt"


def paths(folder: Path) -> tuple[str, ...]:
    return (f"paths.data={folder}/data", f"paths.outputs={folder}/outputs", "experiment_name=test")


def steps(number: int) -> tuple[str, ...]:
    """Return overrides for ``number`` steps in epochs of three or two; the schedule does not depend on ``number``."""
    return (
        f"trainer.max_steps={number}",
        "trainer.val_check_interval=4",
        "data.batch_size=2",
        "optim.scheduler.total_steps=20",
    )


@pytest.fixture(scope="session")
def stage_overrides(workspace: Path) -> Callable[..., tuple[str, ...]]:
    """Return what :func:`run_stage` composes ``configs/train.yaml`` with."""

    def build(experiment: str, run_folder: Path, number: int, *overrides: str) -> tuple[str, ...]:
        return (
            f"experiment={experiment if '/' in experiment else f'demo/{experiment}'}",
            *paths(workspace),
            *steps(number),
            f"paths.run={run_folder}",
            *(override for override in ("logger=none",) if not any("logger=" in given for given in overrides)),
            *SMALL,
            *(("stage.mu.peak=0",) if experiment == "grpo" else ()),  # what is mixed in has tests of its own
            *overrides,
        )

    return build


@pytest.fixture(scope="session")
def run_stage(stage_overrides: Callable[..., tuple[str, ...]]) -> Callable[..., Path]:
    """Run a stage in this process; returns the run's folder."""

    def run(experiment: str, run_folder: Path, number: int, *overrides: str) -> Path:
        train(compose_config("train", *stage_overrides(experiment, run_folder, number, *overrides)))
        return run_folder

    return run


def _as_rank(rank: int, port: int, overrides: tuple[str, ...]) -> None:
    become_rank(rank, port)
    train(compose_config("train", *overrides))


@pytest.fixture
def run_on_two(stage_overrides):
    """Run a stage in two processes that share this one's imports, as a launcher from outside would."""

    def run(experiment: str, folder: Path, number: int, *overrides: str) -> Path:
        strategy = () if any(override.startswith("trainer=") for override in overrides) else ("trainer=ddp",)
        composed = stage_overrides(experiment, folder, number, *strategy, *TWO, *overrides)
        with held_port() as port:
            run_two(_as_rank, port, composed)
        return folder

    return run


@pytest.fixture
def kept_gradients(monkeypatch):
    """Let every process write the gradients of each optimizer step, as clipping sees them."""
    before = AffectModule.on_before_optimizer_step

    def keep(module, optimizer):
        before(module, optimizer)
        gradients = {
            name: full_tensor(param.grad).clone() for name, param in module.named_parameters() if param.grad is not None
        }
        folder = Path(module.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(gradients, folder / f"gradients_{module.global_step}_{module.global_rank}.pt")

    monkeypatch.setattr(AffectModule, "on_before_optimizer_step", keep)


@pytest.fixture
def rollout_by_name(monkeypatch):
    """Draw completions by the clip's name alone, and let the format reward be :func:`letters`."""
    monkeypatch.setattr(MultimodalPolicy, "generate", generate_by_name)
    monkeypatch.setattr(FormatReward, "__call__", letters)
