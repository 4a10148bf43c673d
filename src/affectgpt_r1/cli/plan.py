"""What a run will need, before anything is downloaded: ``affectgpt-r1 plan experiment=affectgpt_r1_grpo``."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from affectgpt_r1.cli.command import run_composed_command
from affectgpt_r1.config.compose import resolved
from affectgpt_r1.io.clean_text import printable
from affectgpt_r1.io.plain_json import write_json

if TYPE_CHECKING:
    from affectgpt_r1.policy.size import ModelSize, Workload

NOMINAL_SUBTITLE = "I did not expect to see you here again after all this time, really."
CHARACTERS_A_TOKEN = 4.0
"""Of English text, where the model's tokenizer is not on this machine."""
VAL_FRACTION = 0.1
"""Of the training clips, where the configuration names neither a file nor a share, as the data module has it."""
USUAL_BANDWIDTH = 2000.0
"""GB/s of an A100's memory; an H100 has 3350."""


def plan(
    config: DictConfig,
    *,
    tflops: float | None = None,
    bandwidth: float | None = None,
    gpus: int | None = None,
    answer_tokens: int | None = None,
) -> dict[str, Any]:
    """Parameters, memory, steps and hours of a training run.

    Args:
        config: The composed ``configs/train.yaml``.
        tflops: Sustained TFLOP/s of one GPU; measured on this machine if None.
        bandwidth: GB/s of one GPU's memory; :data:`USUAL_BANDWIDTH`, or measured as ``tflops`` is, if None.
        gpus: Processes; those of the trainer if None.
        answer_tokens: How long a target or completion is on average, for the time; the limit, for which memory must
            suffice, if None.

    Returns:
        Plain numbers by name, as ``--json`` writes them.
    """
    from affectgpt_r1.policy.size import StageName, step_seconds

    settings = resolved(config)
    size, prompt_tokens, exact = _measured(settings)
    stage = settings["stage"]
    steps, accumulated = settings["trainer"]["max_steps"], settings["trainer"]["accumulate_grad_batches"]
    work = _workload(settings, prompt_tokens, gpus)
    kind: StageName = "grpo" if "num_generations" in stage else "sft"
    rate, measured = (tflops, False) if tflops is not None else (measured_tflops(), True)
    if bandwidth is None:
        bandwidth = measured_bandwidth() if measured else USUAL_BANDWIDTH
    usual = dataclasses.replace(work, completion_tokens=answer_tokens or work.completion_tokens)
    clips_per_step = work.batch_size * work.gpus * accumulated
    seconds = step_seconds(size, usual, kind, tflops=rate, bandwidth=bandwidth) * accumulated
    return {
        "experiment": settings["experiment_name"],
        "stage": stage["name"],
        **_sizes(size, work, exact),
        "tflops": round(rate, 3),
        "tflops_measured_here": measured,
        "bandwidth": round(bandwidth, 1),
        "answer_tokens": usual.completion_tokens,
        **_data(settings["data"], settings["model"], steps * clips_per_step if steps > 0 else None),
        "clips_per_step": clips_per_step,
        "steps": steps if steps > 0 else None,
        "seconds_per_step": seconds,
        "hours": seconds * steps / 3600 if steps > 0 else None,
    }


def _measured(settings: dict[str, Any]) -> tuple[ModelSize, int, bool]:
    """The model on the meta device, tokens of a prompt with its media, and whether its own tokenizer counted them."""
    from affectgpt_r1.policy.size import measure_model

    model = {
        key: value for key, value in settings["model"].items() if key not in ("_target_", "engine", "share_prefix")
    }
    text, tokens, vocab_size, exact = _prompt(settings, model.pop("tokenizer"), model.get("weights"))
    size = measure_model(vocab_size, image=settings["data"]["visual"] == "image", **model)
    return size, tokens + size.media_tokens - text.count("Here>"), exact


def _workload(settings: dict[str, Any], prompt_tokens: int, gpus: int | None) -> Workload:
    from affectgpt_r1.policy.size import Workload

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
    )


def _sizes(size: ModelSize, work: Workload, exact: bool) -> dict[str, Any]:
    """Parameters, memory by stage and strategy, and tokens of a clip."""
    from affectgpt_r1.policy.size import STAGES, STRATEGIES, memory_gib

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


def _data(data: dict[str, Any], model: dict[str, Any], drawn: int | None) -> dict[str, Any]:
    """Clips of the training file, where it is on this machine, passes over them, and what storing features takes."""
    from affectgpt_r1.data.layouts.manifest import read_table

    labels = Path(data["root"]) / data["train_labels"]
    clips = len(read_table(labels)) if labels.is_file() else None
    frames = {"image": 1, "both": 2 * data["num_frames"]}.get(data["visual"], data["num_frames"])
    floats = {
        "video": frames * model["video_encoder"]["projection_dim"],
        "audio": data["num_windows"] * model["audio_encoder"]["hidden_size"],
    }
    share = data.get("val_fraction", VAL_FRACTION) if data["validation_labels"] is None else 0.0
    train = None if clips is None else min(clips - round(share * clips), data["subset"] or clips)
    return {
        "clips": clips,
        "training_clips": train,
        "passes": drawn / train if train and drawn else None,
        "feature_bytes_per_clip": 0
        if data["feature_store"] is None
        else sum(4 * count for kind, count in floats.items() if kind in data["modalities"]),
    }


