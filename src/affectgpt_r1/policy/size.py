"""Size of a policy and cost of its training step, counted on the meta device without weights.

The memory model is arithmetic. Fragmentation and communication buffers are not in it; leave a fifth of the card free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from affectgpt_r1.engine.chunk_sizes import ACCELERATOR_COLUMNS, KEPT_LOGITS, ROWS
from affectgpt_r1.policy.build_policy import build_modules
from affectgpt_r1.policy.launches import launches_per_token

StageName: TypeAlias = Literal["sft", "grpo"]
StrategyName: TypeAlias = Literal["ddp", "fsdp"]
STAGES: tuple[StageName, ...] = ("sft", "grpo")
STRATEGIES: tuple[StrategyName, ...] = ("ddp", "fsdp")

GIB = 2**30
ADAMW_BYTES = 12  # float32 gradient and two moments of every parameter that trains
# Logits that the output head holds at once on an accelerator: those it keeps where it trains, else a chunk
HEAD_LOGITS = max(KEPT_LOGITS, ROWS * ACCELERATOR_COLUMNS)
LAUNCH_SECONDS = 2.5e-6  # of a small kernel in a CUDA graph: an estimate; launched by the host one takes 20e-6
BACKWARD_LAYERS = 1.2  # of what a layer keeps, held in addition while its backward pass runs
SCORE_BYTES = 10  # of an attention score by plain products, in the backward pass
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
    head_size: int
    launches: int | None  # kernels of the graph decoder for a token of every row; None where it is not used

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
    longest_completion: int | None = None  # for which sampling lasts; None: completion_tokens
    eval_batch_size: int = 50

    @property
    def longest(self) -> int:
        """Return the tokens of the longest completion, for which all others of a rollout wait."""
        return self.longest_completion or self.completion_tokens


def measure_model(
    vocab_size: int | None, *, image: bool = False, count_launches: bool = False, **model: Any
) -> ModelSize:
    """Build a policy's modules on the meta device and count.

    ``vocab_size`` is the tokenizer's, for a language model whose config names none; ``count_launches`` fills
    :attr:`ModelSize.launches`; ``model`` are the keywords of
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
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = next(iter(language_model.parameters())).element_size()
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
        key_value_size=config.num_key_value_heads * head_size,
        vocab_size=config.vocab_size,
        activation_bytes=width,
        media_tokens=sum(fusion.num_tokens[name] for name in fusion.shown),
        feature_bytes=encoders.feature_bytes,
        head_size=head_size,
        # Last, since it takes the model's weights away. A GPU decodes in half precision.
        launches=launches_per_token(language_model) if count_launches and width < 4 else None,
    )


def memory_gib(size: ModelSize, work: Workload, stage: StageName, strategy: StrategyName) -> float:
    """Return the peak memory of one GPU in GiB."""
    # AdamW keeps gradient and two moments in float32.
    held = _held_bytes(size, work, strategy, ADAMW_BYTES)
    if stage == "grpo" and work.keeps_reference:
        held += 4 * size.total_trainable
    tokens = _update_tokens(work, stage)
    update = _activation_bytes(size, tokens, work.gradient_checkpointing) + _head_bytes(size, work, stage)
    update += max(BACKWARD_LAYERS * _layer_bytes(size) * tokens, _score_bytes(size, work, stage))
    peak = max(update, _sampling_bytes(size, work)) if stage == "grpo" else update
    return float((held + peak) / GIB)


def validation_gib(size: ModelSize, work: Workload, stage: StageName, strategy: StrategyName) -> float:
    """Return the peak memory of one GPU in GiB while it answers validation clips.

    At ``beta`` 0 GRPO keeps a copy of what trains on the CPU, which the GPU holds while ``val/kl`` is measured; weights
    that are sharded have none.
    """
    held = _held_bytes(size, work, strategy, ADAMW_BYTES - 4)  # there are no gradients
    if stage == "grpo" and (work.keeps_reference or strategy == "ddp"):
        held += 4 * size.total_trainable
    one = dataclasses.replace(work, batch_size=work.eval_batch_size, num_generations=1, steps_per_generation=1)
    return float((held + _sampling_bytes(size, one)) / GIB)


def _held_bytes(size: ModelSize, work: Workload, strategy: StrategyName, state_bytes: int) -> float:
    """Return the bytes of weights and optimizer."""
    # `ddp` keeps everything on every rank; `fsdp` shards weights, gradients and moments, and unshards weights and
    # gradients during a step, so that it pays where much trains.
    states = state_bytes * size.total_trainable
    weights: float = size.weight_bytes
    if strategy != "ddp":
        states //= work.gpus
    if strategy == "fsdp" and work.gpus > 1:
        weights += size.sharded_bytes / work.gpus + 4 * size.total_trainable
    return weights + states


