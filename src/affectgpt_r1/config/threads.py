"""Set the number of threads by the size of the language model."""

from __future__ import annotations

import torch
from omegaconf import DictConfig

from affectgpt_r1.errors import ConfigError

# Language models below this decode on one thread: at 128 (model=tiny) two threads take 29 times as long as one, since
# they wait for each other at every operation; at 576 (model=smol) two are 1.6 times as fast. Between them nothing is
# measured.
SMALL_HIDDEN_SIZE = 256
OWN_THREADS = torch.get_num_threads()  # OMP_NUM_THREADS, or the cores of the machine


def set_threads(config: DictConfig) -> None:
    """Use ``num_threads`` of a configuration; null becomes what suits the model's size.

    Raises:
        ConfigError: It is not a number of threads.
    """
    if config.num_threads is None:
        is_small = config.model.language_model.hidden_size < SMALL_HIDDEN_SIZE
        config.num_threads = 1 if is_small else OWN_THREADS  # kept, so that the run's record says how it was
    if not isinstance(config.num_threads, int) or config.num_threads < 1:
        raise ConfigError(f"num_threads={config.num_threads}: give 1 or more, or null to let the model's size decide")
    torch.set_num_threads(config.num_threads)
