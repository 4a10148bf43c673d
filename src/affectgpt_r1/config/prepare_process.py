"""Prepare the process of a run: seeds, threads, and which of Lightning's messages are shown."""

from __future__ import annotations

import logging
import warnings

import lightning as L
from omegaconf import DictConfig

from affectgpt_r1.config.threads import set_threads
from affectgpt_r1.errors import ConfigError

# Lightning's warnings that a user would wrongly worry about
UNTRUE_HERE = (
    ".*your dataloader is not resumable.*",  # the data module resumes its sampler itself
    ".*module\\(s\\) in eval mode at the start of training.*",  # the frozen encoders, on purpose
    ".*LeafSpec.* is deprecated.*",  # inside Lightning
    ".*FSDP2-wrapped module.*returned a view tensor.*",  # which nothing changes in place
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # the module itself averages over processes, in one go
)


def prepare_process(config: DictConfig) -> None:
    """Seed every generator, set the number of threads, and silence Lightning's needless messages."""
    if not 0 <= config.seed < 2**32:
        raise ConfigError(f"seed={config.seed}: give an integer from 0 to {2**32 - 1}")
    if not str(config.experiment_name or "").strip():
        raise ConfigError("experiment_name is empty: it names the run's folder below paths.outputs")
    set_threads(config)
    L.seed_everything(config.seed, workers=True, verbose=False)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # its messages would be doubled by Hydra's log
    for message in UNTRUE_HERE:
        warnings.filterwarnings("ignore", message=message)
