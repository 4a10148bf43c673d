"""Decoding by one token: attention to a prompt's keys, held once per prompt, and fused layers of Llama, Qwen2, Qwen3.

A step multiplies few rows by every weight, so that reading the weights and launching small operations cost most. The
fused layers are copies, made once per rollout and stored in the order in which a step reads them: queries, keys and
values as one matrix, gate and up as one, adapters merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affectgpt_r1.engine.precision import exact_matmul
from affectgpt_r1.engine.varlen_attention import PackedLengths

FAMILIES = ("Llama", "Qwen2", "Qwen3")
POSITIONS = ("default", "linear", "llama3", "yarn")  # rotary positions whose angles do not depend on the text's length

# Unused columns after each row of a copy: rows a power of two apart would map to the same lines of the CPU's cache.
PADDING = 16


class KVCache:
    """Keys and values of the prompts, and of the completions so far.

    Args:
        prompts: Lengths of the ``B`` prompts.
        cache: The prompts' ``(k, v)`` by layer, each ``(prompt tokens, KV heads, d)``.
        num_generations: ``G``.
        max_length: Most tokens of a completion.
    """

    def __init__(
        self, prompts: PackedLengths, cache: Mapping[int, tuple[Tensor, Tensor]], num_generations: int, max_length: int
    ) -> None:
        self.count = prompts.count * num_generations
        self.num_prompts, self.max_length = prompts.count, max_length
        self.length = 0  # tokens of the completions so far
        self._rows: Tensor | None = None
        # Laid out as the products read them: keys as (d, P) columns, values as (P, d) rows.
        self._bias = prompts.padding_bias(torch.float32)
        self._prompt_keys = {
            layer: prompts.pad(key.detach()).permute(0, 2, 3, 1).contiguous() for layer, (key, _) in cache.items()
        }  # (B, KV heads, d, P)
        self._prompt_values = {
            layer: prompts.pad(value.detach()).transpose(1, 2).contiguous() for layer, (_, value) in cache.items()
        }  # (B, KV heads, P, d)
        self._own: dict[int, tuple[Tensor, Tensor]] = {}

    def begin(self, rows: Tensor) -> None:
        """Announce that the next pass feeds the completions ``rows`` ``(m,)`` of the ``N``."""
        self._rows = None if len(rows) == self.count else rows

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Add the newest keys and values ``(m, KV heads, d)``; return the attention to all so far, ``(m, H, d)``."""
        own_keys, own_values = self._append(layer, key, value)
        heads, key_heads, size = query.shape[1], key.shape[1], key.shape[2]
        repeats, per_prompt = heads // key_heads, self.count // self.num_prompts
        # In half precision the scores are scaled, not the query: that would be rounded once more.
        is_half = query.dtype.itemsize < 4
        product: Callable[[Tensor, Tensor], Tensor] = exact_matmul if is_half else torch.matmul
        every = query if is_half else query * scale
        # Every completion takes part, those that have ended with a query of 0, so that shapes stay: nothing reads them.
        if self._rows is not None:
            every = query.new_zeros(self.count, heads, size).index_copy_(0, self._rows, every)
        # To the prompt a group's completions, and the query heads of one key head, are one list of G * repeats queries:
        # the prompt's keys are read once for the group.
        grouped = every.view(self.num_prompts, per_prompt, key_heads, repeats, size).transpose(1, 2)
        to_prompt = product(grouped.reshape(self.num_prompts, key_heads, -1, size), self._prompt_keys[layer])
        to_self = product(every.view(self.count, key_heads, repeats, size), own_keys.transpose(-1, -2))
        if is_half:
            to_prompt, to_self = to_prompt * scale, to_self * scale
        if self._bias is not None:
            to_prompt = to_prompt + self._bias.to(to_prompt.dtype)
        shape = (self.num_prompts, key_heads, per_prompt, repeats, -1)
        spread = to_self.view(self.num_prompts, per_prompt, key_heads, repeats, -1).transpose(1, 2)
        # One softmax over the prompt's keys and the completion's own.
        weights = torch.cat([to_prompt.view(shape), spread], -1).softmax(-1).to(value.dtype)
        prompt_weights, self_weights = torch.split(weights, [to_prompt.shape[-1], self.length + 1], -1)
        from_prompt = prompt_weights.flatten(2, 3) @ self._prompt_values[layer]
        from_self = self_weights.transpose(1, 2).reshape(self.count, key_heads, repeats, -1) @ own_values
        output = from_prompt.view(*shape[:4], size).transpose(1, 2).reshape(from_self.shape) + from_self
        output = output.reshape(
            self.count, heads, size
        )  # not view: of one prompt the sum has the strides of heads first
        return output if self._rows is None else output.index_select(0, self._rows)

    def _append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the newest keys and values; return the completions' own so far, ``(N, KV heads, length + 1, d)``."""
        if layer not in self._own:
            shape = (self.count, key.shape[1], self.max_length, key.shape[2])
            self._own[layer] = (key.new_zeros(shape), value.new_zeros(shape))
        keys, values = self._own[layer]
        for buffer, new in ((keys, key), (values, value)):
            if self._rows is None:
                buffer[:, :, self.length] = new
            else:
                buffer[self._rows, :, self.length] = new
        return keys[:, :, : self.length + 1], values[:, :, : self.length + 1]


