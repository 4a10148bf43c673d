"""Render the synthetic clips that ``configs/render.yaml`` describes, and build their tokenizer."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.data.synthetic.labels import demo_texts
from affectgpt_r1.data.synthetic.render_clips import render_demo
from affectgpt_r1.data.synthetic.settings import RenderConfig
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.policy.tokenizer import build_tokenizer

log = logging.getLogger(__name__)


def render(config: DictConfig) -> dict[str, float]:
    """Render the clips, unless they are there already, and return the tokenizer's ``vocab_size``."""
    root = Path(config.paths.data)
    settings = RenderConfig(
        seed=config.seed,
        noise=config.noise,
        num_caption=config.num_caption,
        num_exact=config.num_exact,
        num_validation=config.num_validation,
        num_test=config.num_test,
    )
    log.info("Rendering synthetic clips into %s", root)
    render_demo(root, settings, workers=config.workers)
    tokenizer = build_tokenizer(demo_texts(root), prompt_phrases(), config.vocab_size, Path(config.paths.tokenizer))
    return {"vocab_size": float(tokenizer.get_vocab_size())}


def prompt_phrases() -> list[str]:
    """Return the fixed phrases of every prompt, longest first, each of which is one token."""
    phrases = {phrase for question in _questions() for phrase in PromptTemplate(question).phrases()}
    return sorted(phrases, key=lambda phrase: (-len(phrase), phrase))


def _questions() -> list[str]:
    return [
        str(OmegaConf.select(OmegaConf.load(path), "question")).strip()
        for path in sorted((CONFIGS / "prompt").glob("*.yaml"))
    ]
