"""Checks that stored weights are undamaged: the CRCs of torch's files, and finite values."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from affectgpt_r1.errors import CheckpointError

READ_BYTES = 1 << 20  # how much of a record is read at a time


def load_verified(path: str | Path, *, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """Load what ``torch.save`` wrote with ``weights_only=True``, once its CRCs, which torch does not read, are right.

    With ``mmap`` tensors stay on the disk until they are used, unverified, for what reads other parts only.

    Raises:
        Exception: The file is damaged, or has more than tensors and plain values. Damaged bytes raise nearly anything:
            IndexError, UnicodeDecodeError, struct.error.
    """
    check_crcs(path, only_values=mmap)
    return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap or None)


def check_crcs(path: str | Path, *, only_values: bool = False) -> None:
    """Compare the CRCs of what ``torch.save`` wrote; with ``only_values`` the tensors stay unread."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        # torch compresses nothing: content larger than its file would fill the memory.
        if sum(record.file_size for record in records) > Path(path).stat().st_size:
            raise zipfile.BadZipFile("its records are larger than the file")
        for record in records:
            if only_values and not record.filename.endswith("/data.pkl"):
                continue
            with archive.open(record) as content:  # compares the CRC at the end
                while content.read(READ_BYTES):
                    pass


def check_finite(weights: Mapping[str, Any], origin: str | Path) -> None:
    """Check that no weight is NaN or infinite."""
    for name, tensor in weights.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.numel():
            continue
        # A view may repeat its values to any size, in a small file; each value once takes no more than is stored.
        stored = tensor[tuple(slice(None) if stride else slice(1) for stride in tensor.stride())]
        if not all(bool(bound.isfinite()) for bound in torch.aminmax(stored)):  # NaN is both bounds
            raise CheckpointError(
                f"{origin}: {name} is NaN or infinite in places, so its answers would be noise; take an earlier "
                "checkpoint, or train again with a lower optim.optimizer.lr"
            )
