"""A checkpoint as a Hugging Face folder: ``affectgpt-r1 export experiment=grpo init_from=CKPT --output FOLDER``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.command import run_composed_command
from affectgpt_r1.config import resolved
from affectgpt_r1.errors import CheckpointError

PROCESSOR_KEYS = ("modalities", "visual", "num_frames", "image_size", "channel_order", "num_windows", "window_seconds")

PROMPT_KEYS = ("prompt.thinks", "prompt.kind", "prompt.question", "data.visual")
"""What a policy is asked, and in what form it answers: learned in training, and of no use with another value."""

CARD = """---
library_name: affectgpt-r1
tags: [emotion-recognition, multimodal, affectgpt]
---

# {name}

Open-vocabulary emotion recognition from video, audio and subtitle. Trained with affectgpt-r1, stage `{stage}`, seed
{seed}, from `{checkpoint}`.

- Language model: {base}, {adapter}; fusion `{fusion}`; {trainable:,} of {total:,} parameters trained.
- Data: {data}.
- Question: "{question}"
- This folder: {kind}. Load it with `affectgpt_r1.policy.export.load_exported`.

## Limits

Emotions are inferred from what shows and sounds; they are not what a person feels. Not for decisions about people. The
weights below it and the data that it was trained on have licences of their own.
"""


def export(config: DictConfig, folder: Path, kind: str) -> Path:
    """Build the policy of a composed ``configs/train.yaml`` and write it.

    Args:
        config: With ``init_from``, the checkpoint.
        folder: Where to; it must not exist or be empty.
        kind: ``adapter`` or ``merged``.

    Raises:
        CheckpointError: No checkpoint is named, its run asked something else, or the folder holds something or cannot
            be made.
    """
    from affectgpt_r1.assembly import build_policy
    from affectgpt_r1.policy.export import export_policy

    if config.init_from is None:
        raise CheckpointError("init_from names no checkpoint: give the one to export")
    if folder.is_dir() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty; choose another --output")
    check_prompt(config, Path(config.init_from))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"--output {folder}: no folder can be made there: {error.strerror}") from error
    settings = resolved(config)
    model = {key: value for key, value in settings["model"].items() if key != "_target_"}
    policy = build_policy(config)
    card = CARD.format(
        name=folder.name,
        stage=settings["stage"]["name"],
        seed=settings["seed"],
        checkpoint=Path(config.init_from).name,
        base=model["language_model"].get("pretrained") or "built from its configuration and trained from scratch",
        adapter=f"LoRA {model['lora']}" if model["lora"] else "trained whole",
        fusion=model["fusion"],
        trainable=sum(one.numel() for one in policy.trainable_parameters().values()),
        total=sum(one.numel() for one in policy.parameters()),
        data="synthetic clips: figures say nothing about real people" if config.synthetic else config.data.train_labels,
        question=settings["prompt"]["question"].strip(),
        kind="adapter and projectors; the base model is loaded from its own folder" if kind == "adapter" else "merged",
    )
    arguments: dict[str, Any] = {"kind": kind, "card": card}
    arguments["processor"] = {key: settings["data"][key] for key in PROCESSOR_KEYS}
    arguments["max_completion_length"] = settings["prompt"]["max_completion_length"]
    export_policy(policy, model, folder, **arguments)
    return folder


def check_prompt(config: DictConfig, checkpoint: Path) -> None:
    """Compare the prompt with that of the run which wrote the checkpoint, where its configuration lies beside it.

    Raises:
        CheckpointError: Names the first key that differs.
    """
    written = checkpoint.parent.parent / ".hydra" / "config.yaml"
    if not written.is_file():
        return
    trained = OmegaConf.load(written)
    for key in PROMPT_KEYS:
        before, here = OmegaConf.select(trained, key), OmegaConf.select(config, key)
        if before not in (None, here):
            choice = OmegaConf.select(trained, "prompt.name") if key.startswith("prompt.") else None
            remedy = f"prompt={choice}" if choice not in (None, config.prompt.name) else f"{key}={json.dumps(before)}"
            raise CheckpointError(
                f"{checkpoint} was trained with {key}={json.dumps(before)}, here it is {json.dumps(here)}: give "
                f"{remedy}, as {written} has it"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: options of its own, and the overrides of ``configs/train.yaml``."""
    parser = argparse.ArgumentParser(prog="affectgpt-r1 export", description="Write a Hugging Face folder.")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("--kind", choices=("adapter", "merged"), default="merged")
    print(run_composed_command(parser, lambda options, config: export(config, options.output, options.kind), arguments))


if __name__ == "__main__":
    main()
