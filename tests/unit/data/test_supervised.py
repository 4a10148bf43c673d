"""The second stream of labelled clips: its order, its resume, and its place in a batch."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from affectgpt_r1.data.collate import batch_to_device
from affectgpt_r1.data.samplers import ClipSampler, GenerationSchedule, SampleKey
from affectgpt_r1.data.supervised import MixedBatchSampler, MixedDataset, SupervisedClip, SupervisedKey, collate_mixed
from affectgpt_r1.types import Clip, UnreadableClip

ONE_STEP = GenerationSchedule()


def sampler(*, schedule=ONE_STEP, rank=0, num_replicas=1, supervised_size=2, seed=3):
    clips = ClipSampler(6, seed=seed, shuffle=True, num_replicas=num_replicas, rank=rank)
    return MixedBatchSampler(clips, 2, schedule, num_supervised=5, supervised_size=supervised_size, seed=seed)


def epochs(mixed, numbers):
    for epoch in numbers:
        mixed.sampler.set_epoch(epoch)
        yield from mixed


def supervised_of(batches):
    return [(key.epoch, key.index) for batch in batches for key in batch if isinstance(key, SupervisedKey)]


def test_every_batch_has_its_labelled_clips_and_each_pass_has_every_clip_once():
    batches = list(epochs(sampler(schedule=GenerationSchedule(1, 2)), range(5)))
    kinds = [Counter(type(key) for key in batch) for batch in batches]
    assert kinds == [Counter({SampleKey: 2, SupervisedKey: 2}), Counter({SupervisedKey: 2})] * 15
    drawn = supervised_of(batches)
    passes = [sorted(index for epoch, index in drawn if epoch == number) for number in range(12)]
    assert passes == [[0, 1, 2, 3, 4]] * 12
    orders = {tuple(index for epoch, index in drawn if epoch == number) for number in range(12)}
    assert len(orders) > 6


def test_a_resumed_epoch_continues_both_streams_where_they_were():
    whole = list(epochs(sampler(), range(3)))
    resumed = sampler()
    resumed.start_at(1, 2)
    assert list(epochs(resumed, [1, 2])) == whole[5:]


def test_two_processes_share_what_one_draws():
    alone = supervised_of(epochs(sampler(supervised_size=4), [0]))
    first, second = (supervised_of(epochs(sampler(rank=rank, num_replicas=2), [0])) for rank in (0, 1))
    assert [pair for pairs in zip(first, second, strict=True) for pair in pairs] == alone[: 2 * len(first)]


def clip(name, value, unreadable=()):
    return Clip(name, "", ("happy",), "", ("video",), frames=torch.full((1, 3, 2, 2), value), unreadable=unreadable)


def test_a_batch_keeps_both_streams_apart_and_lists_all_unreadable_clips():
    lost, late = UnreadableClip("lost", "is empty"), UnreadableClip("late", "is cut")
    items = [clip("a", 1), SupervisedClip(clip("b", 2, (late,))), lost, SupervisedClip(clip("c", 3))]
    batch = collate_mixed(items)
    assert (batch.names, batch.supervised.names) == (("a",), ("b", "c"))
    assert batch.unreadable == (lost, late)
    assert batch.supervised.unreadable == ()
    moved = batch_to_device(batch, torch.device("meta"))
    assert {moved.frames.device.type, moved.supervised.frames.device.type} == {"meta"}
    empty = collate_mixed([SupervisedClip(clip("b", 2))])
    assert (len(empty), len(empty.supervised)) == (0, 1)


def test_keys_choose_the_dataset():
    mixed = MixedDataset({SampleKey(0, 1): "sampled"}, {SupervisedKey(0, 1): "labelled"})
    assert mixed[SampleKey(0, 1)] == "sampled"
    assert mixed[SupervisedKey(0, 1)] == SupervisedClip("labelled")


@pytest.mark.parametrize("supervised_size", [1, 7])
def test_a_batch_may_be_larger_or_smaller_than_a_pass(supervised_size):
    drawn = supervised_of(epochs(sampler(supervised_size=supervised_size), range(5)))
    assert Counter(index for _, index in drawn[: len(drawn) // 5 * 5]) == dict.fromkeys(range(5), len(drawn) // 5)
