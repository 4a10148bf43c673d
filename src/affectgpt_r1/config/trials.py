"""What tells one trial of a sweep from another: a hash over all that its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.config.compose import instantiate, resolved
from affectgpt_r1.emotion.lexicon import lexicon_digest, load_lexicon
from affectgpt_r1.policy.checkpoint import read_checkpoint, state_digest

HASH_CHARACTERS = 16

WITHOUT_EFFECT = (
    *("paths", "logger", "callbacks", "sweep", "experiment_name", "ckpt_path", "num_threads"),
    *("strict_init", "overwrite", "debugging"),
)
BY_CONTENT = ("init_from", "encoders_from")
TRAINING_ONLY = ("seed", "stage", "optim", "trainer", "reward", "judge", "penalty", "match_wall_time")


class Trial(NamedTuple):
    """One trial of a sweep.

    Attributes:
        sweep: Name of the sweep.
        choice: What the sweep varies, as this trial has it; ``_untrained`` follows where another key says that the
            trial is the policy that its neighbours start from.
        seed: The run's seed.
        config_hash: See :func:`config_hash`.
    """

    sweep: str
    choice: str
    seed: int
    config_hash: str

    @property
    def run_name(self) -> str:
        """``<sweep>-<choice>-seed<k>``."""
        return f"{self.sweep}-{self.choice}-seed{self.seed}"


def is_untrained(config: DictConfig) -> bool:
    """Whether the configuration has no reward, so that its policy is the one that the other trials start from."""
    return not config.reward.weights


def read_cell(config: DictConfig, choices: Mapping[str, str]) -> Trial:
    """The trial that a composed configuration describes.

    Args:
        config: The composed ``configs/train.yaml`` with an ablation.
        choices: Chosen file of each configuration group.

    Raises:
        CheckpointError: The policy that the trial starts from is not there.
    """
    choice = choices[config.sweep.axis]
    if is_untrained(config) and config.sweep.axis != "reward":
        choice = f"{choice}_untrained"
    return Trial(config.sweep.name, choice, config.seed, config_hash(config))


def config_hash(config: DictConfig) -> str:
    """A digest of all that a trial's result depends on.

    That is the resolved configuration but for folders, logging and callbacks, and the contents behind its paths: the
    weights that training starts from with their encoders and tokenizer, the label files, and the lexicon. Without a
    reward nothing is trained, so what only training reads, the seed among it, does not count either.

    Raises:
        CheckpointError: ``init_from`` cannot be read.
    """
    kept = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    assert isinstance(kept, DictConfig)
    kept.paths = {name: f"<{name}>" for name in kept.paths}
    if is_untrained(config):
        kept.seed = 0
    plain = resolved(kept)
    ignored = {*WITHOUT_EFFECT, *BY_CONTENT, *(TRAINING_ONLY if is_untrained(config) else ())}
    content = {
        "config": {key: value for key, value in plain.items() if key not in ignored},
        "initial": None if config.init_from is None else checkpoint_digest(config.init_from),
        "data": instantiate(config.data, "data").digest(),
        "lexicon": lexicon_digest(load_lexicon(config.emotion.lexicon)),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:HASH_CHARACTERS]


def checkpoint_digest(path: str | Path) -> list[Any]:
    """Digest of a checkpoint's weights, and its own digests of encoders and tokenizer.

    The file's bytes would not do: the same weights, trained elsewhere, are stored with another path.
    """
    checkpoint = read_checkpoint(path)
    return [state_digest(checkpoint["state_dict"]), sorted(checkpoint.get("digests", {}).items())]
