"""A policy of the tiny model's shape, and clips for it; shared by the tests of policy, stages and comparison."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from affectgpt_r1.policy.policy import MultimodalPolicy
    from affectgpt_r1.types import ClipBatch

# No deadline, since a machine may be busy; and the same examples in every run.
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
    """Write a ``tokenizer.json`` of 400 tokens and the prompt's phrases."""
    from affectgpt_r1.policy.prompts import PromptTemplate
    from affectgpt_r1.policy.tokenizer import build_tokenizer

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    build_tokenizer(TEXTS, PromptTemplate(QUESTION).phrases(), 400, path)
    return path


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, Any]:
    """Return the keywords of ``configs/model/tiny.yaml``, for frames of 48 pixels."""
    from omegaconf import OmegaConf

    from affectgpt_r1.config.compose import CONFIGS

    config = OmegaConf.load(CONFIGS / "model" / "tiny.yaml")
    config.tokenizer, config.video_encoder.image_size = "", 48
    config.language_model.initializer_range = 0.1
    arguments = {str(key): value for key, value in OmegaConf.to_container(config, resolve=True).items()}
    del arguments["_target_"]
    return arguments


@pytest.fixture(scope="session")
def make_policy(tokenizer_file: Path, tiny_config: dict[str, Any]) -> Callable[..., MultimodalPolicy]:
    """``make_policy(seed=0, enable_thinking=False, **changes)``: ``configs/model/tiny.yaml`` with keys replaced.

    The language model's weights are drawn five times wider than Qwen2's, so that distributions are far from uniform.
    """

    def build(seed: int = 0, *, enable_thinking: bool = False, **changes: Any) -> MultimodalPolicy:
        import torch

        from affectgpt_r1.policy.build_policy import build_policy
        from affectgpt_r1.policy.prompts import PromptTemplate

        arguments = {**tiny_config, "tokenizer": str(tokenizer_file), **changes}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_policy(**arguments, template=PromptTemplate(QUESTION, enable_thinking))

    return build


@pytest.fixture
def tiny_policy(make_policy: Callable[..., MultimodalPolicy]) -> MultimodalPolicy:
    """Build a fresh tiny policy; always the same weights."""
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


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """``write_video(path, times=2 s at 10 a second, size=, codec=, pixels=, sound=)``."""
    return _write_video


@pytest.fixture(scope="session")
def write_wave() -> Callable[..., Path]:
    """``write_wave(path, seconds, rate=8000)``."""
    return _write_wave


def _write_video(
    path: Path,
    times: Iterable[float] = tuple(index / 10 for index in range(20)),
    *,
    size: tuple[int, int] = (64, 48),
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    sound: bool = False,
) -> Path:
    """Write a video whose ``n``-th frame has a red top half and a lower half of brightness ``n`` (wrapping at 250)."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        voice = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for number, time in enumerate(times):
            picture = np.full((size[1], size[0], 3), number % 250, np.uint8)
            picture[: size[1] // 2] = (220, 20, 20)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if voice is not None:
            tone = np.sin(np.arange(32_000) * 2 * np.pi * 440 / 16_000).astype(np.float32)[None] / 2
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux(voice.encode(frame))
            container.mux(voice.encode(None))
    return path


def _write_wave(path: Path, seconds: float, rate: int = 8_000) -> Path:
    """Write sound whose amplitude is its time in seconds, divided by the duration: a ramp."""
    import numpy as np

    samples = (np.arange(int(seconds * rate)) / (seconds * rate) * 30_000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


@pytest.fixture
def walks_again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count every backward pass that forms the head's logits again."""
    from affectgpt_r1.engine import fused_linear_logps as vocabulary

    calls: list[int] = []
    again = vocabulary._gradients_by_logits
    monkeypatch.setattr(
        vocabulary, "_gradients_by_logits", lambda *args, **kwargs: calls.append(1) or again(*args, **kwargs)
    )
    return calls
