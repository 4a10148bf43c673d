"""Read weights that others published and pickled, without running code that may be in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import torch
from torch import Tensor

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.checkpoint import first_sentence
from affectgpt_r1.policy.integrity import check_finite, load_verified


class Published(NamedTuple):
    """Tensors by published name, the configuration in the file as plain values, and the epoch where it names one."""

    tensors: dict[str, Tensor]
    config: Mapping[str, Any]
    epoch: int | None


def read_published(path: Path) -> Published:
    """Read a state dict, or a dict that has one under ``model`` or ``state_dict``, with ``weights_only=True``.

    Raises:
        CheckpointError: The file is missing or damaged, has anything but tensors and plain values, no tensors, or one
            that is not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}; correct the path")
    try:
        # What torch wrote before 1.6 has no CRCs.
        content = load_verified(path) if is_zipfile(path) else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise nearly anything: IndexError, UnicodeDecodeError, struct.error
        raise CheckpointError(
            f"{path} cannot be read as weights alone ({first_sentence(error)}); it is damaged, or it holds code, "
            "which is not run: ask its author for safetensors"
        ) from error
    config = content.get("config") if isinstance(content, dict) else None
    epoch = content.get("epoch") if isinstance(content, dict) else None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {str(name): tensor for name, tensor in content.items()} if isinstance(content, dict) else {}
    tensors = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors: it is not a checkpoint of a model")
    check_finite(tensors, path)
    return Published(tensors, config if isinstance(config, dict) else {}, epoch if isinstance(epoch, int) else None)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of :func:`read_published`, as large as the file has them.

    Raises:
        CheckpointError: One is a view that repeats its values: of any size in a small file, and written out in full.
    """
    tensors = read_published(path).tensors
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: {name[:200]} is larger than what the file holds of it; do not use this file"
            )
    return tensors
