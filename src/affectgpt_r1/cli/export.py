"""Write a checkpoint as a Hugging Face folder: ``affectgpt-r1 export init_from=CKPT --output FOLDER``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from affectgpt_r1.cli.command import lazy
from affectgpt_r1.cli.composed_command import run_composed_command
from affectgpt_r1.io.clean_text import printable

export = lazy("config.export_checkpoint:export")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="affectgpt-r1 export", description="Write a Hugging Face folder.")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("--kind", choices=("adapter", "merged"), default="merged")

    def work(options: argparse.Namespace, config: DictConfig) -> str:
        return str(export(config, options.output, options.kind, options.overrides))

    print(printable(run_composed_command(parser, work, arguments)))


if __name__ == "__main__":
    main()
