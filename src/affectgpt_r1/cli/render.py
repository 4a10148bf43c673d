"""Render the synthetic clips and build their tokenizer: ``python -m affectgpt_r1.cli.render``."""

from __future__ import annotations

import logging
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.config.compose import CONFIGS, clear_errors, run_with_clear_errors

log = logging.getLogger(__name__)


def render(config: DictConfig) -> dict[str, float]:
    """Render the clips that ``configs/render.yaml`` describes; a set that is there already is kept.

    Args:
        config: The composed configuration.

    Returns:
        ``vocab_size``, the size of the tokenizer.
    """
    from affectgpt_r1.data.synthetic.labels import demo_texts
    from affectgpt_r1.data.synthetic.render_clips import render_demo
    from affectgpt_r1.data.synthetic.settings import RenderConfig
    from affectgpt_r1.policy.prompts import PromptTemplate
    from affectgpt_r1.policy.tokenizer import build_tokenizer

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
    phrases = {phrase for question in _questions() for phrase in PromptTemplate(question).phrases()}
    tokenizer = build_tokenizer(
        demo_texts(root),
        sorted(phrases, key=lambda phrase: (-len(phrase), phrase)),
        config.vocab_size,
        Path(config.paths.tokenizer),
    )
    return {"vocab_size": float(tokenizer.get_vocab_size())}


def _questions() -> list[str]:
    return [
        str(OmegaConf.select(OmegaConf.load(path), "question")).strip()
        for path in sorted((CONFIGS / "prompt").glob("*.yaml"))
    ]


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="render")
def _entry(config: DictConfig) -> None:
    with clear_errors(config):
        render(config)


def main() -> None:
    """The command line."""
    run_with_clear_errors(_entry)


if __name__ == "__main__":
    main()
