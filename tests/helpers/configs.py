"""Configurations, composed as Hydra does and faster."""

from __future__ import annotations

from functools import cache
from itertools import compress

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from affectgpt_r1.config.compose import CONFIGS


def compose_config(name: str, *overrides: str) -> DictConfig:
    """Compose ``configs/<name>.yaml``; what the chosen groups give, which takes Hydra half a second, is kept."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    groups = [(CONFIGS / override.key_or_group).is_dir() for override in parsed]
    config = _chosen(name, tuple(compress(overrides, groups))).copy()
    values = [override for override, is_group in zip(parsed, groups, strict=True) if not is_group]
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


@cache
def _chosen(name: str, groups: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, overrides=list(groups))
