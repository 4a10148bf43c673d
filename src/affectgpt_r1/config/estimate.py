"""Estimate what a training run needs before anything is downloaded: parameters, memory, steps and hours."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from affectgpt_r1.config.compose import resolved
from affectgpt_r1.data.layouts.manifest import read_table
from affectgpt_r1.policy.backbone import load_tokenizer
from affectgpt_r1.policy.build_policy import ENGINE_KEYS, family_of
from affectgpt_r1.policy.pretrained import local_weights
from affectgpt_r1.policy.size import (
    GIB,
    STAGES,
    STRATEGIES,
    ModelSize,
    StageName,
    Workload,
    measure_model,
    memory_gib,
    rollout_seconds,
    step_seconds,
    validation_gib,
    validation_seconds,
)

NOMINAL_SUBTITLE = "I did not expect to see you here again after all this time, really."
CHARACTERS_PER_TOKEN = 4.0  # of English text, where the model's tokenizer is not on this machine
VAL_FRACTION = 0.1  # the data module's default, where the configuration names neither a file nor a fraction
USUAL_BANDWIDTH = 2000.0  # GB/s of an A100's memory; an H100 has 3350


def estimate(
    config: DictConfig,
    *,
    tflops: float | None = None,
    bandwidth: float | None = None,
    gpus: int | None = None,
    answer_tokens: int | None = None,
) -> dict[str, Any]:
    """Return the parameters, memory, steps and hours of a training run.

    Args:
        config: The composed ``configs/train.yaml``.
        tflops: Sustained TFLOP/s of one GPU; measured on this machine if None.
        bandwidth: GB/s of one GPU's memory; :data:`USUAL_BANDWIDTH`, or measured as ``tflops`` is, if None.
        gpus: Processes; those of the trainer if None.
        answer_tokens: Mean length of a target or completion, for the time; the limit, which memory is for, if None.

    Returns:
        Plain numbers by name, as ``--json`` writes them.
    """
    settings = resolved(config)
    size, prompt_tokens, exact = _measured(settings)
    stage = settings["stage"]
    steps, accumulated = settings["trainer"]["max_steps"], settings["trainer"]["accumulate_grad_batches"]
    work = _workload(settings, prompt_tokens, gpus)
    kind: StageName = "grpo" if "num_generations" in stage else "sft"
    rate, measured = (tflops, False) if tflops is not None else (measured_tflops(), True)
    if bandwidth is None:
        bandwidth = measured_bandwidth() if measured else USUAL_BANDWIDTH
    usual = dataclasses.replace(
        work, completion_tokens=answer_tokens or work.completion_tokens, longest_completion=work.completion_tokens
    )
    clips_per_step = work.batch_size * work.gpus * accumulated
    seconds = step_seconds(size, usual, kind, tflops=rate, bandwidth=bandwidth) * accumulated
    data = _data(settings["data"], size, steps * clips_per_step if steps > 0 else None)
    rates = {"tflops": rate, "bandwidth": bandwidth}
    return {
        "experiment": settings["experiment_name"],
        "stage": stage["name"],
        **_sizes(size, work, exact),
        "tflops": round(rate, 3),
        "tflops_measured_here": measured,
        "bandwidth": round(bandwidth, 1),
        "answer_tokens": usual.completion_tokens,
        **data,
        "clips_per_step": clips_per_step,
        "steps": steps if steps > 0 else None,
        "seconds_per_step": seconds,
        "hours": seconds * steps / 3600 if steps > 0 else None,
        "rollout": _rollout(size, usual, rates) if kind == "grpo" else None,
        "validation": _validation(size, usual, kind, data["validation_clips"], rates),
    }


def _rollout(size: ModelSize, work: Workload, rates: dict[str, float]) -> dict[str, Any]:
    return {
        "rows": work.batch_size * work.steps_per_generation * work.num_generations,
        "launches_per_token": size.launches,
        "longest_answer": work.longest,
        "seconds": rollout_seconds(size, work, **rates),
    }


def _validation(
    size: ModelSize, work: Workload, kind: StageName, clips: int | None, rates: dict[str, float]
) -> dict[str, Any]:
    """Return batch, memory, and seconds of each process to answer all clips, where their number is known, and 1,000."""
    lends = kind == "grpo" and not work.keeps_reference
    return {
        "clips": clips,
        "batch": work.eval_batch_size,
        "seconds": None if clips is None else validation_seconds(size, work, -(-clips // work.gpus), **rates),
        "seconds_per_1000_clips": validation_seconds(size, work, 1000, **rates),
        "memory_gib": {strategy: round(validation_gib(size, work, kind, strategy), 2) for strategy in STRATEGIES},
        "lent_reference_gib": 4 * size.total_trainable / GIB if lends else 0.0,
    }


def _measured(settings: dict[str, Any]) -> tuple[ModelSize, int, bool]:
    """Return the model on the meta device, a prompt's tokens with media, and whether its own tokenizer counted them."""
    model = {key: value for key, value in settings["model"].items() if key not in ("_target_", *ENGINE_KEYS)}
    text, tokens, vocab_size, exact = _prompt(settings, model.pop("tokenizer"), model.get("weights"))
    size = measure_model(vocab_size, image=settings["data"]["visual"] == "image", count_launches=True, **model)
    return size, tokens + size.media_tokens - text.count("Here>"), exact


