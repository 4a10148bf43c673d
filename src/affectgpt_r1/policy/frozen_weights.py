"""Digests of frozen weights, which a checkpoint does not hold but depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from affectgpt_r1.errors import CheckpointError

SAMPLES = 1024
"""Values of each tensor that :func:`weights_digest` reads one by one."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
REMEDY = (
    "name the weights that it was trained on by model.language_model.pretrained and paths.weights; a language model "
    "built from its configuration needs that run's seed"
)


def frozen_weights(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that do not train, by the names that they have without adapters around them."""
    named = module.named_parameters()
    return {name.replace(".base_layer.", "."): one for name, one in named if not one.requires_grad}


def base_weights(language_model: nn.Module) -> dict[str, Tensor]:
    """A language model's weights without its adapters, as :func:`frozen_weights` names them."""
    weights = {name: one for name, one in language_model.named_parameters() if "lora_" not in name}
    return {name.replace(".base_layer.", "."): one for name, one in weights.items()}


def weights_digest(weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """A digest of names, shapes, the sum of all bits, and 1,024 values of each tensor; 10 GB take about a second.

    The sum adds the bytes as 64-bit integers and wraps around, so that its order does not matter. It sees any one
    changed value; the values that are read see an order that changed.

    Args:
        weights: By name; at least one.
        dtype: Type that they are cast to first; None is that of the first.

    Returns:
        ``<dtype>:<16 hexadecimal digits>``.
    """
    dtype = dtype or next(iter(weights.values())).dtype
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        flat = tensor.detach().to(dtype).contiguous().flatten()
        digest.update(f"{name}{tuple(tensor.shape)}{_sum_of_bits(flat)}".encode())
        picked = flat[:: max(len(flat) // SAMPLES, 1)].cpu().contiguous()
        digest.update(picked.view(torch.uint8).numpy().tobytes())
    return f"{str(dtype).removeprefix('torch.')}:{digest.hexdigest()[:16]}"


def why_another(stored: str, weights: Mapping[str, Tensor], own: str) -> str | None:
    """Why weights are not those of a stored digest; None if they are.

    A base model may be held in another type here than where it was trained: it is cast to that type first. Only where
    the type here holds less (bfloat16 weights of a float32 run) equal weights cannot be told.

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
    if weights_digest(weights, DTYPES[before]) == stored:
        return None
    return (
        f"{REMEDY}; its type was {before} and is {here} here, which may round: set model.language_model.dtype={before}"
    )


def check_base(stored: str | None, language_model: nn.Module, origin: str) -> None:
    """Check that a language model, its adapters left out, has the weights of this digest; None is not compared.

    Raises:
        CheckpointError: It has others.
    """
    if stored is None:
        return
    weights = base_weights(language_model)
    if reason := why_another(stored, weights, weights_digest(weights)):
        raise CheckpointError(f"{origin} does not fit the language model here: {reason}")


def _sum_of_bits(flat: Tensor) -> int:
    per_word = 8 // flat.element_size()
    whole = len(flat) // per_word * per_word
    if flat.storage_offset() % per_word:
        flat = flat.clone()  # a view as 64-bit words must start at a multiple of 8 bytes
    words = flat[:whole].view(torch.int64).sum()
    tail: list[int] = flat[whole:].cpu().view(torch.uint8).tolist()
    return int(words) + sum(tail)
