"""Our token functions against TRL's: the same numbers, and how long each takes."""

from __future__ import annotations

import statistics
import time

import torch
from trl.trainer.utils import entropy_from_logits as trl_entropy
from trl.trainer.utils import selective_log_softmax as trl_log_softmax

from affectgpt_r1.engine.reference import entropy_from_logits, selective_log_softmax

ROUNDS = 7


def ratio_of(theirs, ours):
    """Median CPU-time ratio of interleaved pairs."""
    torch.set_num_threads(1)
    pairs = []
    for _ in range(ROUNDS):
        seconds = []
        for function in (theirs, ours):
            started = time.process_time()
            function()
            seconds.append(time.process_time() - started)
        pairs.append(seconds[0] / seconds[1])
    return statistics.median(pairs[2:])


def test_log_softmax_equals_trl():
    logits, ids = torch.randn(32, 48, 2048), torch.randint(2048, (32, 48))
    torch.testing.assert_close(selective_log_softmax(logits, ids), trl_log_softmax(logits, ids), atol=1e-6, rtol=0)
    ratio = ratio_of(lambda: trl_log_softmax(logits, ids), lambda: selective_log_softmax(logits, ids))
    print(f"\nselective_log_softmax: TRL / ours = {ratio:.2f}x CPU time")


def test_entropy_equals_trl():
    logits = torch.randn(32, 48, 2048)
    torch.testing.assert_close(entropy_from_logits(logits), trl_entropy(logits), atol=1e-5, rtol=0)
    ratio = ratio_of(lambda: trl_entropy(logits), lambda: entropy_from_logits(logits))
    print(f"\nentropy_from_logits: TRL / ours = {ratio:.2f}x CPU time")
