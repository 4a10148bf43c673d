"""Train one stage: ``affectgpt-r1 train experiment=demo/sft``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import hydra
from omegaconf import DictConfig

from affectgpt_r1.cli.command import PROGRAM, lazy
from affectgpt_r1.cli.composed_command import run_hydra_command
from affectgpt_r1.config.compose import CONFIGS, clear_errors
from affectgpt_r1.io.clean_text import printable

run_or_resume = lazy("config.run:run_or_resume")
evaluate_test_split = lazy("evaluation.evaluate_policy:evaluate_test_split")
run_trial = lazy("config.sweep:run_trial")


def train(config: DictConfig) -> dict[str, float]:
    """Train by the composed ``configs/train.yaml``; returns the last logged metrics, ``best`` among them."""
    metrics: dict[str, float] = run_or_resume(config, evaluate_test_split)
    return metrics


def opening(config: DictConfig) -> str:
    """Return the line that says what begins, where it is kept and where to watch it."""
    steps, epochs = (config.trainer.get(name) for name in ("max_steps", "max_epochs"))
    length = f"{steps} steps" if (steps or -1) > 0 else f"{epochs} epochs"
    if config.match_wall_time is not None:
        length = f"the wall time of {_shown(Path(config.match_wall_time))}"
    if config.trainer.get("fast_dev_run"):
        length = "one batch of training and validation"
    if not config.train:
        length = "no training"
    where = f"sweep {config.sweep.name}" if config.sweep.name else _shown(Path(config.paths.run))
    pages = "; watch it by `make mlflow` at http://127.0.0.1:5000" if "mlflow" in (config.logger or ()) else ""
    return printable(f"{config.stage.name}, seed {config.seed}: {length}, in {where}{pages}")


def closing(config: DictConfig, metrics: Mapping[str, float]) -> list[str]:
    """Return the lines that say what came out and which files to open next; of those, the ones that are there."""
    run = Path(config.paths.run)
    best = run / "checkpoints" / "best.ckpt"
    answers = config.stage.name != "pretrain_encoders"
    scores = [f"{name} {metrics[name]:.3f}" for name in ("best", "val/f1", "test/f1") if name in metrics]
    files = {
        best: f"try it: {PROGRAM} predict FILE --checkpoint {_shown(best)}" if answers else "its best weights",
        run / "run.json": "settings, times and last metrics",
        run / "test" / "answers.jsonl": "its answers to the test clips",
        run / "unreadable_clips.csv": "clips that could not be read",
    }
    lines = [f"  {_shown(file)}  ({what})" for file, what in files.items() if file.is_file()]
    return [printable(line) for line in ["  ".join([f"{config.stage.name} done", *scores]), *lines]]


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def _entry(config: DictConfig) -> float:
    with clear_errors(config):
        is_first = all(int(os.environ.get(name) or 0) == 0 for name in ("LOCAL_RANK", "NODE_RANK"))
        if is_first:
            print(opening(config), flush=True)  # now: torch and Lightning take seconds to load
        if config.sweep.name is None:
            metrics = train(config)
            if is_first:
                print("\n".join(closing(config, metrics)), flush=True)
            return metrics.get("best", float("nan"))
        objective: float = run_trial(config, train)
        return objective


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    # Lightning starts the other processes by `python -m <name of this spec>`, or by sys.argv[0] if there is none.
    sys.modules["__main__"].__spec__ = find_spec("affectgpt_r1.cli.train")
    run_hydra_command("train", _entry)


if __name__ == "__main__":
    main()
