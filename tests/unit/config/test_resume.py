"""What may change when a run is resumed, what may not, and that nothing is passed over."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from affectgpt_r1.config.resume import Resumed, check_changes, check_content, compare_configs, read_resumed
from affectgpt_r1.errors import CheckpointError, ConfigError

PATH = Path("run/checkpoints/last.ckpt")
CONFIG = {
    "seed": 1,
    "experiment_name": "demo",
    "init_from": "/a/best.ckpt",
    "emotion": {"lexicon": "bundled"},
    "prompt": {"max_completion_length": 24},
    "reward": {"weights": {"accuracy": 1.0}, "rewards": {"perception": {"judge": {"url": "http://a"}}}},
    "judge": {"url": "http://a"},
    "data": {
        "root": "/a/data",
        "seed": 1,
        "train_labels": "train.csv",
        "batch_size": 4,
        "modalities": ["video", "text"],
        "modality_dropout": 0.1,
        "questions": [],
    },
    "model": {"lora": None},
    "stage": {
        "beta": 0.0,
        "num_generations": 4,
        "num_iterations": 1,
        "monitor": "val/f1",
        "rewards": {"weights": {"accuracy": 1.0}, "rewards": {"perception": {"judge": {"url": "http://a"}}}},
        "lexicon": {"spec": "bundled"},
    },
    "optim": {"optimizer": {"_target_": "torch.optim.AdamW", "lr": 1e-3}, "scheduler": {"total_steps": 8}},
    "trainer": {"max_steps": 8, "accumulate_grad_batches": 2, "max_epochs": -1},
}


def told(**changes):
    """``CONFIG`` with dotted keys, ``__`` for dots, set."""
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *groups, name = key.split("__")
        node = config
        for group in groups:
            node = node[group]
        node[name] = value
    return config


def stored(**parts):
    return {"config": CONFIG, "global_step": 6, "epoch": 1, "position": [1, 4], "state_dict": {}, **parts}


def test_the_same_configuration_has_no_changes():
    assert check_changes(stored(), copy.deepcopy(CONFIG), PATH) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optim__optimizer": {**CONFIG["optim"]["optimizer"], "lr": 1e-5}}, "optim.optimizer.lr 0.001 -> 1e-05"),
        ({"stage__beta": 0.04}, "stage.beta 0.0 -> 0.04"),
        ({"trainer__max_steps": 9}, "trainer.max_steps 8 -> 9"),
        ({"trainer__val_check_interval": 5}, "trainer.val_check_interval (unset) -> 5"),
        ({"data__modality_dropout": 0.3}, "data.modality_dropout 0.1 -> 0.3"),
        ({"stage__num_generations": 8}, "stage.num_generations 4 -> 8"),
    ],
)
def test_what_steers_the_optimization_is_applied(changes, said):
    assert [str(one) for one in check_changes(stored(), told(**changes), PATH)] == [said]


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"data__batch_size": 8}, r"data\.batch_size=8 .*has data\.batch_size=4\."),
        ({"data__modalities": ["video"]}, r'data\.modalities=\["video"\] .*has data\.modalities=\["video", "text"\]'),
        ({"data__questions": ["ovlabel"]}, r"data\.questions"),
        ({"prompt__max_completion_length": 48}, r"prompt\.max_completion_length=48"),
        ({"stage__num_iterations": 2}, r"stage\.num_iterations=2"),
        ({"stage__monitor": "val/loss"}, r"stage\.monitor=val/loss"),
        ({"model__lora": {"r": 4}}, r"model\.lora"),
        ({"trainer__limit_train_batches": 2}, r"trainer\.limit_train_batches=2"),
        ({"optim__optimizer": {"_target_": "torch.optim.SGD", "lr": 1e-3}}, r"optim\.optimizer\._target_"),
        ({"some_key_of_a_later_version": 1}, "some_key_of_a_later_version=1"),
    ],
)
def test_what_makes_a_run_another_is_refused_with_both_values_and_the_remedy(changes, refused):
    with pytest.raises(ConfigError, match=rf"{refused}.*init_from=run/checkpoints/last\.ckpt"):
        check_changes(stored(), told(**changes), PATH)


def test_a_value_that_configs_hand_on_is_named_once():
    both = told(seed=2, data__seed=2)
    assert [one.key for one in compare_configs(CONFIG, both)] == ["seed"]
    moved = copy.deepcopy(CONFIG)
    moved["judge"]["url"] = "http://b"
    for reward in (moved["reward"], moved["stage"]["rewards"]):
        reward["rewards"]["perception"]["judge"]["url"] = "http://b"
    assert [str(one) for one in check_changes(stored(), moved, PATH)] == ["judge.url http://a -> http://b"]
    weights = told(stage__rewards={**CONFIG["stage"]["rewards"], "weights": {"accuracy": 2.0}})
    with pytest.raises(ConfigError, match=r"reward\.weights\.accuracy=2\.0"):
        check_changes(stored(), weights, PATH)


def test_a_key_that_the_checkpoint_is_too_old_for_is_told_but_not_refused():
    old = stored(config={key: value for key, value in CONFIG.items() if key != "seed"})
    assert "seed (unset) -> 1" in [str(one) for one in check_changes(old, CONFIG, PATH)]


@pytest.mark.parametrize(
    ("parts", "value", "refused"),
    [
        ({"gradients": {"weight": 1}}, 4, True),  # in mid-accumulation
        ({}, 3, True),  # four batches of the epoch are not full steps of three
        ({}, 4, False),
    ],
)
def test_accumulation_changes_between_steps_only(parts, value, refused):
    today = told(trainer__accumulate_grad_batches=value)
    if refused:
        with pytest.raises(ConfigError, match=r"accumulate_grad_batches=.* cannot begin after batch 4"):
            check_changes(stored(**parts), today, PATH)
    else:
        assert len(check_changes(stored(**parts), today, PATH)) == 1


def test_the_group_size_does_not_change_under_a_filled_buffer():
    with pytest.raises(ConfigError, match=r"stage\.num_generations=8 cannot begin while the rollout buffer"):
        check_changes(stored(rollout_buffer={"visits": 1}), told(stage__num_generations=8), PATH)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"trainer__max_steps": 5}, r"trainer\.max_steps=5: .* is at 6 already"),
        ({"trainer__max_epochs": 0}, r"trainer\.max_epochs=0: .* is at 1 already"),
    ],
)
def test_an_end_that_is_passed_is_refused(tmp_path, changes, refused):
    path = tmp_path / "last.ckpt"
    torch.save(stored(), path)
    with pytest.raises(ConfigError, match=refused):
        read_resumed(path, told(**changes))
    resumed = read_resumed(path, told(trainer__max_steps=6))
    assert (resumed.step, len(resumed.changes)) == (6, 1)
    assert resumed.history == ({"step": 6, "key": "trainer.max_steps", "before": 8, "after": 6},)


def test_a_checkpoint_that_is_absent_or_damaged_has_a_remedy(tmp_path):
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*last\.ckpt; leave ckpt_path out"):
        read_resumed(last, CONFIG)
    last.write_bytes(b"half")
    torch.save(stored(), best)
    with pytest.raises(
        CheckpointError, match=r"best\.ckpt is undamaged: ckpt_path=.*best\.ckpt continues .* at step 6$"
    ):
        read_resumed(last, CONFIG)
    assert read_resumed(best, CONFIG).step == 6
    best.write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"best\.ckpt is damaged, too: overwrite=true begins again$"):
        read_resumed(last, CONFIG)


def test_files_are_compared_by_content_and_may_move():
    assert compare_configs(CONFIG, told(data__root="/b/data", data__train_labels="copy.csv", init_from="/b.ckpt")) == []
    assert compare_configs(CONFIG, {**told(trainer__default_root_dir="/b/run"), "paths": {"run": "/b/run"}}) == []
    before = {"data.train_labels": "1", "data.test_labels": "2", "emotion.lexicon": "3", "init_from": "4"}
    resumed = Resumed(PATH, 6, (), (), before)
    check_content(resumed, {**before, "data.test_labels": "9"}, CONFIG)  # of clips that do not train
    with pytest.raises(ConfigError, match=r"^data\.train_labels=train\.csv, data\.subtitles=None: not the content"):
        check_content(resumed, {**before, "data.train_labels": "8", "data.subtitles": "7"}, CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reward__rewards", {"perception": {}, "format": {"_target_": "x"}}),
        ("reward__weights", {"accuracy": 1.0, "format": 0.1}),
    ],
)
def test_a_reward_that_is_added_is_another_experiment(key, value):
    """Its keys are new to the checkpoint, as those of a newer version would be."""
    with pytest.raises(ConfigError, match=r"reward\..*another experiment"):
        check_changes(stored(), told(**{key: value}), PATH)


def test_what_a_half_done_step_is_counted_in_does_not_change():
    colder = told(stage__sampling={"temperature": 0.8})
    before = stored(rollout_buffer={"visits": 1})
    before["config"] = told(stage__sampling={"temperature": 1.0})
    with pytest.raises(ConfigError, match=r"stage\.sampling\.temperature=0\.8 cannot begin while the rollout buffer"):
        check_changes(before, colder, PATH)
    half = stored(gradients={"w": torch.ones(1)}, position=[1, 3])
    half["config"] = told(stage__loss_type="grpo")
    with pytest.raises(ConfigError, match=r"stage\.loss_type=dapo cannot begin in the middle of an accumulated step"):
        check_changes(half, told(stage__loss_type="dapo"), PATH)
    half["gradients"] = {}
    assert len(check_changes(half, told(stage__loss_type="dapo"), PATH)) == 1
