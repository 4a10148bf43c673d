"""Memory of the host that was freed and not handed back."""

from __future__ import annotations

import ctypes

FROM_SYSTEM = 2**25
"""Bytes of a block that glibc takes from the system and hands back when it is freed; smaller ones are in its heap."""


def return_freed_memory() -> None:
    """Hand the heap's freed pages back to the system; where the C library is not glibc, do nothing.

    glibc keeps what is freed between blocks that live on: after a rollout 60 MB. To be called before a block of
    :data:`FROM_SYSTEM` bytes or more, which those pages cannot serve, at the step's peak.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