class AttendsStep(Protocol):
    """Keys and values so far."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Add the newest keys and values; see :meth:`KVCache.attend`."""


class FusedLinear(NamedTuple):
    """``x @ weight + bias``, and ``x @ down @ up`` of adapters that are not merged."""

    weight: Tensor  # (in, out)
    bias: Tensor | None  # (out,)
    low_rank: tuple[Tensor, Tensor] | None = None  # down (in, ranks), and up (ranks, out) with the adapters' scales

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return ``(m, out)`` of ``(m, in)``."""
        output = inputs @ self.weight if self.bias is None else torch.addmm(self.bias, inputs, self.weight)
        return output if self.low_rank is None else output.addmm_(inputs @ self.low_rank[0], self.low_rank[1])

    def add_to(self, states: Tensor, inputs: Tensor) -> None:
        """Add the product to ``states`` ``(m, out)`` in place."""
        states.addmm_(inputs, self.weight)
        if self.low_rank is not None:
            states.addmm_(inputs @ self.low_rank[0], self.low_rank[1])
        if self.bias is not None:
            states.add_(self.bias)


class FusedDecoderLayer(NamedTuple):
    """A layer's weights."""

    layer_idx: int
    heads: int
    key_heads: int
    scale: float
    epsilon: float
    attention_norm: Tensor  # (D,)
    qkv: FusedLinear  # D to (H + 2 * KV heads) * d
    output: FusedLinear
    feed_forward_norm: Tensor  # (D,)
    gate_up: FusedLinear  # D to 2 * I
    down: FusedLinear
    head_norms: tuple[Tensor, float] | None  # weights (H + KV heads, d) of Qwen3's query and key norms, and epsilon


