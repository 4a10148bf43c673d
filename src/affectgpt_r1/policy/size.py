"""Size of a policy and cost of its training step, counted on the meta device without weights.

The memory model is arithmetic. Fragmentation and communication buffers are not in it; leave a fifth of the card free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from affectgpt_r1.engine.chunk_sizes import ACCELERATOR_COLUMNS, KEPT_LOGITS, ROWS
from affectgpt_r1.policy.build_policy import build_modules

StageName: TypeAlias = Literal["sft", "grpo"]
StrategyName: TypeAlias = Literal["ddp", "fsdp"]
STAGES: tuple[StageName, ...] = ("sft", "grpo")
STRATEGIES: tuple[StrategyName, ...] = ("ddp", "fsdp")

GIB = 2**30
ADAMW_BYTES = 12  # float32 gradient and two moments of every parameter that trains
# Logits that the output head holds at once on an accelerator: those it keeps where it trains, else a chunk
HEAD_LOGITS = max(KEPT_LOGITS, ROWS * ACCELERATOR_COLUMNS)
COPIES = 4  # of what a chain of elementwise operations in float32 holds at its peak


@dataclass(frozen=True)
class ModelSize:
    """Parameters by part, and shapes of a policy."""

    parameters: Mapping[str, int]  # language_model (without adapters), lora, fusion, video_encoder, audio_encoder
    trainable: Mapping[str, int]
    weight_bytes: int  # of all parameters, in the precision that they are kept in
    sharded_bytes: int  # of the parameters that FSDP shards: all but the frozen encoders'
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int  # of the queries
    key_value_size: int  # key heads times head size
    vocab_size: int  # rows of the output head
    activation_bytes: int  # of one activation
    media_tokens: int  # of a prompt with every modality
    feature_bytes: Mapping[str, int]  # of the encoders' output for a frame (video) and for a window of sound (audio)

    @property
    def total(self) -> int:
        """Return the number of all parameters."""
        return sum(self.parameters.values())

    @property
    def total_trainable(self) -> int:
        """Return the number of parameters that train."""
        return sum(self.trainable.values())

    @property
    def language_model_parameters(self) -> int:
        """Return the parameters of the language model with its adapters."""
        return self.parameters["language_model"] + self.parameters["lora"]


@dataclass(frozen=True)
class Workload:
    """One training batch of a process."""

    batch_size: int
    num_generations: int
    prompt_tokens: int  # of a clip, with media tokens
    completion_tokens: int  # the limit, so that nothing runs out of memory late
    keeps_reference: bool
    gradient_checkpointing: bool
    share_prefix: bool
    accumulates: bool  # gradients of earlier batches wait for the optimizer's step while this one runs
    gpus: int
    attention: str = "auto"  # of the engine; plain products hold scores, kernels for half precision do not
    steps_per_generation: int = 1  # batches that are sampled at once


def measure_model(vocab_size: int | None, *, image: bool = False, **model: Any) -> ModelSize:
    """Build a policy's modules on the meta device and count.

    ``vocab_size`` is the tokenizer's, for a language model whose config names none; ``model`` are the keywords of
    :func:`~affectgpt_r1.policy.build_policy.build_modules`.
    """
    with torch.device("meta"):
        language_model, encoders, fusion = build_modules(vocab_size=vocab_size, image=image, **model)
    adapters = {name for name, _ in language_model.named_parameters() if "lora_" in name}
    parts = {
        "language_model": [param for name, param in language_model.named_parameters() if name not in adapters],
        "lora": [param for name, param in language_model.named_parameters() if name in adapters],
        "fusion": list(fusion.parameters()),
        "video_encoder": list(encoders.video.parameters()),
        "audio_encoder": list(encoders.audio.parameters()),
    }
    config = language_model.config
    heads = config.num_key_value_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    return ModelSize(
        parameters={part: sum(param.numel() for param in values) for part, values in parts.items()},
        trainable={
            part: sum(param.numel() for param in values if param.requires_grad) for part, values in parts.items()
        },
        weight_bytes=sum(param.numel() * param.element_size() for values in parts.values() for param in values),
        sharded_bytes=_bytes(language_model) + _bytes(fusion),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        key_value_size=heads,
        vocab_size=config.vocab_size,
        activation_bytes=next(iter(language_model.parameters())).element_size(),
        media_tokens=sum(fusion.num_tokens[name] for name in fusion.shown),
        feature_bytes=encoders.feature_bytes,
    )


def memory_gib(size: ModelSize, work: Workload, stage: StageName, strategy: StrategyName) -> float:
    """Return the peak memory of one GPU in GiB."""
    # AdamW keeps gradient and two moments in float32. `ddp` keeps everything on every rank; `fsdp` shards weights,
    # gradients and moments, and unshards weights and gradients during a step, so that it pays where much trains.
    states = ADAMW_BYTES * size.total_trainable
    reference = 4 * size.total_trainable if stage == "grpo" and work.keeps_reference else 0
    weights: float = size.weight_bytes
    if strategy != "ddp":
        states //= work.gpus
    if strategy == "fsdp" and work.gpus > 1:
        weights += size.sharded_bytes / work.gpus + 4 * size.total_trainable
    update = (
        _activation_bytes(size, _update_tokens(work, stage), work.gradient_checkpointing)
        + _score_bytes(size, work, stage)
        + _head_bytes(size, work, stage)
    )
    peak = max(update, _sampling_bytes(size, work)) if stage == "grpo" else update
    return float((weights + states + reference + peak) / GIB)


def step_flops(size: ModelSize, work: Workload, stage: StageName) -> float:
    """Return the floating-point operations of one process's step, without the encoders, whose outputs are stored."""
    # Forward: 2 operations per parameter and token. Backward: 2 for the gradients of activations, and 2 per parameter
    # that trains. Checkpointing adds a forward pass; GRPO adds sampling, and with a reference one more forward pass.
    forward = 2.0 * size.language_model_parameters
    trained_fraction = (size.trainable["language_model"] + size.trainable["lora"]) / size.language_model_parameters
    update = forward * (2.0 + trained_fraction + float(work.gradient_checkpointing))
    tokens = _update_tokens(work, stage)
    if stage == "sft":
        return update * tokens
    return tokens * (update + forward * (1 + work.keeps_reference))


