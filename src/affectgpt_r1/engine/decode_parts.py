"""Decode answers to as many prompts at once as a GPU's free memory takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from affectgpt_r1.engine.base import Decoded, EmbeddedPrompts
from affectgpt_r1.engine.graph_decoder import LOGIT_COPIES, cache_bytes, free_bytes

log = logging.getLogger(__name__)

RESERVE = 0.9  # of what is free; the allocator cannot use all of it
HIDDEN_COPIES, GATE_COPIES = 8, 4  # of a prompt token's states that a layer holds at once


def prompt_bytes(model: Any, prompt_length: int, limit: int) -> int:
    """Return what a prompt and its one answer of ``limit`` tokens take while they are decoded."""
    config, width = model.config, next(model.parameters()).element_size()
    layer = width * (HIDDEN_COPIES * config.hidden_size + GATE_COPIES * config.intermediate_size)
    kept = cache_bytes(model) * (2 * prompt_length + limit)  # the prompt's twice: packed, and padded
    return int(kept + prompt_length * layer + LOGIT_COPIES * 4 * config.vocab_size)


def prompts_at_once(model: Any, prompts: EmbeddedPrompts, limit: int) -> int:
    """Return how many prompts to decode at once: all on a CPU, on CUDA equal parts that fit into free memory."""
    count, device = len(prompts.embeds), prompts.embeds.device
    if device.type != "cuda" or not count:
        return count
    fit = int(RESERVE * free_bytes(device)) // prompt_bytes(model, prompts.mask.shape[1], limit)
    return math.ceil(count / math.ceil(count / max(fit, 1)))


def decode_in_parts(
    decode: Callable[[EmbeddedPrompts], Decoded], prompts: EmbeddedPrompts, at_once: int, pad_id: int
) -> Decoded:
    """Decode ``at_once`` prompts after another; where memory runs out, half as many from there on.

    Args:
        decode: Decodes one completion of each prompt.
        prompts: All prompts.
        at_once: Prompts of a part.
        pad_id: Follows shorter completions.
    """
    parts: list[Decoded] = []
    first = 0
    while first < len(prompts.embeds):
        rows = slice(first, first + at_once)
        part = prompts._replace(embeds=prompts.embeds[rows], mask=prompts.mask[rows])
        try:
            parts.append(decode(part))
            first += at_once
        except torch.OutOfMemoryError as error:
            if len(part.embeds) == 1:
                raise
            at_once = math.ceil(len(part.embeds) / 2)
            log.warning("%s; answering %d clips at once instead of %d", error, at_once, len(part.embeds))
    return parts[0] if len(parts) == 1 else _joined(parts, pad_id)


def _joined(parts: list[Decoded], pad_id: int) -> Decoded:
    longest = max(part.ids.shape[1] for part in parts)

    def join(name: str, filled: float) -> torch.Tensor:
        values = [getattr(part, name) for part in parts]
        return torch.cat([F.pad(value, (0, longest - value.shape[1]), value=filled) for value in values])

    truncated = torch.cat([part.truncated for part in parts])
    return Decoded(join("ids", pad_id), join("mask", 0.0), join("per_token_logps", 0.0), truncated)