class FusedDecoder:
    """The layers of a causal language model, without gradient.

    Args:
        model: A model that :func:`has_fused_layers` accepts; its numbers are not changed.
        max_length: Most tokens of a prompt and its completion.
        joined: Take weights as they lie, for a GPU: what is frozen is not copied, and adapters are not merged. Else
            weights are copied into the layout that a CPU reads fastest.
    """

    def __init__(self, model: Any, max_length: int, *, joined: bool = False) -> None:
        body = model.model
        self._embed = model.get_input_embeddings()
        self._norm = body.norm
        self._layers = [_copy_layer(layer, _join_linears if joined else _copy_linears) for layer in body.layers]
        device, self.dtype = self._layers[0].attention_norm.device, self._norm.weight.dtype
        self.heads = self._layers[0].heads
        cosine, sine = body.rotary_emb(
            self._layers[0].attention_norm, torch.arange(max_length, device=device).unsqueeze(0)
        )
        self._half = sine.shape[-1] // 2
        # RoPE pairs coordinate i with i + d / 2: (a, b) becomes (a cos - b sin, b cos + a sin). With the first half of
        # the sine negated that is x * cos + roll(x, d / 2) * sin, without a copy of x whose sign is changed.
        signed = torch.cat([-sine[..., : self._half], sine[..., self._half :]], -1)
        self._cosine, self._sine = cosine[0].unsqueeze(1), signed[0].unsqueeze(1)  # (max_length, 1, d)

    def advance(self, tokens: Tensor, positions: Tensor, cache: AttendsStep) -> Tensor:
        """Return the states ``(m, D)`` after the ``(m,)`` newest tokens; their keys and values go to the cache."""
        states: Tensor = self._embed(tokens).clone()  # the residual stream, which is added to in place
        cosine, sine = self._cosine[positions], self._sine[positions]
        for layer in self._layers:
            heads = layer.qkv(self._normalize(states, layer.attention_norm, layer.epsilon))
            heads = heads.view(len(states), layer.heads + 2 * layer.key_heads, -1)
            rotated, value = torch.split(heads, [layer.heads + layer.key_heads, layer.key_heads], 1)
            if layer.head_norms is not None:
                weights, epsilon = layer.head_norms
                rotated = F.rms_norm(rotated, rotated.shape[-1:], None, epsilon) * weights
            rotated = torch.addcmul(rotated * cosine, rotated.roll(self._half, -1), sine)  # queries and keys at once
            query, key = torch.split(rotated, [layer.heads, layer.key_heads], 1)
            attended = cache.attend(layer.layer_idx, query, key, value, layer.scale)
            layer.output.add_to(states, attended.reshape(len(states), -1))
            # SwiGLU (Shazeer 2020, arXiv 2002.05202): down(silu(gate(x)) * up(x)).
            gate, up = layer.gate_up(self._normalize(states, layer.feed_forward_norm, layer.epsilon)).chunk(2, -1)
            layer.down.add_to(states, F.silu(gate).mul_(up))
        return self._normalize(states, self._norm.weight, self._norm.variance_epsilon)

    @staticmethod
    def _normalize(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        return F.rms_norm(states, weight.shape, weight, epsilon)


def supports_fused_decode(model: Any) -> bool:
    """Return whether to decode with copies of the weights: on a CPU, in single precision."""
    # On an accelerator, or of weights in half precision, copies are not worth their memory.
    weight = model.model.norm.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    return has_fused_layers(model)


def has_fused_layers(model: Any) -> bool:
    """Return whether :class:`FusedDecoder` computes exactly what the model's own modules do, by their types."""
    body = model.model
    family = next((name for name in FAMILIES if type(body).__name__ == f"{name}Model"), None)
    if family is None or body.rotary_emb.rope_type not in POSITIONS:
        return False
    if len(body.layers) != body.config.num_hidden_layers or type(body.norm).__name__ != f"{family}RMSNorm":
        return False
    return all(_supports_layer(layer, family, body.norm.weight.dtype) for layer in body.layers)


def trained_bytes(model: Any) -> int:
    """Return the bytes of the weights that :class:`FusedDecoder` has to copy even where it joins them."""
    linears = [getattr(part, "base_layer", part) for layer in model.model.layers for part in _linears(layer)]
    return sum(part.weight.numel() * part.weight.element_size() for part in linears if part.weight.requires_grad)


def _supports_layer(layer: Any, family: str, dtype: torch.dtype) -> bool:
    parts = {
        "DecoderLayer": [layer],
        "Attention": [layer.self_attn],
        "MLP": [layer.mlp],
        "RMSNorm": [layer.input_layernorm, layer.post_attention_layernorm, *_head_norms(layer)],
    }
    if any(type(part).__name__ != family + name for name, same in parts.items() for part in same):
        return False
    if getattr(layer.self_attn, "sliding_window", None) or type(layer.mlp.act_fn).__name__ != "SiLUActivation":
        return False
    norms = [layer.input_layernorm, layer.post_attention_layernorm, *_head_norms(layer)]
    linear = all(_supports_linear(module, dtype) for module in _linears(layer))
    return linear and all(norm.weight.dtype == dtype for norm in norms)


def _head_norms(layer: Any) -> list[Any]:
    """Return Qwen3's norms of queries and keys; other families have none."""
    mixer = layer.self_attn
    return [mixer.q_norm, mixer.k_norm] if hasattr(mixer, "q_norm") else []


def _linears(layer: Any) -> list[Any]:
    mixer, mlp = layer.self_attn, layer.mlp
    return [mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _supports_linear(module: Any, dtype: torch.dtype) -> bool:
    """Return whether a module is linear and in ``dtype``, alone or with plain LoRA adapters."""
    if is_lora_linear(module):
        if not has_plain_adapters(module):
            return False
        module = module.base_layer
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter and module.weight.dtype == dtype


def is_lora_linear(module: Any) -> bool:
    """Return whether a module is PEFT's linear layer with adapters."""
    return type(module).__module__ == "peft.tuners.lora.layer" and type(module).__name__ == "Linear"


def has_plain_adapters(module: Any) -> bool:
    """Return whether the adapters of PEFT's linear layer add ``scale * x A B`` to its output, and nothing else."""
    other = module.merged or module.disable_adapters or module.lora_variant or module.fan_in_fan_out
    return not other and not any(module.lora_bias.values())


def _copy_layer(layer: Any, copy: Callable[[Sequence[Any]], FusedLinear]) -> FusedDecoderLayer:
    mixer = layer.self_attn
    query, key, value, output, gate, up, down = _linears(layer)
    size = mixer.head_dim
    return FusedDecoderLayer(
        mixer.layer_idx,
        query.out_features // size,
        key.out_features // size,
        mixer.scaling,
        layer.input_layernorm.variance_epsilon,
        layer.input_layernorm.weight,
        copy([query, key, value]),
        copy([output]),
        layer.post_attention_layernorm.weight,
        copy([gate, up]),
        copy([down]),
        _copy_head_norms(layer, query.out_features // size, key.out_features // size),
    )


def _copy_head_norms(layer: Any, heads: int, key_heads: int) -> tuple[Tensor, float] | None:
    norms = _head_norms(layer)
    if not norms:
        return None
    weights = [norm.weight.detach().expand(count, -1) for norm, count in zip(norms, (heads, key_heads), strict=True)]
    return torch.cat(weights), norms[0].variance_epsilon


def _copy_linears(modules: Sequence[Any]) -> FusedLinear:
    """Copy linear layers of the same input into one, adapters merged."""
    weights = [merged_weight(module) for module in modules]
    fused = weights[0].new_empty(weights[0].shape[1], sum(map(len, weights)) + PADDING)[:, :-PADDING]
    for columns, weight in zip(torch.split(fused, list(map(len, weights)), 1), weights, strict=True):
        columns.copy_(weight.t())
    biases = [module.bias.detach() for module in modules if module.bias is not None]
    return FusedLinear(fused, torch.cat(biases) if biases else None)


def join_weights(model: Any) -> None:
    """Let frozen weights that :class:`FusedDecoder` joins lie side by side, before a pass keeps them for gradients."""
    for layer in model.model.layers:
        query, key, value, _, gate, up, _ = _linears(layer)
        for modules in ([query, key, value], [gate, up]):
            weights = [getattr(module, "base_layer", module).weight for module in modules]
            if not any(weight.requires_grad for weight in weights):
                _joined_weight(weights)


def _join_linears(modules: Sequence[Any]) -> FusedLinear:
    """Join linear layers of the same input: weights that train are copied, frozen ones become parts of one tensor."""
    bases = [getattr(module, "base_layer", module) for module in modules]
    biases = [base.bias.detach() for base in bases if base.bias is not None]
    bias = torch.cat(biases) if biases else None
    return FusedLinear(_joined_weight([base.weight for base in bases]).t(), bias, _low_rank(modules))


def _joined_weight(weights: Sequence[nn.Parameter]) -> Tensor:
    """Return ``(sum of outs, in)`` of weights ``(out, in)``."""
    first, rows = weights[0], sum(map(len, weights))
    if len(weights) == 1:
        return first.detach()
    starts = [weight.data_ptr() for weight in weights]
    ends = [start + weight.nbytes for start, weight in zip(starts, weights, strict=True)]
    storages = {weight.untyped_storage().data_ptr() for weight in weights}
    if len(storages) == 1 and starts[1:] == ends[:-1]:  # joined before
        return first.detach().as_strided((rows, first.shape[1]), (first.shape[1], 1))
    # Of weights that train, or share their memory with something else, the joined tensor is a copy for one rollout.
    own = all(weight.untyped_storage().nbytes() == weight.nbytes for weight in weights)
    with torch.inference_mode(False), torch.no_grad():  # a part made in inference mode could never be trained through
        joined = torch.cat([weight.detach() for weight in weights])
        if own and not any(weight.requires_grad for weight in weights):
            for weight, part in zip(weights, torch.split(joined, list(map(len, weights))), strict=True):
                weight.data = part
    return joined


def _low_rank(modules: Sequence[Any]) -> tuple[Tensor, Tensor] | None:
    """Return the adapters of linear layers that are joined: ``down`` side by side, ``up`` as diagonal blocks."""
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    outs = [module.out_features for module in modules]
    for number, module in enumerate(modules):
        for name in module.active_adapters if hasattr(module, "lora_A") else ():
            if name in module.lora_A:
                weight = getattr(module, "base_layer", module).weight
                up = module.lora_B[name].weight.detach().t() * module.scaling[name]
                downs.append(module.lora_A[name].weight.detach().t().to(weight.dtype))
                # Zeros for the other layers' outputs: one small product in place of one for each.
                ups.append(F.pad(up, (sum(outs[:number]), sum(outs[number + 1 :]))).to(weight.dtype))
    return (torch.cat(downs, 1), torch.cat(ups)) if downs else None


def merged_weight(module: Any) -> Tensor:
    """Return the weight ``(out, in)`` of a linear layer with its active adapters added."""
    if type(module) is nn.Linear:
        return module.weight.detach()
    weight: Tensor = module.base_layer.weight.detach()
    for name in module.active_adapters:
        if name in module.lora_A:
            # LoRA (Hu et al. 2022, arXiv 2106.09685): W + (alpha / r) B A.
            update = module.lora_B[name].weight.detach() @ module.lora_A[name].weight.detach()
            weight = weight + update * module.scaling[name]
    return weight
