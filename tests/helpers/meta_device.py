"""What an update of the 7B model computes and holds, counted on tensors without data."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from affectgpt_r1.engine.fast import FastEngine, _run
from affectgpt_r1.engine.prefix_attention import PrefixAttention
from affectgpt_r1.engine.varlen_attention import PackedLengths
from affectgpt_r1.policy.backbone import add_lora, build_language_model

SHAPES = {
    **{"dtype": "bfloat16", "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944},
    **{"num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False},
}
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
META = torch.device("meta")


class HeldBytes(TorchDispatchMode):
    """Adds up the storages that are alive, but those of weights."""

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._known = {weight.untyped_storage()._cdata for weight in weights}
        self.held = self.peak = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = operation(*arguments, **(options or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage._cdata)
                self.held += storage.nbytes()
                self.peak = max(self.peak, self.held)
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return result

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.held -= num_bytes


class Counted(NamedTuple):
    flops: int
    gib: float
    parameters: dict[str, int]


def _on_meta(lengths: list[int]) -> PackedLengths:
    packed = PackedLengths(lengths, torch.device("cpu"))
    for name, value in list(vars(packed).items()):
        if isinstance(value, torch.Tensor):
            setattr(packed, name, value.to(META))
    return packed


def count_update(
    layers: int, batch: int, generations: int, prompt: int, completion: int, attention: str, checkpointing: bool
) -> Counted:
    """Count forward and backward pass of the model's layers; the gradients of weights are not held."""
    with META, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # it knows no such device
        model = build_language_model(None, {**SHAPES, "num_hidden_layers": layers}, checkpointing=checkpointing)
        add_lora(model, r=16, alpha=32, dropout=0.0, target_modules=PROJECTIONS)
        FastEngine(model, attention=attention)
        model.train()
        # One is shorter, so that sequences are padded for plain products.
        prompts = _on_meta([prompt] * (batch - 1) + [prompt - 1])
        own = _on_meta([completion - 1] * (batch * generations - 1) + [completion - 2])
        tokens = prompts.total + own.total
        embeds = torch.empty(tokens, SHAPES["hidden_size"], dtype=torch.bfloat16, requires_grad=True)
        weights = [*model.parameters(), *model.buffers()]
        lora = sum(weight.numel() for weight in weights if weight.requires_grad)
        with HeldBytes(weights) as held, FlopCounterMode(display=False) as flops:
            states = _run(model, embeds, torch.zeros(tokens, dtype=torch.long), PrefixAttention(prompts, own))
            states.backward(torch.empty_like(states))
    body = sum(weight.numel() for weight in model.model.layers.parameters()) - lora
    return Counted(flops.get_total_flops(), held.peak / 2**30, {"body": body, "lora": lora})
