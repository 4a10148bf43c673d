"""Render the synthetic clips and build their tokenizer: ``affectgpt-r1 render``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from affectgpt_r1.cli.command import lazy
from affectgpt_r1.cli.composed_command import run_hydra_command
from affectgpt_r1.config.compose import CONFIGS, clear_errors

render = lazy("config.render_demo:render")


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="render")
def _entry(config: DictConfig) -> None:
    with clear_errors(config):
        render(config)


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    run_hydra_command("render", _entry)


if __name__ == "__main__":
    main()
