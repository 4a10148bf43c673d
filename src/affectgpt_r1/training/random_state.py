"""Random states for exact resume, and seeds that depend on place, not on history."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """Return a seed from integers such as (run seed, epoch, batch, rank), the same on every machine.

    >>> derive_seed(0, 1, 2) == derive_seed(0, 1, 2) != derive_seed(0, 2, 1)
    True
    """
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def capture_random_state() -> dict[str, Any]:
    """Return the states of torch's, numpy's and Python's generators, as tensors and plain types only.

    Of the GPUs it is the one that this process uses: each process has its own, and a resumed run may see fewer.
    """
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, list(internal), gauss],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`capture_random_state` returned, as far as this process has such a generator."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states = state["cuda"]  # older checkpoints hold those of all GPUs
        own = states[0] if len(states) == 1 else states[torch.cuda.current_device()]
        torch.cuda.set_rng_state(own.cpu())
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
