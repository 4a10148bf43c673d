"""The dual reward of AffectGPT-R1: the emotions of the reasoning against the target."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from affectgpt_r1.emotion.extraction import extract_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.rewards.accuracy import Penalty, check_penalty, penalised_scores
from affectgpt_r1.types import Completion, EmotionSet


class DualReward:
    """The accuracy reward of the words in the reasoning, 0 without one; needs ``enable_thinking``."""

    name = "dual"

    def __init__(self, lexicon: Lexicon, penalty: Penalty = "none", *, enable_thinking: bool = True) -> None:
        check_penalty(penalty)
        self.lexicon = lexicon
        self.penalty = penalty
        self.enable_thinking = enable_thinking

    def __call__(self, *, completions: Sequence[Completion], targets: Sequence[EmotionSet]) -> list[float | None]:
        """Return a score in [0, 1] for each completion, None where its target maps on no wheel."""
        if not self.enable_thinking:
            return [None] * len(completions)
        return penalised_scores(reasoning_labels(completions, self.lexicon), targets, self.lexicon, self.penalty)


def reasoning_labels(completions: Sequence[Completion], lexicon: Lexicon) -> list[EmotionSet]:
    """Return the emotion words that each completion's reasoning affirms, ``()`` where it has no reasoning."""
    return [_extracted(completion.reasoning or "", lexicon) for completion in completions]


@lru_cache(maxsize=4096)  # completions of a group repeat each other, and two rewards read each
def _extracted(reasoning: str, lexicon: Lexicon) -> EmotionSet:
    return extract_labels(reasoning, lexicon).labels
