"""Reading what others published: pickled weights, without running code that may be in them."""

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
    """A published checkpoint.

    Attributes:
        tensors: By published name.
        config: The configuration in it, as plain values; empty where it holds none.
        epoch: After which it was written, where it says so.
    """

    tensors: dict[str, Tensor]
    config: Mapping[str, Any]
    epoch: int | None


def read_published(path: Path) -> Published:
    """Read a pickled checkpoint with ``weights_only=True``.

    Args:
        path: A state dict, or a dict that holds one under ``model`` or ``state_dict``.

    Raises:
        CheckpointError: There is no such file, it is damaged, it holds anything but tensors and plain values, or no
            tensors, or one that is not finite.
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
    tensors = {str(name): one for name, one in content.items()} if isinstance(content, dict) else {}
    tensors = {name: one for name, one in tensors.items() if isinstance(one, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors: it is no checkpoint of a model")
    check_finite(tensors, path)
    return Published(tensors, config if isinstance(config, dict) else {}, epoch if isinstance(epoch, int) else None)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of :func:`read_published`, as large as the file holds them.

    Raises:
        CheckpointError: One is a view that repeats its values: of any size in a small file, and written out whole.
    """
    tensors = read_published(path).tensors
    for name, one in tensors.items():
        if one.layout != torch.strided or one.numel() * one.element_size() > one.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: {name[:200]} is larger than what the file holds of it; do not use this file"
            )
    return tensors
