"""Numbers that no run can mean are refused by key, before anything is loaded."""

from __future__ import annotations

import re

import pytest

from affectgpt_r1.config.keys import choices_of
from affectgpt_r1.config.value_ranges import check_ranges
from affectgpt_r1.errors import ConfigError
from helpers.configs import compose_config

EXPERIMENTS = choices_of("experiment")


def composed(*overrides: str):
    return compose_config("train", *overrides)


@pytest.mark.parametrize(
    "override",
    [
        "optim.optimizer.lr=-1e-3",
        "optim.optimizer.lr=nan",
        "optim.optimizer.lr=inf",
        "optim.weight_decay=inf",
        "optim.weight_decay=-0.1",
        "optim.scheduler.warmup_steps=-5",
        "optim.scheduler.min_lr_ratio=1.5",
        "optim.scheduler.min_lr_ratio=nan",
        "optim.scheduler.warmup_start_ratio=1.5",
        "trainer.accumulate_grad_batches=0",
        "trainer.gradient_clip_val=-1.0",
        "trainer.val_check_interval=0",
        "trainer.max_steps=-2",
        "trainer.max_steps=0",
        "data.modality_dropout=1.0",
        "data.modality_dropout=-0.1",
        "data.val_fraction=1.0",
        "data.max_unreadable_fraction=2.0",
        "data.num_frames=0",
        "data.window_seconds=nan",
        "data.subset=0",
        "data.valence_range=[-inf,3]",
        "prompt.max_completion_length=0",
        "callbacks.last_checkpoint.every_n_steps=0",
        "callbacks.completions.every_n_steps=0",
        "callbacks.reward_hacking.window=2",
    ],
)
def test_a_number_out_of_range_is_named(override):
    key, _, _ = override.partition("=")
    added = override if key != "callbacks.reward_hacking.window" else f"+{override}"
    with pytest.raises(ConfigError, match=rf"{re.escape(key)}(\.0)?=.*: give a number that is"):
        check_ranges(composed(added))


def test_all_that_are_wrong_are_named_at_once():
    with pytest.raises(ConfigError, match=r"data\.num_frames=0: .*; trainer\.gradient_clip_val=-1: "):
        check_ranges(composed("data.num_frames=0", "trainer.gradient_clip_val=-1"))


def test_an_interpolated_number_is_looked_at_where_it_is_used():
    with pytest.raises(ConfigError, match=r"optim\.scheduler\.total_steps=2\.5: "):
        check_ranges(composed("+mine=2.5", "optim.scheduler.total_steps=${mine}"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_is_within_range(experiment):
    check_ranges(composed(f"experiment={experiment}"))


def test_words_and_null_are_left_to_who_reads_them():
    words = ("trainer.val_check_interval='00:00:30:00'", "trainer.gradient_clip_val=null", "data.subset=null")
    check_ranges(composed(*words))
