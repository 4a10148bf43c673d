"""Training whose gradients depend on the clips alone: no dropout, plain SGD, completions and rewards by name."""

from __future__ import annotations

from zlib import crc32

import torch

from affectgpt_r1.types import Rollout, TokenBatch

PLAIN = (
    "data.modality_dropout=0",
    "data.eval_batch_size=1",
    "trainer.val_check_interval=2",
    "optim.optimizer._target_=torch.optim.SGD",
    "~optim.optimizer.betas",
    "~optim.optimizer.fused",
    "logger=csv",
)


def letters(reward, *, completions, targets):
    """Reward the fraction of letters: it differs between random completions, none of which is well formed."""
    return [sum(map(str.isalpha, completion.text)) / max(1, len(completion.text)) for completion in completions]


def generate_by_name(policy, batch, num_generations, sampling, generator=None):
    """Draw completions that depend on the clip's name alone, and differ within a group."""
    rows = []
    for name in batch.names:
        draw = torch.Generator().manual_seed(crc32(name.encode()))
        ids = torch.randint(5, 200, (num_generations, 8), generator=draw)
        rows.append((ids, torch.arange(8) < torch.randint(3, 9, (num_generations, 1), generator=draw)))
    ids, mask = (torch.stack(part) for part in zip(*rows, strict=True))
    texts = policy._decode_texts(ids.flatten(0, 1), mask.flatten(0, 1))
    grouped = [texts[first : first + num_generations] for first in range(0, len(texts), num_generations)]
    return Rollout(TokenBatch(ids, mask.float()), torch.zeros(ids.shape), grouped, ~mask[..., -1])
