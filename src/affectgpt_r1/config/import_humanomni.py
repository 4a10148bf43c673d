"""Make HumanOmni's or R1-Omni's released folder an exported one, which ``predict`` and ``init_from`` take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from affectgpt_r1.config.compose import CONFIGS, check_composed, quote_overrides, resolved
from affectgpt_r1.config.export_checkpoint import model_card, processor_settings
from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.io.files import clear_write_errors, replacing
from affectgpt_r1.policy.build_policy import build_policy
from affectgpt_r1.policy.checkpoint import check_tensors
from affectgpt_r1.policy.hf_export import export_policy
from affectgpt_r1.policy.humanomni_names import MARK, TIED_HEAD, TOWERS, our_names
from affectgpt_r1.policy.integrity import check_finite
from affectgpt_r1.policy.prompts import PromptTemplate

# As published inference has it: squashed frames and up to 2,048 tokens, where training pads and stops at 512
PUBLISHED = ("experiment=r1_omni/rlvr", "data.frame_resize=bicubic", "prompt.max_completion_length=2048")
PRETRAINED = ("video_encoder", "audio_encoder")


def is_humanomni(source: Path) -> bool:
    """Return whether a folder's safetensors have HumanOmni's names."""
    try:
        for file in source.glob("*.safetensors"):
            with safe_open(file, "pt") as content:
                if any(name.startswith(MARK) for name in content.keys()):  # noqa: SIM118
                    return True
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); fetch it again") from error
    return False


def import_humanomni(source: Path, output: Path, overrides: Sequence[str] = ()) -> str:
    """Write an exported folder with a released folder's weights.

    Args:
        source: The released folder: safetensors, and its ``tokenizer.json`` where it has one.
        output: The folder; it must not exist or be empty.
        overrides: The user's, of ``configs/train.yaml``.

    Returns:
        What was written, for the user.

    Raises:
        CheckpointError: A tensor is missing, has another shape or no place; or the folder holds something.
    """
    if output.is_dir() and any(output.iterdir()):
        raise CheckpointError(f"{output} is not empty; choose another --output")
    tensors = _read(source)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", overrides=[*PUBLISHED, *quote_overrides(overrides)])
    check_composed(config)
    has_towers = any(name.startswith("model.vision_tower.") for name in tensors)
    for part in ("language_model", "question_encoder", *(PRETRAINED if has_towers else ())):
        OmegaConf.update(config, f"model.{part}.pretrained", None)
    if (source / "tokenizer.json").is_file():
        config.model.tokenizer = str(source / "tokenizer.json")
    config.init_from = str(source)
    settings = resolved(config)
    model = {key: value for key, value in settings["model"].items() if key != "_target_"}
    prompt = settings["prompt"]
    template = PromptTemplate(prompt["question"], prompt["enable_thinking"], settings["data"]["visual"])
    policy = build_policy(**model, template=template)
    places = {name: tensor for name, tensor in policy.state_dict().items() if name != TIED_HEAD}
    state = our_names(tensors, places, str(source))
    check_tensors(
        state, {name: places[name] for name in places if has_towers or not name.startswith(TOWERS)}, str(source)
    )
    check_finite(state, source)
    policy.load_state_dict(state, strict=False)
    counts = {
        "trainable": sum(param.numel() for param in policy.trainable_parameters().values()),
        "total": sum(param.numel() for param in policy.parameters()),
    }
    arguments: dict[str, Any] = {
        "kind": "merged",
        "processor": processor_settings(settings),
        "max_completion_length": prompt["max_completion_length"],
        "card": model_card(settings, name=output.name, kind="merged", **counts),
    }
    with clear_write_errors(output, "choose another --output"), replacing(output) as partial:
        partial.mkdir()
        export_policy(policy, model, partial, **arguments)
    ignored = sorted(set(tensors) & {"lm_head.weight"})
    told = f" Without {', '.join(ignored)}, which is the embedding." if ignored else ""
    towers = "" if has_towers else " Its encoders came from their own folders."
    return (
        f"{output}: {len(state)} tensors, {counts['total']:,} parameters.{told}{towers} Answer with --checkpoint "
        f"{output}, or train on with init_from={output}"
    )


def _read(source: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        try:
            tensors |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: cannot be read ({error}); fetch it again") from error
    return tensors
