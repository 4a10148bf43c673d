"""Data-parallel training under every torch that the package allows."""

from __future__ import annotations

from inspect import signature
from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel


def ddp_strategy(**options: Any) -> DDPStrategy:
    """Return Lightning's ``DDPStrategy`` without its broadcast of buffers."""
    # Buffers are constants here, and ranks validate unequally many batches: a broadcast would wait for ever.
    known = signature(DistributedDataParallel.__init__).parameters
    # torch 2.13 named it so; where both exist the older name warns.
    key = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DDPStrategy(**{key: False, **options})
