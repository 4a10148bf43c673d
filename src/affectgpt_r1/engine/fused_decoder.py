"""Decoding by one token: attention to a prompt's keys, held once per prompt, and fused layers of Llama, Qwen2, Qwen3.

A step multiplies few rows by every weight, so that reading the weights and launching small operations cost most. The
fused layers are copies, made once per rollout and stored in the order in which a step reads them: queries, keys and
values as one matrix, gate and up as one, adapters merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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


class FusedLinear(NamedTuple):
    """``x @ weight + bias``."""

    weight: Tensor  # (in, out)
    bias: Tensor | None  # (out,)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return ``(m, out)`` of ``(m, in)``."""
        return inputs @ self.weight if self.bias is None else torch.addmm(self.bias, inputs, self.weight)

    def add_to(self, states: Tensor, inputs: Tensor) -> None:
        """Add the product to ``states`` ``(m, out)`` in place."""
        states.addmm_(inputs, self.weight)
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
        model: A model that :func:`supports_fused_decode` accepts; it is not changed.
        max_length: Most tokens of a prompt and its completion.
    """

    def __init__(self, model: Any, max_length: int) -> None:
        body = model.model
        self._embed = model.get_input_embeddings()
        self._norm = body.norm
        self._layers = [_copy_layer(layer) for layer in body.layers]
        device = self._layers[0].attention_norm.device
        cosine, sine = body.rotary_emb(
            self._layers[0].attention_norm, torch.arange(max_length, device=device).unsqueeze(0)
        )
        self._half = sine.shape[-1] // 2
        # RoPE pairs coordinate i with i + d / 2: (a, b) becomes (a cos - b sin, b cos + a sin). With the first half of
        # the sine negated that is x * cos + roll(x, d / 2) * sin, without a copy of x whose sign is changed.
        signed = torch.cat([-sine[..., : self._half], sine[..., self._half :]], -1)
        self._cosine, self._sine = cosine[0].unsqueeze(1), signed[0].unsqueeze(1)  # (max_length, 1, d)

    def advance(self, tokens: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
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
    """Return whether :class:`FusedDecoder` computes exactly what the model's own modules do, by their types."""
    # On an accelerator, or of weights in half precision, copies are not worth their memory.
    body = model.model
    family = next((name for name in FAMILIES if type(body).__name__ == f"{name}Model"), None)
    if family is None or body.rotary_emb.rope_type not in POSITIONS or torch.is_autocast_enabled("cpu"):
        return False
    if len(body.layers) != body.config.num_hidden_layers or type(body.norm).__name__ != f"{family}RMSNorm":
        return False
    if body.norm.weight.device.type != "cpu" or body.norm.weight.dtype != torch.float32:
        return False
    return all(_supports_layer(layer, family) for layer in body.layers)


def _supports_layer(layer: Any, family: str) -> bool:
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
    return all(map(_supports_linear, _linears(layer))) and all(norm.weight.dtype == torch.float32 for norm in norms)


def _head_norms(layer: Any) -> list[Any]:
    """Return Qwen3's norms of queries and keys; other families have none."""
    mixer = layer.self_attn
    return [mixer.q_norm, mixer.k_norm] if hasattr(mixer, "q_norm") else []


def _linears(layer: Any) -> list[Any]:
    mixer, mlp = layer.self_attn, layer.mlp
    return [mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _supports_linear(module: Any) -> bool:
    """Return whether a module is linear and in single precision, alone or with plain LoRA adapters."""
    if type(module).__module__ == "peft.tuners.lora.layer" and type(module).__name__ == "Linear":
        if module.merged or module.disable_adapters or module.lora_variant or module.fan_in_fan_out:
            return False
        if any(module.lora_bias.values()):
            return False
        module = module.base_layer
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter and module.weight.dtype == torch.float32


def _copy_layer(layer: Any) -> FusedDecoderLayer:
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
        _copy_linears([query, key, value]),
        _copy_linears([output]),
        layer.post_attention_layernorm.weight,
        _copy_linears([gate, up]),
        _copy_linears([down]),
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
