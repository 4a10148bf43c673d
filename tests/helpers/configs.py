"""Compose configurations as ``hydra.compose`` does, and in a fraction of the time."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import Overrides
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.default_element import ResultDefault
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig

from affectgpt_r1.config.compose import CONFIGS


def compose_config(name: str, *overrides: str) -> DictConfig:
    """Compose ``configs/<name>.yaml``."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def keep_what_hydra_reads(patch: pytest.MonkeyPatch) -> None:
    """Let Hydra read a file of this package once, and choose and merge the same groups once.

    Hydra takes 0.3 s of CPU to compose ``train``, and most tests compose what another has, but for some values; what a
    test composes is a copy of its own. Folders that a test writes are read as ever.
    """
    Plugins.instance()  # registers the sources
    for scheme in ("file", "pkg"):
        _keep_files(patch, SourcesRegistry.instance().resolve(scheme))
    _keep_choices(patch)
    _keep_merged(patch)


def _keep_files(patch: pytest.MonkeyPatch, source_class: type[ConfigSource]) -> None:
    load, kept = source_class.load_config, {}

    def load_once(source: ConfigSource, config_path: str) -> ConfigResult:
        if not _does_not_change(source):
            return load(source, config_path)
        key = source.path, config_path
        if key not in kept:
            kept[key] = pickle.dumps(load(source, config_path))
        return pickle.loads(kept[key])

    patch.setattr(source_class, "load_config", load_once)


def _keep_choices(patch: pytest.MonkeyPatch) -> None:
    create, kept = config_loader_impl.create_defaults_list, {}

    def create_once(repo: Any, config_name: str, overrides_list: list[Any], **options: Any) -> Any:
        if not all(map(_does_not_change, repo.get_sources())):
            return create(repo, config_name, overrides_list, **options)
        values = Overrides(repo=repo, overrides_list=overrides_list).config_overrides
        groups = [override for override in overrides_list if not any(override is value for value in values)]
        key = config_name, *(override.input_line for override in groups), *options.items()
        if key not in kept:
            kept[key] = create(repo, config_name, groups, **options)
        found = kept[key]
        return type(found)(found.defaults, found.defaults_tree, values, found.overrides)

    patch.setattr(config_loader_impl, "create_defaults_list", create_once)


def _keep_merged(patch: pytest.MonkeyPatch) -> None:
    merge, kept = ConfigLoaderImpl._compose_config_from_defaults_list, {}

    def merge_once(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: Any) -> DictConfig:
        if not all(map(_does_not_change, repo.get_sources())):
            return merge(loader, defaults, repo)
        key = tuple(tuple(vars(default).items()) for default in defaults)
        if key not in kept:
            kept[key] = pickle.dumps(merge(loader, defaults, repo))
        return pickle.loads(kept[key])

    patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merge_once)


def _does_not_change(source: ConfigSource) -> bool:
    return source.scheme() != "file" or source.path == str(CONFIGS)