def _workload(settings: dict[str, Any], prompt_tokens: int, gpus: int | None) -> Workload:
    stage, trainer, model = settings["stage"], settings["trainer"], settings["model"]
    devices = trainer["devices"]
    if gpus is None:
        gpus = devices * trainer.get("num_nodes", 1) if isinstance(devices, int) and devices > 0 else 1
    return Workload(
        batch_size=settings["data"]["batch_size"],
        num_generations=stage.get("num_generations", 8),
        prompt_tokens=prompt_tokens,
        completion_tokens=settings["prompt"]["max_completion_length"],
        keeps_reference=stage.get("beta", 0.0) != 0.0,
        gradient_checkpointing=model.get("gradient_checkpointing", False),
        share_prefix=model.get("share_prefix", True),
        accumulates=trainer["accumulate_grad_batches"] > 1,
        gpus=gpus,
        attention=model.get("attention", "auto"),
        steps_per_generation=stage.get("steps_per_generation", 1),
        eval_batch_size=settings["data"]["eval_batch_size"],
    )


def _sizes(size: ModelSize, work: Workload, exact: bool) -> dict[str, Any]:
    """Return parameters, memory by stage and strategy, and tokens per clip."""
    return {
        "total_parameters": size.total,
        "trainable_parameters": size.total_trainable,
        "lora_parameters": size.parameters["lora"],
        "parameters": dict(size.parameters),
        "trainable": dict(size.trainable),
        "gpus": work.gpus,
        "memory_gib": {
            name: {strategy: round(memory_gib(size, work, name, strategy), 2) for strategy in STRATEGIES}
            for name in STAGES
        },
        "tokens_per_clip": {
            "media": size.media_tokens,
            "prompt": work.prompt_tokens,
            "completion": work.completion_tokens,
            "exact": exact,
        },
    }


def _data(data: dict[str, Any], size: ModelSize, drawn: int | None) -> dict[str, Any]:
    """Return the training file's clips, where it is on this machine, passes over them, and bytes of stored features."""
    labels = Path(data["root"]) / data["train_labels"]
    clips = len(read_table(labels)) if labels.is_file() else None
    frames = {"image": 1, "both": 2 * data["num_frames"]}.get(data["visual"], data["num_frames"])
    counts = {"video": frames, "audio": data["num_windows"]}
    val_fraction = data.get("val_fraction", VAL_FRACTION) if data["validation_labels"] is None else 0.0
    train = None if clips is None else min(clips - round(val_fraction * clips), data["subset"] or clips)
    validation = None if clips is None else round(val_fraction * clips)
    if data["validation_labels"] is not None:
        file = Path(data["root"]) / data["validation_labels"]
        validation = len(read_table(file)) if file.is_file() else None
    return {
        "clips": clips,
        "training_clips": train,
        "validation_clips": validation,
        "passes": drawn / train if train and drawn else None,
        "feature_bytes_per_clip": 0
        if data["feature_store"] is None
        else sum(count * size.feature_bytes[kind] for kind, count in counts.items() if kind in data["modalities"]),
    }


def measured_tflops(seconds: float = 1.0) -> float:
    """Measure TFLOP/s of matrix products on this machine's GPU, or its CPU; a model reaches a part of it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side, dtype = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        torch.mm(matrix, matrix).sum().item()  # item waits for the device
        count += 1
    return 2.0 * side**3 * count / (time.perf_counter() - started) / 1e12


def measured_bandwidth(seconds: float = 0.5) -> float:
    """Measure the GB/s at which this machine's GPU, or its CPU, reads memory, by sums over 512 MB."""
    values = torch.ones(2**27, device="cuda" if torch.cuda.is_available() else "cpu")
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        values.sum().item()
        count += 1
    return values.nbytes * count / (time.perf_counter() - started) / 1e9


def _prompt(settings: dict[str, Any], tokenizer: str, weights: str | None) -> tuple[str, int, int | None, bool]:
    """Return a clip's prompt, its tokens, the vocabulary's size, and whether a tokenizer counted them."""
    modalities = settings["data"]["modalities"]
    family = family_of(settings["model"])
    template = family.template(settings["prompt"]["question"], visual=settings["data"]["visual"])
    text = template.prompt(NOMINAL_SUBTITLE if "text" in modalities else "", modalities)
    nominal_size = settings["model"]["language_model"].get("vocab_size")
    is_pretrained = "pretrained" in settings["model"]["language_model"]
    if Path(local_weights(tokenizer, weights)).exists() or (nominal_size is None and not is_pretrained):
        loaded = load_tokenizer(tokenizer, weights)
        return text, len(loaded(text, add_special_tokens=False)["input_ids"]) + 1, len(loaded), True
    return text, math.ceil(len(text) / CHARACTERS_PER_TOKEN), nominal_size, False
