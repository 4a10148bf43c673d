"""Train one stage: ``affectgpt-r1 train experiment=demo/sft``."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import hydra
from omegaconf import DictConfig

from affectgpt_r1.cli.command import lazy
from affectgpt_r1.cli.composed_command import run_hydra_command
from affectgpt_r1.config.compose import CONFIGS, clear_errors

run_or_resume = lazy("config.run:run_or_resume")
evaluate_test_split = lazy("evaluation.evaluate_policy:evaluate_test_split")
run_trial = lazy("config.sweep:run_trial")


def train(config: DictConfig) -> dict[str, float]:
    """Train by the composed ``configs/train.yaml``; returns the last logged metrics, ``best`` among them."""
    metrics: dict[str, float] = run_or_resume(config, evaluate_test_split)
    return metrics


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def _entry(config: DictConfig) -> float:
    with clear_errors(config):
        if config.sweep.name is None:
            return train(config).get("best", float("nan"))
        objective: float = run_trial(config, train)
        return objective


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    # Lightning starts the other processes by `python -m <name of this spec>`, or by sys.argv[0] if there is none.
    sys.modules["__main__"].__spec__ = find_spec("affectgpt_r1.cli.train")
    run_hydra_command("train", _entry)


if __name__ == "__main__":
    main()
