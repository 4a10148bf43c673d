"""What a run is told before its first step."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from affectgpt_r1.config.preflight import check_data, check_prompts, check_settings, check_trains, schedule_length
from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.data.samplers import GenerationSchedule
from affectgpt_r1.data.splits import SplitFiles, Splits
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.training.pretrain_encoders import EncoderStage
from affectgpt_r1.training.sft import SFTStage
from helpers.configs import compose_config

LEXICON = load_lexicon("bundled")
ENGLISH = [("happy",), ("sad", "lonely"), ("angry",)]
GERMAN = [("fröhlich",), ("traurig", "einsam"), ("wütend",)]
GRPO = GRPOStage.__new__(GRPOStage)  # its class says what it logs, and that it has rewards
GRPO.rewards = object()


def composed(*overrides: str):
    return compose_config("train", *overrides)


def rows(labels, annotations=None):
    given = annotations or [{}] * len(labels)
    pairs = enumerate(zip(labels, given, strict=True))
    return [ManifestRow(f"clip{i}", words, annotations=facts) for i, (words, facts) in pairs]


def clips(train=ENGLISH, validation=ENGLISH, test=(), **more):
    files = SplitFiles("train.csv", None, "validation.csv", "test.csv", None, None)
    splits = Splits(rows(train), rows(validation, more.get("annotations")), rows(test))
    return SimpleNamespace(root=Path("data"), files=files, splits=splits, val_fraction=0.1)


@pytest.mark.parametrize("stage", [SFTStage(), GRPO])
@pytest.mark.parametrize(
    ("data", "file"),
    [(clips(train=GERMAN), "train.csv"), (clips(validation=GERMAN), "validation.csv")],
)
def test_labels_that_no_wheel_knows_are_refused_with_file_and_lexicon(stage, data, file):
    with pytest.raises(DataError, match=rf"data/{file}: no label of its 3 clips is on a wheel of the bundled lexicon"):
        check_data(composed(), stage, data, LEXICON)


def test_unknown_test_labels_are_refused_only_where_the_run_is_to_answer_them():
    data = clips(test=GERMAN)
    check_data(composed(), SFTStage(), data, LEXICON)
    with pytest.raises(DataError, match=r"test\.csv"):
        check_data(composed("evaluate_after=true"), SFTStage(), data, LEXICON)


def test_labels_that_are_unknown_in_part_are_counted_in_one_line(caplog):
    with caplog.at_level(logging.WARNING):
        check_data(composed(), SFTStage(), clips(train=[*ENGLISH, ("fröhlich",), ("wütend", "sad")]), LEXICON)
    (line,) = caplog.messages
    assert "data/train.csv: 2 of 6 words (fröhlich, wütend)" in line
    assert "1 of 5 clips" in line


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("validation.csv", r"data/validation\.csv: there is no clip"),
        (None, r"val_fraction=0\.1 leaves no clip"),
    ],
)
def test_a_validation_without_clips_is_refused(file, message):
    data = clips(validation=[])
    data.files = replace(data.files, validation_labels=file)
    with pytest.raises(DataError, match=message):
        check_data(composed(), SFTStage(), data, LEXICON)


CHOICES = ("prompt=ovlabel", "prompt.kind=sentiment")
SENTIMENTS = [{"sentiment": "positive"}, {"sentiment": "negative"}, {"sentiment": "neutral"}]


@pytest.mark.parametrize(
    ("stage", "overrides", "data", "refused"),
    [
        (SFTStage(), ("stage.monitor=val/accuracy",), clips(), "stage.monitor=val/accuracy"),
        (SFTStage(), ("stage.monitor=val/loss",), clips(), None),
        (SFTStage(), ("stage.monitor=val/answers/format_rate",), clips(), None),
        (SFTStage(), ("stage.monitor=val/war",), clips(), "stage.monitor=val/war"),  # a clip has two labels
        (SFTStage(), ("stage.monitor=val/war",), clips(validation=[("happy",), ("sad",)]), None),
        (GRPO, ("stage.monitor=val/loss",), clips(), "stage.monitor=val/loss"),
        (GRPO, ("callbacks.reward_hacking.monitor=val/fl",), clips(), "callbacks.reward_hacking.monitor=val/fl"),
        (SFTStage(), ("callbacks.reward_hacking.monitor=val/fl",), clips(), None),  # no reward: it never alarms
        (
            SFTStage(),
            ("+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/los}",),
            clips(),
            "callbacks.stop.monitor=val/los",
        ),
        (SFTStage(), CHOICES, clips(annotations=SENTIMENTS), "stage.monitor=val/f1"),
        (SFTStage(), (*CHOICES, "stage.monitor=val/waf"), clips(annotations=SENTIMENTS), None),
        (SFTStage(), (*CHOICES, "stage.monitor=val/waf"), clips(), "stage.monitor=val/waf"),  # no sentiment is given
    ],
)
def test_a_monitored_metric_must_be_one_that_validation_logs(stage, overrides, data, refused):
    config = composed(*overrides)
    if refused is None:
        check_data(config, stage, data, LEXICON)
        return
    with pytest.raises(ConfigError, match=f"{refused} will not be logged; validation of this run logs val/"):
        check_data(config, stage, data, LEXICON)


def test_encoders_are_judged_by_their_losses():
    stage = EncoderStage(["pitch"], ["pitch"], 2, 2)
    check_data(composed("experiment=demo/pretrain_encoders"), stage, clips(), LEXICON)
    with pytest.raises(ConfigError, match=r"logs val/audio_loss, val/log_mel_loss, val/loss, val/video_loss"):
        check_data(composed("experiment=demo/pretrain_encoders", "stage.monitor=val/f1"), stage, clips(), LEXICON)


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.max_steps=-1",),
        ("trainer.max_steps=-1", "+trainer.max_time=00:01:00:00"),
        ("experiment=demo/control", "optim.scheduler.min_lr_ratio=0.5"),
    ],
)
def test_a_falling_rate_needs_a_length(overrides):
    given = tuple(one.removeprefix("+") for one in overrides)
    with pytest.raises(ConfigError, match=r"optim\.scheduler\.total_steps=-1: .*trainer\.max_epochs"):
        check_settings(composed(*given))


def test_a_constant_rate_and_epochs_need_none(caplog):
    check_settings(composed("experiment=demo/control"))
    check_settings(composed("trainer.max_steps=-1", "trainer.max_epochs=2"))
    assert caplog.messages == []
    check_settings(composed("trainer.max_steps=6"))
    assert "optim.scheduler.warmup_steps=20 is longer than the run of 6 steps" in caplog.text


def test_a_mode_that_would_keep_the_worst_checkpoint_is_refused():
    check_settings(composed("stage.monitor=val/loss"))
    with pytest.raises(ConfigError, match=r"stage\.mode=max would keep the worst checkpoint: of val/loss less"):
        check_settings(composed("stage.monitor=val/loss", "stage.mode=max"))


def trainer_of(**settings):
    given = {"world_size": 1, "limit_train_batches": 1.0, "max_epochs": -1, "max_steps": -1}
    given |= {"accumulate_grad_batches": 1, "check_val_every_n_epoch": None, "val_check_interval": 188}
    return SimpleNamespace(**(given | settings))


class Batches:
    """A data module of ten batches per process."""

    def num_train_batches(self, num_processes, schedule):
        assert schedule is None or schedule == GenerationSchedule()
        return -(-20 // num_processes) // 2


@pytest.mark.parametrize(
    ("settings", "overrides", "expected"),
    [
        ({"max_epochs": 5}, ("trainer.max_steps=-1",), {"total_steps": 50}),
        ({"max_epochs": 5, "accumulate_grad_batches": 4}, ("trainer.max_steps=-1",), {"total_steps": 15}),
        ({"max_epochs": 5, "world_size": 2}, ("trainer.max_steps=-1",), {"total_steps": 25}),
        ({"max_epochs": 5, "limit_train_batches": 3}, ("trainer.max_steps=-1",), {"total_steps": 15}),
        ({"max_epochs": 5, "limit_train_batches": 0.5}, ("trainer.max_steps=-1",), {"total_steps": 25}),
        ({"max_epochs": 5, "max_steps": 30}, ("trainer.max_steps=30",), {"total_steps": 30}),
        ({"max_epochs": 2, "max_steps": 30}, ("trainer.max_steps=30",), {"total_steps": 20}),
        ({"max_epochs": 2, "max_steps": 30}, ("trainer.max_steps=30", "optim.scheduler.total_steps=90"), {}),
        ({"max_steps": 30}, ("trainer.max_steps=30",), {}),
    ],
)
def test_a_schedule_counts_the_steps_of_the_epochs(settings, overrides, expected):
    assert schedule_length(composed(*overrides), trainer_of(**settings), SFTStage(), Batches()) == expected


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"check_val_every_n_epoch": 1, "val_check_interval": 188}, r"trainer\.val_check_interval=188 is longer"),
        ({"check_val_every_n_epoch": 3, "val_check_interval": 1.0, "max_epochs": 2}, "check_val_every_n_epoch=3: .* 2"),
        ({"check_val_every_n_epoch": 2, "val_check_interval": 1.0, "max_steps": 15}, "check_val_every_n_epoch=2: .* 1"),
    ],
)
def test_validations_by_the_epoch_that_never_come_are_refused(settings, key):
    with pytest.raises(ConfigError, match=key):
        schedule_length(composed(), trainer_of(**settings), SFTStage(), Batches())


@pytest.mark.parametrize(
    ("learns_targets", "reason", "refused"), [(True, "so " * 600, True), (False, "so " * 600, False)]
)
def test_a_prompt_longer_than_the_model_is_refused_with_its_row(make_policy, learns_targets, reason, refused):
    """Found out in mid-epoch, it ended the run, and neither the file nor the model may change at a resume."""
    policy, data = make_policy(enable_thinking=True), clips()
    data.media = SimpleNamespace(modalities=("video", "audio", "text"))
    check_prompts(policy, data, learns_targets=True)
    data.splits.train[1] = replace(data.splits.train[1], reason=reason, row=3)
    if refused:
        with pytest.raises(DataError, match=r"data/train\.csv: row 3: the prompt of clip1 has .* more are to follow"):
            check_prompts(policy, data, learns_targets=learns_targets)
    else:
        check_prompts(policy, data, learns_targets=learns_targets)
    data.splits.validation[2] = replace(data.splits.validation[2], subtitle="I said so. " * 200, row=4)
    with pytest.raises(DataError, match=r"data/(train\.csv: row 3|validation\.csv: row 4)"):
        check_prompts(policy, data, learns_targets=learns_targets)


def test_without_training_there_is_something_to_test():
    def config(**given):
        return OmegaConf.create({"train": False, "evaluate_after": True, "ckpt_path": None} | given)

    check_trains(config())
    check_trains(config(train=True, evaluate_after=False, ckpt_path="last"))
    with pytest.raises(
        ConfigError, match=r"^train=false only answers the test clips: give evaluate_after=true as well$"
    ):
        check_trains(config(evaluate_after=False))
    with pytest.raises(ConfigError, match=r"^train=false tests the weights of init_from, and ckpt_path=last continues"):
        check_trains(config(ckpt_path="last"))
