"""A policy of the tiny model's shape, and clips for it; shared by the tests of policy, stages and comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from affectgpt_r1.policy.policy import MultimodalPolicy
    from affectgpt_r1.types import ClipBatch

# A busy machine is no reason to fail, and a test run should find what the last one found.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

QUESTION = "Please recognize emotional states of the character. Output the final answer in <answer> </answer> tags."
TEXTS = [
    "<answer> happy, proud </answer>",
    "<answer> sad, lonely, nervous </answer>",
    "<answer> angry </answer>",
    "The voice sounds tense and the brows are low, so the character may be angry or worried.",
    "I did not expect that. What a lovely day! Leave me alone, please.",
]
SUBTITLES = ("What a lovely day!", "", "Leave me alone, please. I did not expect that, and I never will.", "No.")
LABELS = (("happy", "proud"), ("sad",), ("angry", "nervous", "worried"), ("surprised",))
REASONS = ("The mouth curves.", "A low voice.", "The brows are low and the voice is tense.", "Wide eyes.")
EVERY_MODALITY = ("video", "audio", "text")


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``tokenizer.json`` of 400 tokens and the prompt's phrases."""
    from affectgpt_r1.policy.prompts import PromptTemplate
    from affectgpt_r1.policy.tokenizer import build_tokenizer

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    build_tokenizer(TEXTS, PromptTemplate(QUESTION).phrases(), 400, path)
    return path


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, Any]:
    """The keywords of ``configs/model/tiny.yaml``, for frames of 48 pixels."""
    from omegaconf import OmegaConf

    from affectgpt_r1.config import CONFIGS

    config = OmegaConf.load(CONFIGS / "model" / "tiny.yaml")
    config.tokenizer, config.video_tower.image_size = "", 48
    config.language_model.initializer_range = 0.1
    arguments = {str(key): value for key, value in OmegaConf.to_container(config, resolve=True).items()}
    del arguments["_target_"]
    return arguments


@pytest.fixture(scope="session")
def make_policy(tokenizer_file: Path, tiny_config: dict[str, Any]) -> Callable[..., MultimodalPolicy]:
    """``make_policy(seed=0, thinks=False, **changes)``: ``configs/model/tiny.yaml`` with keys replaced.

    The language model's weights are drawn five times wider than Qwen2's, so that distributions are far from uniform.
    """

    def build(seed: int = 0, *, thinks: bool = False, **changes: Any) -> MultimodalPolicy:
        import torch

        from affectgpt_r1.policy.build import build_policy
        from affectgpt_r1.policy.prompts import PromptTemplate

        arguments = {**tiny_config, "tokenizer": str(tokenizer_file), **changes}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_policy(**arguments, template=PromptTemplate(QUESTION, thinks))

    return build


@pytest.fixture
def tiny_policy(make_policy: Callable[..., MultimodalPolicy]) -> MultimodalPolicy:
    """A fresh tiny policy; always the same weights."""
    return make_policy()


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., ClipBatch]:
    """``make_batch(num_clips=4, seed=0, **changes)``: clips with random media and unequal prompts."""

    def build(num_clips: int = 4, seed: int = 0, **changes: Any) -> ClipBatch:
        import torch

        from affectgpt_r1.types import ClipBatch

        generator = torch.Generator().manual_seed(seed)
        values: dict[str, Any] = {
            "names": tuple(f"clip_{index}" for index in range(num_clips)),
            "subtitles": SUBTITLES[:num_clips],
            "labels": LABELS[:num_clips],
            "reasons": REASONS[:num_clips],
            "modalities": (EVERY_MODALITY,) * num_clips,
            "frames": torch.randint(0, 256, (num_clips, 3, 3, 48, 48), dtype=torch.uint8, generator=generator),
            "waveforms": torch.rand(num_clips, 2, 32_000, generator=generator) - 0.5,
        }
        return ClipBatch(**{**values, **changes})

    return build
