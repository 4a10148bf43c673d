import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.data.samplers import ClipSampler, GenerationBatchSampler, GenerationSchedule, SampleKey
from affectgpt_r1.errors import ConfigError


def keys(epoch, **options):
    sampler = ClipSampler(**({"length": 11, "seed": 3, "shuffle": True} | options))
    sampler.set_epoch(epoch)
    return list(sampler)


def test_order_depends_on_seed_and_epoch():
    assert keys(0) == keys(0)
    assert [key.index for key in keys(0)] != [key.index for key in keys(1)]
    assert keys(0) != keys(0, seed=4)
    assert keys(2)[0].epoch == 2


@given(length=st.integers(1, 60), replicas=st.integers(1, 7), epoch=st.integers(0, 9), shuffle=st.booleans())
def test_training_shares_are_equal_and_cover_every_clip(length, replicas, epoch, shuffle):
    parts = [keys(epoch, length=length, shuffle=shuffle, num_replicas=replicas, rank=rank) for rank in range(replicas)]
    assert len({len(part) for part in parts}) == 1
    assert {key.index for part in parts for key in part} == set(range(length))
    assert sum(map(len, parts)) < length + replicas


@given(length=st.integers(0, 60), replicas=st.integers(1, 7))
def test_evaluation_shares_repeat_nothing(length, replicas):
    options = {"length": length, "shuffle": False, "num_replicas": replicas, "even": False}
    parts = [keys(0, rank=rank, **options) for rank in range(replicas)]
    assert sorted(key.index for part in parts for key in part) == list(range(length))
    for rank, part in enumerate(parts):
        sampler = ClipSampler(**(options | {"seed": 0, "rank": rank}))
        assert len(sampler) == len(part)


def test_keys_name_clip_and_epoch():
    assert keys(4, shuffle=False, length=2) == [SampleKey(0, 4), SampleKey(1, 4)]


def batches(epoch, start=None, *, length=11, batch_size=2, schedule=(1, 1), **options):
    clips = ClipSampler(**({"length": length, "seed": 3, "shuffle": True} | options))
    sampler = GenerationBatchSampler(clips, batch_size, GenerationSchedule(*schedule))
    if start:
        sampler.start_at(*start)
    sampler.sampler.set_epoch(epoch)
    assert len(sampler) == len(list(GenerationBatchSampler(clips, batch_size, GenerationSchedule(*schedule))))
    return list(sampler)


def test_plain_batches_keep_an_epochs_last_clips():
    assert [len(batch) for batch in batches(0)] == [2, 2, 2, 2, 2, 1]
    assert list(itertools.chain(*batches(1))) == keys(1)


def test_each_generation_is_followed_by_empty_batches():
    assert [len(batch) for batch in batches(0, schedule=(2, 2))] == [4, 0, 0, 0, 4, 0, 0, 0]  # three clips left out
    assert [len(batch) for batch in batches(0, schedule=(1, 3))] == [2, 0, 0] * 5 + [1, 0, 0]


@given(
    length=st.integers(8, 40),
    steps=st.integers(1, 4),
    passes=st.integers(1, 3),
    epoch=st.integers(0, 5),
    batch=st.integers(0, 50),
    rank=st.integers(0, 1),
)
def test_a_generation_resumes_in_its_middle(length, steps, passes, epoch, batch, rank):
    options = {"length": 2 * length, "schedule": (steps, passes), "num_replicas": 2, "rank": rank}
    full = batches(epoch, **options)
    assert batches(epoch, (epoch, batch), **options) == full[batch:]
    assert batches(epoch + 1, (epoch, batch), **options) == batches(epoch + 1, **options)


def test_fewer_clips_than_a_generation_are_refused():
    with pytest.raises(ConfigError, match="3 training clips per process do not fill a generation of 8"):
        batches(0, length=3, schedule=(4, 1))
