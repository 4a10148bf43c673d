"""Estimate what a run needs, before anything is downloaded: ``affectgpt-r1 plan experiment=affectgpt_r1/grpo``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from affectgpt_r1.cli.command import lazy
from affectgpt_r1.cli.composed_command import run_composed_command
from affectgpt_r1.cli.options import add_json_option, save_json
from affectgpt_r1.io.clean_text import printable

estimate = lazy("config.estimate:estimate")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input is one line and exit code 2."""
    print(printable(run_composed_command(_parser(), plan, arguments)))


def plan(options: argparse.Namespace, config: DictConfig) -> str:
    """Write ``--json``, and return the plan as text."""
    result = estimate(
        config,
        tflops=options.tflops,
        bandwidth=options.bandwidth,
        gpus=options.gpus,
        answer_tokens=options.answer_tokens,
    )
    save_json(options, result)
    return render(result)


def render(result: dict[str, Any]) -> str:
    """Return the plan as text."""
    rows = [f"{'part':<16}{'parameters':>16}{'trained':>16}"]
    rows += [f"{part:<16}{count:>16,}{result['trainable'][part]:>16,}" for part, count in result["parameters"].items()]
    rows.append(f"{'total':<16}{result['total_parameters']:>16,}{result['trainable_parameters']:>16,}")
    rows += ["", f"GiB per GPU, {result['gpus']} in all; without fragmentation and communication buffers"]
    strategies = list(result["memory_gib"]["sft"])
    rows.append(f"{'':<10}" + "".join(f"{strategy:>12}" for strategy in strategies))
    memory = {**result["memory_gib"], "validation": result["validation"]["memory_gib"]}
    rows += [
        f"{stage:<10}" + "".join(f"{values[strategy]:>12.1f}" for strategy in strategies)
        for stage, values in memory.items()
    ]
    if lent := result["validation"]["lent_reference_gib"]:
        rows.append(f"beta is 0: {lent:.2f} GiB of validation's are the first weights, for val/kl; else on the CPU")
    return "\n".join([*rows, "", *_time_lines(result)])


def _time_lines(result: dict[str, Any]) -> list[str]:
    tokens = result["tokens_per_clip"]
    counted = "" if tokens["exact"] else " (estimated: the tokenizer is not on this machine)"
    origin = "measured on this machine" if result["tflops_measured_here"] else "given"
    hours = "" if result["hours"] is None else f", {result['hours']:.1f} h"
    steps = "until its time is up, steps" if result["steps"] is None else f"{result['steps']:,}"
    return [
        *_data_lines(result),
        f"tokens per clip {tokens['prompt']} of the prompt, {tokens['media']} of them media{counted}; "
        f"up to {tokens['completion']} of the answer",
        f"steps           {steps} of {result['clips_per_step']} clips",
        f"time            {result['seconds_per_step']:.2f} s per step{hours} if every answer has "
        f"{result['answer_tokens']} tokens, at "
        f"{result['tflops']} TFLOP/s ({origin}) and {result['bandwidth']:.0f} GB/s of memory per GPU",
        *_answering_lines(result["rollout"], result["validation"]),
        "                Media decoding comes on top.",
    ]


def _answering_lines(rollout: dict[str, Any] | None, validation: dict[str, Any]) -> list[str]:
    """Say how long it takes to sample a rollout, and to answer the validation clips."""
    lines = []
    if rollout is not None:
        launches = rollout["launches_per_token"]
        counted = "" if launches is None else f", {launches:,} kernels a token"
        lines.append(
            f"rollout         {rollout['seconds']:.1f} s for {rollout['rows']} rows at once{counted}, if the longest "
            f"has {rollout['longest_answer']} tokens"
        )
    clips, seconds = validation["clips"], validation["seconds"]
    of = "1,000 clips" if clips is None else f"{clips:,} clips"
    seconds = validation["seconds_per_1000_clips"] if seconds is None else seconds
    return [*lines, f"validation      {seconds / 60:.1f} minutes for {of}, {validation['batch']} at once, as long"]


def _data_lines(result: dict[str, Any]) -> list[str]:
    stored = result["feature_bytes_per_clip"]
    if result["clips"] is None:
        return [f"features        {stored / 1000:.0f} KB per clip on disk"] if stored else []
    passes = (
        "" if result["passes"] is None else f", {result['passes']:.1f} passes over the {result['training_clips']:,}"
    )
    size = f"; features take {stored * result['clips'] / 1e9:.2f} GB on disk" if stored else ""
    return [f"clips           {result['clips']:,} in the training file{passes} that train{size}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="affectgpt-r1 plan", description="Parameters, memory, steps and hours.")
    parser.add_argument("--tflops", type=_positive(float), help="sustained TFLOP/s of one GPU (default: measured here)")
    parser.add_argument(
        "--bandwidth",
        type=_positive(float),
        help="GB/s of one GPU's memory (default: 2000, an A100's, with --tflops; else measured here)",
    )
    parser.add_argument("--gpus", type=_positive(int), help="number of GPUs (default: trainer.devices)")
    parser.add_argument(
        "--answer-tokens", type=_positive(int), help="mean tokens of an answer, for the time (default: the limit)"
    )
    add_json_option(parser, "the plan")
    return parser


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(given: str) -> float:
        value = kind(given)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be above 0, not {given}")
        return value

    return number


if __name__ == "__main__":
    main()