def step_seconds(size: ModelSize, work: Workload, stage: StageName, *, tflops: float, bandwidth: float) -> float:
    """Return the seconds of one process's step, every answer being as long as it may.

    ``tflops`` are TFLOP/s of matrix products, ``bandwidth`` GB/s of the GPU's memory.
    """
    seconds = step_flops(size, work, stage) / (tflops * 1e12)
    if stage == "sft":
        return seconds
    # Each sampled token waits until all weights of the language model, and the cache (half full on average), are read
    # once, however few completions there are. A rollout of several steps shares that.
    sampled = work.batch_size * work.num_generations * work.completion_tokens
    weights = size.activation_bytes * size.parameters["language_model"] + 4 * size.parameters["lora"]
    reading = work.completion_tokens * (weights + _cache_bytes(size, work) / 2) / (bandwidth * 1e9)
    reading /= work.steps_per_generation
    return seconds + max(0.0, reading - 2.0 * size.language_model_parameters * sampled / (tflops * 1e12))


def _rows(work: Workload, stage: StageName) -> int:
    return work.batch_size * (work.num_generations if stage == "grpo" else 1)


def _update_tokens(work: Workload, stage: StageName) -> int:
    if not work.share_prefix:
        return _rows(work, stage) * (work.prompt_tokens + work.completion_tokens)
    return work.batch_size * work.prompt_tokens + _rows(work, stage) * work.completion_tokens


def _activation_bytes(size: ModelSize, tokens: int, checkpointing: bool) -> float:
    # Korthikanti et al. 2022, with fused attention: norms, attention and residuals keep about 12 vectors of the hidden
    # size, keys and values, the gated layer 4 of the intermediate size; adapters keep their inputs once more.
    layer = size.activation_bytes * (12 * size.hidden_size + 4 * size.key_value_size + 4 * size.intermediate_size)
    if size.parameters["lora"]:
        layer += 4 * (6 * size.hidden_size + size.intermediate_size)
    if checkpointing:
        return tokens * (size.num_layers * size.activation_bytes * size.hidden_size + layer)
    return float(tokens * size.num_layers * layer)


def _score_bytes(size: ModelSize, work: Workload, stage: StageName) -> float:
    if not work.share_prefix or (work.attention != "plain" and size.activation_bytes < 4):
        return 0.0  # fused attention holds no scores
    scores = _rows(work, stage) * size.num_heads * work.completion_tokens
    return COPIES * 4.0 * scores * max(work.completion_tokens, work.prompt_tokens)


def _head_bytes(size: ModelSize, work: Workload, stage: StageName) -> float:
    states = _rows(work, stage) * work.completion_tokens * size.hidden_size
    held = 4.0 * (COPIES * HEAD_LOGITS + 2 * states)  # states and their gradients
    if work.accumulates and size.trainable["language_model"]:
        # The head's own gradient of this batch is there from the forward pass on, in addition to the accumulated one.
        held += float(size.activation_bytes * size.vocab_size * size.hidden_size)
    return held


def _sampling_bytes(size: ModelSize, work: Workload) -> float:
    rows = work.steps_per_generation * _rows(work, "grpo")
    return _cache_bytes(size, work) + COPIES * 4.0 * rows * size.vocab_size


def _cache_bytes(size: ModelSize, work: Workload) -> float:
    clips = work.batch_size * work.steps_per_generation
    tokens = clips * (work.prompt_tokens + work.num_generations * work.completion_tokens)
    return 2.0 * tokens * size.num_layers * size.key_value_size * size.activation_bytes


def _bytes(module: nn.Module) -> int:
    return sum(param.numel() * param.element_size() for param in module.parameters())
