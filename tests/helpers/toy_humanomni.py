"""HumanOmni at toy width, and clips for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.policy.build_policy import build_policy
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.types import ClipBatch

QUESTION = "Which emotion is the most obvious to you?\nOutput it in <answer> </answer> tags."
SHORT = {"max_source_positions": 30}  # 0.6 s of sound: ten tokens


def humanomni_config(name: str = "humanomni_tiny") -> dict[str, Any]:
    """Return the keywords of ``configs/model/<name>.yaml``."""
    files = [
        OmegaConf.load(CONFIGS / "model" / f"{each}.yaml").model for each in dict.fromkeys(("humanomni_05b", name))
    ]
    config: Any = OmegaConf.to_container(OmegaConf.merge(*files), resolve=False)
    del config["_target_"]
    return config


def toy_config(tokenizer_file: Path, **changes: Any) -> dict[str, Any]:
    config = humanomni_config()
    config["audio_encoder"] |= SHORT
    config["question_encoder"]["tokenizer"] = str(tokenizer_file)
    # Drawn wider than Qwen2's, so that distributions are far from uniform.
    config["language_model"] |= {"initializer_range": 0.1, "num_hidden_layers": 2}
    return {**config, "tokenizer": str(tokenizer_file), **changes}


def toy_policy(
    tokenizer_file: Path, seed: int = 0, *, enable_thinking: bool = False, **changes: Any
) -> MultimodalPolicy:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = toy_config(tokenizer_file, **changes)
        policy = build_policy(**config, template=PromptTemplate(QUESTION, enable_thinking, visual="frame"))
    with torch.no_grad():  # fresh projectors say little: let the media matter
        readings = [getattr(policy.fusion, part).readout for part in ("video", "body", "face")]
        for layers in (*readings, policy.fusion.audio):
            layers[2].weight *= 30.0
    return policy


def toy_batch(num_clips: int = 2, seed: int = 0, **changes: Any) -> ClipBatch:
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, Any] = {
        "names": tuple(f"clip_{index}" for index in range(num_clips)),
        "subtitles": ("",) * num_clips,
        "labels": (("happy",), ("sad",), ("angry",))[:num_clips],
        "reasons": ("A smile.", "A low voice.", "Low brows.")[:num_clips],
        "modalities": (("video", "audio"),) * num_clips,
        "frames": torch.randint(0, 256, (num_clips, 8, 3, 48, 48), dtype=torch.uint8, generator=generator),
        "waveforms": torch.rand(num_clips, 1, 9_600, generator=generator) - 0.5,
    }
    return ClipBatch(**{**values, **changes})
