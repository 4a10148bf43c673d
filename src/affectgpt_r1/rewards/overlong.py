"""The soft penalty on overlong completions (DAPO, arXiv 2503.14476, equation 13)."""

from __future__ import annotations

from collections.abc import Sequence

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.types import Completion, EmotionSet


class OverlongReward:
    """0 up to ``max_completion_length - ramp`` tokens, then linearly down to -1 at ``max_completion_length``."""

    name = "overlong"

    def __init__(self, max_completion_length: int, ramp: int) -> None:
        if not 1 <= ramp <= max_completion_length:
            raise ConfigError(
                f"penalty.overlong_tokens={ramp} must be between 1 and prompt.max_completion_length="
                f"{max_completion_length}, or null"
            )
        self.free = max_completion_length - ramp
        self.ramp = ramp

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """Return a number in [-1, 0] for each completion."""
        # Unlike the penalties on words it counts what is not in an answer: reasoning, and repeated words.
        # DAPO, equation 13, with L_max - L_cache = free: 0 | (free - |y|) / ramp | -1.
        return [-min(max(completion.num_tokens - self.free, 0) / self.ramp, 1.0) for completion in completions]
