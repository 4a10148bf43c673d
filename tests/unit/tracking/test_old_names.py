"""Runs that were logged under earlier names are read under the current ones."""

import pytest

from affectgpt_r1.config.keys import config_keys
from affectgpt_r1.tracking.old_names import PARAMS, current_metric, current_param, current_tags, renamed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("val/answers/unmapped_share", "val/answers/unmapped_rate"),
        ("train/answers/unmapped_share", "train/answers/unmapped_rate"),
        ("test/iemocap/answers/unmapped_share", "test/iemocap/answers/unmapped_rate"),
        ("val/answers/clusters_named_share", "val/answers/clusters_named_fraction"),
        ("train/hacking/spray3_reward", "train/hacking/constant3_reward"),
        ("val/hacking/spray5_reward", "val/hacking/constant5_reward"),
        ("train/time/towers", "system/time/encoders"),
        ("time/towers", "system/time/encoders"),
        ("time/step", "system/time/step"),
        ("train/step_time", "system/time/step"),
        ("data/unreadable_clips", "train/unreadable_clips"),
        ("train/groups/skipped", "train/groups/filtered"),
        ("val/f1", "val/f1"),
        ("val/my_unmapped_share", "val/my_unmapped_share"),
    ],
)
def test_metrics(old, new):
    assert current_metric(old) == new
    assert current_metric(new) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("data.validation_share", "data.val_fraction"),
        ("data.max_unreadable_share", "data.max_unreadable_fraction"),
        ("model.share_prompt", "model.share_prefix"),
        ("model.video_tower.image_size", "model.video_encoder.image_size"),
        ("towers_from", "encoders_from"),
        ("prompt.thinks", "prompt.enable_thinking"),
        ("optim.scheduler.final_share", "optim.scheduler.min_lr_ratio"),
        ("towers_from_elsewhere", "towers_from_elsewhere"),
    ],
)
def test_params(old, new):
    assert current_param(old) == new


def test_the_current_params_are_keys_of_the_configuration():
    keys = config_keys()
    assert set(PARAMS.values()) <= keys


def test_tags_and_a_run_that_logged_under_both_names():
    assert current_tags({"affectgpt.kind": "cell", "stage": "sft"}) == {"affectgpt.kind": "trial", "stage": "sft"}
    both = {"unmapped_share": 0.2, "unmapped_rate": 0.1}
    assert renamed(both, current_metric) == {"unmapped_rate": 0.1}
