"""Compare trained policies on the test split: ``affectgpt-r1 evaluate``."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from affectgpt_r1.cli.command import lazy
from affectgpt_r1.cli.composed_command import run_hydra_command
from affectgpt_r1.config.compose import CONFIGS, clear_errors
from affectgpt_r1.io.clean_text import printable
from affectgpt_r1.io.console import get_console

evaluate = lazy("evaluation.compare_policies:evaluate")


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="evaluate")
def _entry(config: DictConfig) -> None:
    with clear_errors(config):
        evaluate(config, get_console().print)
        folder = Path(config.paths.run)
        print(printable(f"Written to {folder}: summary.json, tables.txt and the answers, predictions/*.jsonl"))


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    run_hydra_command("evaluate", _entry)


if __name__ == "__main__":
    main()
