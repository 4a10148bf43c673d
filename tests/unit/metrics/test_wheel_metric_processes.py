"""The metric over two gloo processes with uneven data gives the single process's numbers, bit for bit."""

import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing

from affectgpt_r1.config import REPOSITORY
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.wheel import EmotionWheelScore

WORDS = ["happy", "sad", "angry", "afraid", "surprised", "calm", "guilty", "zzz", "proud"]
NUM_SAMPLES = 45  # of which one process has 7 in one batch and the other 38 in batches of 5


def corpus():
    draw = torch.Generator().manual_seed(0)

    def sets():
        sizes = torch.randint(0, 5, (NUM_SAMPLES,), generator=draw).tolist()
        return [tuple(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=draw).tolist()) for n in sizes]

    return sets(), sets()


def metrics():
    return [EmotionWheelScore(load_lexicon("bundled"), level) for level in (1, 2)]


def score_share(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        predictions, targets = corpus()
        start, end, size = ((0, 7, 7), (7, NUM_SAMPLES, 5))[rank]
        for metric in (both := metrics()):
            for first in range(start, end, size):
                rows = slice(first, min(first + size, end))
                metric.update(predictions[rows], targets[rows])
        torch.save([metric.compute() for metric in both], f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_processes_with_uneven_data_equal_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))  # the processes import this module by its path from there
    multiprocessing.spawn(score_share, args=(str(tmp_path),), nprocs=2)
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for alone, *found in zip(metrics(), *shares, strict=True):
        alone.update(*corpus())
        expected = alone.compute()
        assert float(expected["num_samples"]) == NUM_SAMPLES
        for share in found:
            assert share.keys() == expected.keys()
            assert all(torch.equal(share[name], value) for name, value in expected.items())
