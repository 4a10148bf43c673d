"""Write a checkpoint as a Hugging Face folder with its model card."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.config.compose import resolved
from affectgpt_r1.config.instantiate import answer_sampling, build_policy
from affectgpt_r1.config.policy_config import lay_over, media_keys, settings_of_checkpoint
from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.io.clean_text import markdown_text, one_line
from affectgpt_r1.io.files import clear_write_errors, replacing
from affectgpt_r1.policy.hf_export import export_policy
from affectgpt_r1.policy.hf_folder import is_exported

log = logging.getLogger(__name__)

ASKED = ("prompt.max_completion_length",)  # may differ from training: a folder's default limit of generation

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
FROM_SCRATCH = "built from its configuration and trained from scratch"

CARD = """---
library_name: affectgpt-r1
license: other
license_name: see-below
{origin}tags: [emotion-recognition, multimodal, affectgpt]
---

# {name}

Open-vocabulary emotion recognition from video, audio and subtitle. Trained with affectgpt-r1, stage `{stage}`, seed
{seed}, from `{checkpoint}`.

- Language model: {base}, {adapter}; {fusion}; {trainable:,} of {total:,} parameters trained.
- Encoders: {video}; {audio}.
- Reads: {modalities}, in prompts of {form}.
- Data: {data}.
- Question: {question}
- This folder: {kind}. Load it with `affectgpt_r1.policy.hf_export.load_exported`.

## Limits

Emotions are inferred from what shows and sounds; they are not what a person feels. Not for decisions about people.

## Licence

The language model, the encoders and the data named above have licences of their own, and all of them bind this folder.
The MER sets are lent for research under an agreement that forbids passing their clips on.
"""


def export(config: DictConfig, folder: Path, kind: str, overrides: Sequence[str] = ()) -> Path:
    """Build a checkpoint's policy under the settings that it was trained with, and write it.

    Args:
        config: The composed ``configs/train.yaml``; ``init_from`` is the checkpoint, whose own settings come first.
        folder: It must not exist or be empty.
        kind: ``adapter`` or ``merged``.
        overrides: What the user gave; what contradicts the checkpoint is refused.

    Raises:
        CheckpointError: No checkpoint is named, an override contradicts it, or the folder holds something.
        WriteError: The folder cannot be written; it is left empty.
    """
    if config.init_from is None:
        raise CheckpointError("init_from names no checkpoint: give the one to export")
    if is_exported(config.init_from):
        raise CheckpointError(f"{config.init_from} was exported already; init_from takes a checkpoint here")
    if folder.is_dir() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty; choose another --output")
    trained = settings_of_checkpoint(config.init_from)
    config, _ = lay_over(config, trained, overrides, questions=ASKED)
    for key, value in trained.facts.items():
        OmegaConf.update(config, key, value)
    with clear_write_errors(folder, "choose another --output"):  # before the policy is loaded
        folder.mkdir(parents=True, exist_ok=True)
    if trained.origin is None:
        log.warning("%s does not say how it was trained: what is exported are the settings given", config.init_from)
    settings = resolved(config)
    model = {key: value for key, value in settings["model"].items() if key != "_target_"}
    policy = build_policy(config)
    card = model_card(
        settings,
        name=folder.name,
        kind=kind,
        trainable=sum(param.numel() for param in policy.trainable_parameters().values()),
        total=sum(param.numel() for param in policy.parameters()),
    )
    arguments: dict[str, Any] = {"kind": kind, "card": card}
    arguments["processor"] = processor_settings(settings)
    if config.prompt.sampling != "greedy":
        arguments["drawn"] = answer_sampling(config)
    arguments["max_completion_length"] = settings["prompt"]["max_completion_length"]
    with replacing(folder, elsewhere="choose another --output") as partial:
        partial.mkdir()
        export_policy(policy, model, partial, **arguments)
    return folder


def processor_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``preprocessor_config.json`` says: how clips are read, and the lexicon of the answers' clusters."""
    media = {key: settings["data"][key] for key in media_keys() if key in settings["data"] and key != "decoder"}
    return {**media, "lexicon": settings["emotion"]["lexicon"]}


def model_card(settings: Mapping[str, Any], *, name: str, kind: str, trainable: int, total: int) -> str:
    """Return the model card: what the run's configuration says, without any metric.

    Args:
        settings: The resolved ``configs/train.yaml``.
        name: Of the model.
        kind: ``adapter`` or ``merged``.
        trainable: Number of parameters that trained.
        total: Number of all parameters.
    """
    model, data, prompt = settings["model"], settings["data"], settings["prompt"]
    base, video, audio = (
        model[part].get("pretrained") for part in ("language_model", "video_encoder", "audio_encoder")
    )
    return CARD.format(
        name=markdown_text(name),
        stage=_code(settings["stage"]["name"]),
        seed=settings["seed"],
        checkpoint=_code(Path(settings["init_from"]).name),
        origin=f"base_model: {base}\n" if HUB_ID.fullmatch(base or "") else "",
        base=markdown_text(base or FROM_SCRATCH),
        video=markdown_text(video or FROM_SCRATCH),
        audio=markdown_text(audio or FROM_SCRATCH),
        adapter=markdown_text(f"LoRA {model['lora']}") if model.get("lora") else "trained whole",
        fusion=f"fusion `{_code(str(model['fusion']))}`" if "fusion" in model else f"family `{_code(model['family'])}`",
        form="AffectGPT's form; answers end at `###`" if "fusion" in model else "ChatML; answers end at `<|im_end|>`",
        trainable=trainable,
        total=total,
        modalities=markdown_text(", ".join(data["modalities"])),
        data="synthetic clips: metrics say nothing about real people"
        if settings["synthetic"]
        else markdown_text(str(data["train_labels"])),
        question=f"AffectGPT's `{_code(prompt['kind'])}`"
        if prompt["kind"]
        else markdown_text(f'"{prompt["question"]}"'),
        kind="adapter and projectors; the base model is loaded from its own folder" if kind == "adapter" else "merged",
    )


def _code(text: str) -> str:
    """Return the text for a code span, which a backtick would end."""
    return one_line(text).replace("`", "'")
