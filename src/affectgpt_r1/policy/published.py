"""Reading what others published: pickled weights, without running code that may be in them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.checkpoint import first_sentence


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled checkpoint, by name, read with ``weights_only=True``.

    Args:
        path: A state dict, or a dict that holds one under ``model`` or ``state_dict``.

    Raises:
        CheckpointError: There is no such file, it holds anything but tensors and plain values, or no tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}; correct the path")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise nearly anything: IndexError, UnicodeDecodeError, struct.error
        raise CheckpointError(
            f"{path} cannot be read as weights alone ({first_sentence(error)}); it is damaged, or it holds code, "
            "which is not run: ask its author for safetensors"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {str(name): one for name, one in content.items()} if isinstance(content, dict) else {}
    tensors = {name: one for name, one in tensors.items() if isinstance(one, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors: it is no checkpoint of a model")
    return tensors