def measured_tflops(seconds: float = 1.0) -> float:
    """TFLOP/s of matrix products on this machine's accelerator, or on its CPU; a model reaches a part of it."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side, dtype = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        torch.mm(matrix, matrix).sum().item()  # item waits for the device
        count += 1
    return 2.0 * side**3 * count / (time.perf_counter() - started) / 1e12


def measured_bandwidth(seconds: float = 0.5) -> float:
    """GB/s at which this machine's accelerator, or its CPU, reads memory: that of sums over 512 MB."""
    import torch

    values = torch.ones(2**27, device="cuda" if torch.cuda.is_available() else "cpu")
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        values.sum().item()
        count += 1
    return values.nbytes * count / (time.perf_counter() - started) / 1e9


def _prompt(settings: dict[str, Any], tokenizer: str, weights: str | None) -> tuple[str, int, int | None, bool]:
    """The prompt of a clip with every modality, its tokens, the tokenizer's size, and whether they were counted."""
    from affectgpt_r1.policy.backbone import load_tokenizer
    from affectgpt_r1.policy.pretrained import local_weights
    from affectgpt_r1.policy.prompts import PromptTemplate

    modalities = settings["data"]["modalities"]
    template = PromptTemplate(settings["prompt"]["question"], visual=settings["data"]["visual"])
    text = template.prompt(NOMINAL_SUBTITLE if "text" in modalities else "", modalities)
    nominal_size = settings["model"]["language_model"].get("vocab_size")
    is_pretrained = "pretrained" in settings["model"]["language_model"]
    if Path(local_weights(tokenizer, weights)).exists() or (nominal_size is None and not is_pretrained):
        loaded = load_tokenizer(tokenizer, weights)
        return text, len(loaded(text, add_special_tokens=False)["input_ids"]) + 1, len(loaded), True
    return text, math.ceil(len(text) / CHARACTERS_A_TOKEN), nominal_size, False


def render(result: dict[str, Any]) -> str:
    """The plan as text."""
    rows = [f"{'part':<16}{'parameters':>16}{'trained':>16}"]
    rows += [f"{part:<16}{count:>16,}{result['trainable'][part]:>16,}" for part, count in result["parameters"].items()]
    rows.append(f"{'total':<16}{result['total_parameters']:>16,}{result['trainable_parameters']:>16,}")
    rows += ["", f"GiB a GPU, {result['gpus']} in all; without fragmentation and communication buffers"]
    strategies = list(result["memory_gib"]["sft"])
    rows.append(f"{'':<8}" + "".join(f"{strategy:>12}" for strategy in strategies))
    rows += [
        f"{stage:<8}" + "".join(f"{values[strategy]:>12.1f}" for strategy in strategies)
        for stage, values in result["memory_gib"].items()
    ]
    return "\n".join([*rows, "", *_time_lines(result)])


def _time_lines(result: dict[str, Any]) -> list[str]:
    tokens = result["tokens_per_clip"]
    counted = "" if tokens["exact"] else " (estimated: the tokenizer is not on this machine)"
    origin = "measured on this machine" if result["tflops_measured_here"] else "given"
    hours = "" if result["hours"] is None else f", {result['hours']:.1f} h"
    steps = "until its time is up, steps" if result["steps"] is None else f"{result['steps']:,}"
    return [
        *_data_lines(result),
        f"tokens a clip   {tokens['prompt']} of the prompt, {tokens['media']} of them media{counted}; "
        f"up to {tokens['completion']} of the answer",
        f"steps           {steps} of {result['clips_per_step']} clips",
        f"time            {result['seconds_per_step']:.2f} s a step{hours} if every answer has "
        f"{result['answer_tokens']} tokens, at "
        f"{result['tflops']} TFLOP/s ({origin}) and {result['bandwidth']:.0f} GB/s of memory a GPU",
        "                Media decoding, validation and the launching of kernels, token by token, come on top.",
    ]


def _data_lines(result: dict[str, Any]) -> list[str]:
    stored = result["feature_bytes_per_clip"]
    if result["clips"] is None:
        return [f"features        {stored / 1000:.0f} KB a clip on disk"] if stored else []
    passes = (
        "" if result["passes"] is None else f", {result['passes']:.1f} passes over the {result['training_clips']:,}"
    )
    size = f"; features take {stored * result['clips'] / 1e9:.2f} GB on disk" if stored else ""
    return [f"clips           {result['clips']:,} in the training file{passes} that train{size}"]


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(given: str) -> float:
        value = kind(given)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be above 0, not {given}")
        return value

    return number


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: options of its own, and the overrides of ``configs/train.yaml``."""
    parser = argparse.ArgumentParser(prog="affectgpt-r1 plan", description="Parameters, memory, steps and hours.")
    parser.add_argument("--tflops", type=_positive(float), help="sustained TFLOP/s of one GPU (default: measured here)")
    parser.add_argument(
        "--bandwidth",
        type=_positive(float),
        help=f"GB/s of one GPU's memory (default: {USUAL_BANDWIDTH:.0f}, an A100's, with --tflops; else measured here)",
    )
    parser.add_argument("--gpus", type=_positive(int), help="number of GPUs (default: trainer.devices)")
    parser.add_argument(
        "--answer-tokens", type=_positive(int), help="mean tokens of an answer, for the time (default: the limit)"
    )
    parser.add_argument("--json", type=Path, help="also write the plan to this file")

    def work(options: argparse.Namespace, config: DictConfig) -> str:
        rates = {name: getattr(options, name) for name in ("tflops", "bandwidth", "gpus", "answer_tokens")}
        result = plan(config, **rates)
        if options.json is not None:
            write_json(options.json, result, "choose another --json")
        return render(result)

    print(printable(run_composed_command(parser, work, arguments)))


if __name__ == "__main__":
    main()