def step_flops(size: ModelSize, work: Workload, stage: StageName) -> float:
    """Return the operations of one process's update, without the encoders, whose outputs are stored."""
    # Forward: 2 operations per parameter and token. Backward: 2 for the gradients of activations, and 2 per parameter
    # that trains; of attention 2.5 times its forward pass, whose scores are computed again. Checkpointing adds a
    # forward pass, and a reference one more.
    forward = 2.0 * size.language_model_parameters * _update_tokens(work, stage)
    trained_fraction = (size.trainable["language_model"] + size.trainable["lora"]) / size.language_model_parameters
    again = float(work.gradient_checkpointing) + float(stage == "grpo" and work.keeps_reference)
    return forward * (2.0 + trained_fraction + again) + _attention_flops(size, work, stage) * (3.5 + again)


def step_seconds(size: ModelSize, work: Workload, stage: StageName, *, tflops: float, bandwidth: float) -> float:
    """Return the seconds of one process's step; a step's share of its rollout, where several share one.

    ``tflops`` are TFLOP/s of matrix products, ``bandwidth`` GB/s of the GPU's memory.
    """
    seconds = step_flops(size, work, stage) / (tflops * 1e12)
    if stage == "sft":
        return seconds
    return seconds + rollout_seconds(size, work, tflops=tflops, bandwidth=bandwidth) / work.steps_per_generation


def rollout_seconds(
    size: ModelSize, work: Workload, *, tflops: float, bandwidth: float, launch_seconds: float = LAUNCH_SECONDS
) -> float:
    """Return the seconds in which one process samples the completions of all steps that share a rollout."""
    # Every row is computed until the longest has ended. For a token of each, all weights of the language model are read
    # once, and the prompts' keys and values, and the completions' (half of them on average); or the products take
    # longer. Small kernels come on top.
    clips = work.batch_size * work.steps_per_generation
    forward = 2.0 * size.language_model_parameters / (tflops * 1e12)
    weights = size.activation_bytes * size.parameters["language_model"] + 4 * size.parameters["lora"]
    tokens = clips * (work.prompt_tokens + work.num_generations * work.longest / 2)
    reading = (weights + _token_bytes(size) * tokens) / (bandwidth * 1e9)
    token = max(forward * clips * work.num_generations, reading) + (size.launches or 0) * launch_seconds
    return forward * clips * work.prompt_tokens + work.longest * token


def validation_seconds(size: ModelSize, work: Workload, clips: int, *, tflops: float, bandwidth: float) -> float:
    """Return the seconds in which one process answers ``clips`` validation clips, each as long as it may."""
    batches, rest = divmod(clips, work.eval_batch_size)

    def seconds(at_once: int) -> float:
        own = dataclasses.replace(work, batch_size=at_once, num_generations=1, steps_per_generation=1)
        return rollout_seconds(size, own, tflops=tflops, bandwidth=bandwidth)

    return batches * seconds(work.eval_batch_size) + (seconds(rest) if rest else 0.0)


def _attention_flops(size: ModelSize, work: Workload, stage: StageName) -> float:
    """Return the operations of the update's attention, forward; half of the causal scores are computed."""
    rows, prompt, own = _rows(work, stage), work.prompt_tokens, work.completion_tokens
    pairs = rows * (prompt + own) ** 2 / 2
    if work.share_prefix:
        pairs = work.batch_size * prompt**2 / 2 + rows * (own * prompt + own**2 / 2)
    return 4.0 * size.num_layers * size.num_heads * size.head_size * pairs


def _rows(work: Workload, stage: StageName) -> int:
    return work.batch_size * (work.num_generations if stage == "grpo" else 1)


def _update_tokens(work: Workload, stage: StageName) -> int:
    if not work.share_prefix:
        return _rows(work, stage) * (work.prompt_tokens + work.completion_tokens)
    return work.batch_size * work.prompt_tokens + _rows(work, stage) * work.completion_tokens


def _activation_bytes(size: ModelSize, tokens: int, checkpointing: bool) -> float:
    if (
        checkpointing
    ):  # a layer's input, and its keys and values; all of the last layer, and of one that is computed again
        kept = size.activation_bytes * (size.hidden_size + 2 * size.key_value_size)
        return tokens * (size.num_layers * kept + 2 * _layer_bytes(size))
    return float(tokens * size.num_layers * _layer_bytes(size))


def _layer_bytes(size: ModelSize) -> float:
    """Return what a layer keeps of a token for its backward pass, as counted on the meta device."""
    layer = size.activation_bytes * (3.0 * size.intermediate_size + 3 * size.hidden_size + 4 * size.key_value_size)
    if size.activation_bytes < 4:
        layer += 5 * size.hidden_size  # of norms, in single precision
    if size.parameters["lora"]:
        layer += 3.5 * size.activation_bytes * size.hidden_size
    return layer


def _score_bytes(size: ModelSize, work: Workload, stage: StageName) -> float:
    if not work.share_prefix or (work.attention != "plain" and size.activation_bytes < 4):
        return 0.0  # fused attention holds no scores
    scores = _rows(work, stage) * size.num_heads * work.completion_tokens
    return SCORE_BYTES * float(scores * max(work.completion_tokens, work.prompt_tokens))


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
    return clips * (work.prompt_tokens + work.num_generations * work.longest) * _token_bytes(size)


def _token_bytes(size: ModelSize) -> float:
    return 2.0 * size.num_layers * size.key_value_size * size.activation_bytes


def _bytes(module: nn.Module) -> int:
    return sum(param.numel() * param.element_size() for param in module.parameters())
