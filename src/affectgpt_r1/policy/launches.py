"""Count the kernels that CUDA would launch, on tensors without data and without a GPU."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from affectgpt_r1.engine.base import SpecialTokens
from affectgpt_r1.engine.fused_decoder import has_fused_layers
from affectgpt_r1.engine.graph_decoder import GraphDecoder
from affectgpt_r1.engine.varlen_attention import PackedLengths
from affectgpt_r1.types import Sampling

VIEWS = {
    *("view", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "t", "detach", "alias"),
    *("split", "split_with_sizes", "as_strided", "unbind", "empty", "empty_like", "device", "promote_types"),
}


class CountedLaunches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        self.counts[operation._schema.name.partition("::")[2]] += 1
        return operation(*arguments, **(options or {}))

    def total(self) -> int:
        """Return how many launch a kernel."""
        return sum(count for name, count in self.counts.items() if name not in VIEWS)


def on_fake_cuda(model: Any) -> None:
    """Replace weights by ones without data, of the kind that CUDA's have; under :class:`FakeTensorMode`."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")


def count_token(model: Any) -> CountedLaunches:
    """Count what the graph decoder launches for a token of eight rows; the model's weights are lost."""
    config, prompts = model.config, PackedLengths([400, 390], torch.device("cpu"))
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Accessing the data pointer of FakeTensor"
        )  # which weights are joined already
        dtype = model.model.norm.weight.dtype
        on_fake_cuda(model)
        for name, tensor in list(vars(prompts).items()):
            if isinstance(tensor, torch.Tensor):
                setattr(prompts, name, torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda"))
        keys = torch.empty(prompts.total, config.num_key_value_heads, size, dtype=dtype, device="cuda")
        states = torch.empty(prompts.count, config.hidden_size, dtype=dtype, device="cuda")
        cache = dict.fromkeys(range(len(model.model.layers)), (keys, keys))
        tokens = SpecialTokens([2, 3], [5, 6, 7], 0)
        decoder = GraphDecoder(model, states, prompts, cache, 4, Sampling(max_completion_length=200), tokens)
        counted = CountedLaunches()
        with counted:
            decoder.advance()
    return counted


def launches_per_token(model: Any) -> int | None:
    """Return what :func:`count_token` counts, from two layers; None where the graph decoder does not take the model."""
    layers = len(model.model.layers)
    if layers < 2 or not has_fused_layers(model):
        return None
    totals = []
    for count in (2, 1):
        model.model.layers = model.model.layers[:count]
        totals.append(count_token(model.eval()).total())
    return totals[0] + (layers - 2) * (totals[0] - totals[1])
