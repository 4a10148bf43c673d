"""What a model family says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from affectgpt_r1.policy.encoders import Encoders
from affectgpt_r1.policy.fusion import MediaFusion
from affectgpt_r1.policy.prompts import PromptTemplate


class Family(NamedTuple):
    """A model family.

    Attributes:
        template: Words its prompts, and says where media are and what ends an answer.
        build_modules: Makes language model, encoders and fusion of the keywords of ``configs/model`` and
            ``vocab_size``, ``weights``, ``image``.
        parts: Module path in the policy of each transformers model besides the language model, by its key there.
    """

    template: type[PromptTemplate]
    build_modules: Callable[..., tuple[Any, Encoders, MediaFusion]]
    parts: Mapping[str, str]
