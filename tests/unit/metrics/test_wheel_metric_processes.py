"""The metric over two gloo processes with uneven data gives the single process's numbers, bit for bit."""

import torch
from torch import distributed

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.emotion_wheel import EmotionWheelScore
from helpers.processes import join_gloo, run_two

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
    join_gloo(rank, folder)
    try:
        predictions, targets = corpus()
        start, end, size = ((0, 7, 7), (7, NUM_SAMPLES, 5))[rank]
        for metric in (both := metrics()):
            for first in range(start, end, size):
                rows = slice(first, min(first + size, end))
                metric.update(predictions[rows], targets[rows])
        torch.save([metric.compute() for metric in both], folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_processes_with_uneven_data_equal_one(tmp_path):
    run_two(score_share, tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for alone, *gathered in zip(metrics(), *ranks, strict=True):
        alone.update(*corpus())
        expected = alone.compute()
        assert float(expected["num_samples"]) == NUM_SAMPLES
        for scores in gathered:
            assert scores.keys() == expected.keys()
            assert all(torch.equal(scores[name], value) for name, value in expected.items())
