"""Build a policy from a config, small or large."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Mapping
from typing import Any

from affectgpt_r1.engine.base import Engine
from affectgpt_r1.engine.reference import ReferenceEngine
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.backbone import check_vocabulary, load_tokenizer
from affectgpt_r1.policy.encoders import Encoders
from affectgpt_r1.policy.families import FAMILIES, Family
from affectgpt_r1.policy.fusion import MediaFusion
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.policy.prompts import PromptTemplate

log = logging.getLogger(__name__)

DEFAULT_FAMILY = "affectgpt"
ENGINE_KEYS = ("engine", "share_prefix", "attention")  # of `model`, which change how it is run
SIZES = ("hidden_size", "d_model")  # keys by which a part's configuration names its width


def build_policy(
    *,
    tokenizer: str,
    template: PromptTemplate,
    family: str = DEFAULT_FAMILY,
    engine: str = "fast",
    share_prefix: bool = True,
    attention: str = "auto",
    weights: str | None = None,
    **modules: Any,
) -> MultimodalPolicy:
    """Build a policy with fresh or pretrained weights; checkpoints are loaded into it afterwards.

    Args:
        tokenizer: A ``tokenizer.json``, a model folder or a hub id.
        template: Question and target format; the family words it.
        family: Key of :data:`~affectgpt_r1.policy.families.FAMILIES`.
        engine: See :func:`build_engine`.
        share_prefix: See :func:`build_engine`.
        attention: See :func:`build_engine`.
        weights: Folder whose subfolders hold pretrained weights.
        modules: The other keywords of :func:`build_modules`.
    """
    loaded = load_tokenizer(tokenizer, weights)
    language_model, encoders, fusion = build_modules(
        family=family, vocab_size=len(loaded), weights=weights, image=template.visual == "image", **modules
    )
    check_vocabulary(loaded, language_model)
    values = {field.name: getattr(template, field.name) for field in dataclasses.fields(template)}
    template = family_named(family).template(**{**values, "shown": fusion.shown})
    runner = build_engine(engine, language_model, share_prefix=share_prefix, attention=attention)
    return MultimodalPolicy(language_model, encoders, fusion, loaded, template, runner)


def build_engine(name: str, model: Any, *, share_prefix: bool = True, attention: str = "auto") -> Engine:
    """Build what runs the language model.

    Args:
        name: ``reference`` or ``fast``, which for sliding windows or attention sinks is ``reference`` as well.
        model: A transformers causal language model.
        share_prefix: Run a prompt once per clip in the update, not once per completion; of the fast engine.
        attention: What attends over packed sequences: ``auto``, ``flash``, ``flex`` or ``plain``; of the fast engine.

    Raises:
        ConfigError: The name is unknown.
    """
    if name == "reference":
        return ReferenceEngine(model)
    if name == "fast" and (reason := _beyond_fast(model)) is not None:
        log.warning("model.engine=reference is used, since the language model has %s", reason)
        return ReferenceEngine(model)
    if name == "fast":
        from affectgpt_r1.engine.fast import FastEngine  # here, so that the reference engine runs without its files

        return FastEngine(model, share_prefix=share_prefix, attention=attention)
    raise ConfigError(f"model.engine={name} is unknown: choose fast or reference")


def _beyond_fast(model: Any) -> str | None:
    """Return what the fast engine's attention does not compute of a language model."""
    attentions = [getattr(layer, "self_attn", None) for layer in model.model.layers]
    everywhere = getattr(model.config, "sliding_window", None)  # of families whose layers do not tell
    if any(getattr(attention, "sliding_window", everywhere) for attention in attentions):
        return "sliding windows"
    return "attention sinks" if any(hasattr(attention, "sinks") for attention in attentions) else None


def build_modules(*, family: str = DEFAULT_FAMILY, **keywords: Any) -> tuple[Any, Encoders, MediaFusion]:
    """Build language model, encoders and fusion of a model family.

    Args:
        family: Key of :data:`~affectgpt_r1.policy.families.FAMILIES`.
        keywords: Of its ``build_modules``.
    """
    build = family_named(family).build_modules
    known = inspect.signature(build).parameters
    if unknown := [name for name in keywords if name not in known and name in MODEL_KEYS]:
        raise ConfigError(f"model.{unknown[0]} is not a key of the family {family}; leave it out")
    return build(**keywords)


def family_named(name: str) -> Family:
    """Return a model family.

    Raises:
        ConfigError: The name is unknown.
    """
    if name not in FAMILIES:
        raise ConfigError(f"model.family={name} is unknown: choose {' or '.join(FAMILIES)}")
    return FAMILIES[name]


def has_sizes(model: Mapping[str, Any]) -> bool:
    """Return whether a policy can be built without its weights: pretrained parts need not name their sizes."""
    parts = [model[part] for part in ("language_model", *family_of(model).parts)]
    return all(part.get("pretrained") is None or any(size in part for size in SIZES) for part in parts)


def family_of(model: Mapping[str, Any]) -> Family:
    """Return the family that the keywords of a policy name; those of earlier versions name none."""
    return family_named(model.get("family") or DEFAULT_FAMILY)


# Arguments of the policy's builders that do not describe the policy.
NOT_MODEL = (
    *("tokenizer", "weights", "template", "vocab_size", "image"),
    *(*ENGINE_KEYS, "gradient_checkpointing"),
)

# Keys of ``model`` that belong to a policy: the arguments of its builders.
MODEL_KEYS = tuple(
    name
    for name in dict.fromkeys(
        (
            *inspect.signature(build_policy).parameters,
            *(name for family in FAMILIES.values() for name in inspect.signature(family.build_modules).parameters),
        )
    )
    if name not in (*NOT_MODEL, "modules")
)
