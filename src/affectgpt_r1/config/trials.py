"""Identity of a sweep's trial: a hash of all that its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.config.compose import instantiate, resolved
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.policy.checkpoint import read_checkpoint, state_digest

HASH_CHARACTERS = 16

WITHOUT_EFFECT = (
    *("paths", "logger", "callbacks", "sweep", "experiment_name", "ckpt_path", "num_threads"),
    *("rollout", "strict_init", "overwrite", "debugging", "train"),  # `train` by is_untrained
)
BY_CONTENT = ("init_from", "encoders_from")
TRAINING_ONLY = ("seed", "stage", "optim", "trainer", "reward", "judge", "penalty", "match_wall_time")


class Trial(NamedTuple):
    """One trial of a sweep.

    ``choice`` is what the sweep varies; ``_untrained`` follows where another key makes the trial the policy that its
    neighbours start from.
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
    """Return whether nothing is trained, for want of a reward or by choice: the policy that other trials start from."""
    return not config.reward.weights or not config.train


def read_trial(config: DictConfig, choices: Mapping[str, str]) -> Trial:
    """Return the trial that a composed configuration describes, given the chosen file of each group."""
    choice = choices[config.sweep.axis]
    if is_untrained(config) and config.sweep.axis != "reward":
        choice = f"{choice}_untrained"
    return Trial(config.sweep.name, choice, config.seed, config_hash(config))


def config_hash(config: DictConfig) -> str:
    """Digest all that a trial's result depends on.

    That is the resolved configuration without folders, logging and callbacks, and the contents behind its paths: the
    weights that training starts from with their encoders and tokenizer, the label files, and the lexicon. Without a
    reward nothing is trained, so what only training reads, such as the seed, does not count either.
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
        "lexicon": load_lexicon(config.emotion.lexicon).digest,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:HASH_CHARACTERS]


def checkpoint_digest(path: str | Path) -> list[Any]:
    """Digest a checkpoint's weights, with its own digests of encoders and tokenizer."""
    checkpoint = read_checkpoint(
        path
    )  # not the file's bytes: equal weights, trained elsewhere, have another path in it
    return [state_digest(checkpoint["state_dict"]), sorted(checkpoint.get("digests", {}).items())]
