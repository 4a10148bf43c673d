"""Digests of frozen weights, which a checkpoint does not hold but depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from affectgpt_r1.errors import CheckpointError

SAMPLES = 1024  # values of each tensor that `weights_digest` reads one by one
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
REMEDY = (
    "name the weights that it was trained on by model.language_model.pretrained and paths.weights; a language model "
    "built from its configuration needs that run's seed"
)


def frozen_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that do not train, by the names that they have without adapters around them."""
    named = module.named_parameters()
    return {name.replace(".base_layer.", "."): param for name, param in named if not param.requires_grad}


def base_weights(language_model: nn.Module) -> dict[str, Tensor]:
    """Return a language model's weights without its adapters, as :func:`frozen_weights` names them."""
    weights = {name: param for name, param in language_model.named_parameters() if "lora_" not in name}
    return {name.replace(".base_layer.", "."): param for name, param in weights.items()}


def weights_digest(weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """Digest names, shapes, the sum of all bits, and 1,024 values of each tensor; 10 GB take about a second.

    ``<dtype>:<16 hexadecimal digits>``; weights are cast to ``dtype`` first, by default that of the first.
    """
    dtype = dtype or next(iter(weights.values())).dtype
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        flat = tensor.detach().to(dtype).contiguous().flatten()
        digest.update(f"{name}{tuple(tensor.shape)}{_sum_of_bits(flat)}".encode())
        # The sum sees any one changed value, and these values see an order that changed.
        picked = flat[:: max(len(flat) // SAMPLES, 1)].cpu().contiguous()
        digest.update(picked.view(torch.uint8).numpy().tobytes())
    return f"{str(dtype).removeprefix('torch.')}:{digest.hexdigest()[:16]}"


def why_another(stored: str, weights: Mapping[str, Tensor], own: str) -> str | None:
    """Say why weights are not those of a stored digest; None if they are.

    Args:
        stored: A :func:`weights_digest`, from a file.
        weights: Those of this policy.
        own: Their digest in their own type.
    """
    before, here = stored.partition(":")[0], own.partition(":")[0]
    if stored == own:
        return None
    if before == here or before not in DTYPES:
        return REMEDY
    # A base model may be kept in another type than in training: equal weights have equal digests in that type, unless
    # the type here has fewer bits (bfloat16 weights of a float32 run).
    if weights_digest(weights, DTYPES[before]) == stored:
        return None
    return (
        f"{REMEDY}; its type was {before} and is {here} here, which may round: set model.language_model.dtype={before}"
    )


def check_base(stored: str | None, language_model: nn.Module, origin: str) -> None:
    """Check that a language model without its adapters has the weights of this digest; None is not compared."""
    if stored is None:
        return
    weights = base_weights(language_model)
    if reason := why_another(stored, weights, weights_digest(weights)):
        raise CheckpointError(f"{origin} does not fit the language model here: {reason}")


def _sum_of_bits(flat: Tensor) -> int:
    per_word = 8 // flat.element_size()
    even = len(flat) // per_word * per_word
    if flat.storage_offset() % per_word:
        flat = flat.clone()  # a view as 64-bit words must start at a multiple of 8 bytes
    words = flat[:even].view(torch.int64).sum()  # wraps around, so that the order of additions does not matter
    tail: list[int] = flat[even:].cpu().view(torch.uint8).tolist()
    return int(words) + sum(tail)
