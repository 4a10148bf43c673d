"""An old key, choice or target is refused with its new name, wherever it is given."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import OmegaConf

from affectgpt_r1.config.compose import CONFIGS, check_composed, explain
from affectgpt_r1.config.keys import check_overrides, config_items
from affectgpt_r1.config.policy_config import settings_of_checkpoint
from affectgpt_r1.config.renamed import CHOICES, KEYS, TARGETS, new_key, new_override
from affectgpt_r1.config.run_folder import check_may_train, look_up
from affectgpt_r1.config.targets import check_targets
from affectgpt_r1.errors import CheckpointError, ConfigError
from affectgpt_r1.policy.checkpoint import read_checkpoint


@pytest.mark.parametrize(
    ("override", "new"),
    [
        ("data.validation_share=0.2", "data.val_fraction=0.2"),
        ("+optim.scheduler.final_share=1", "+optim.scheduler.min_lr_ratio=1"),
        ("model.video_tower.dtype=float16", "model.video_encoder.dtype=float16"),
        ("callbacks.unreadable_clips.max_share=0", "callbacks.unreadable_clips.max_fraction=0"),
        ("reward.rewards.dual.thinks=true", "reward.rewards.dual.enable_thinking=true"),
        ("towers_from=null", "encoders_from=null"),
        ("data=ovmer", "data=ov_merd"),
        ("data=mercaption,ovmer", "data=mercaption,ov_merd"),
        ("experiment=towers", "experiment=demo/pretrain_encoders"),
        ("experiment=sft,grpo", "experiment=demo/sft,demo/grpo"),
        ("experiment=affectgpt", "experiment=affectgpt/published"),
        ("experiment=r1_omni_cold_start", "experiment=r1_omni/cold_start"),
        ("debug=none", "debug=null"),
        ("~prompt.thinks=true", "~prompt.enable_thinking=true"),
    ],
)
def test_an_old_override_is_refused_with_the_new_one(override, new):
    with pytest.raises(ConfigError) as refused:
        check_overrides([override])
    assert str(refused.value) == f"{override} was renamed: give {new}"


@pytest.mark.parametrize("override", ["data=ov_merd", "seed=1,2", "prompt.kind=ovmer", "data.root=a=ovmer", "--cfg"])
def test_other_overrides_are_left_alone(override):
    assert new_override(override) is None
    check_overrides([override])


def test_the_table_names_what_exists_and_nothing_that_still_does():
    keys = {key for key, _, _ in config_items()}
    choices = {choice for _, _, choice in config_items()}
    own = {old: new for old, new in KEYS.items() if "*" not in old}
    assert set(own.values()) <= keys
    assert not keys & KEYS.keys()
    assert not [key for key in keys if new_key(key)]
    assert set(CHOICES.values()) - {"debug=null"} <= choices
    assert not choices & CHOICES.keys()
    for old, new in TARGETS.items():
        get_object(new)
        with pytest.raises(ImportError):
            get_object(old)


def test_an_old_target_is_refused_with_the_new_one():
    with pytest.raises(ConfigError, match=r"stage\._target_: .*stages\.grpo\.GRPOStage was renamed: it is .*training"):
        check_targets({"_target_": "affectgpt_r1.stages.grpo.GRPOStage"}, "stage")


def test_a_file_of_the_users_own_is_refused_with_the_new_name(tmp_path):
    """Hydra reads it; what it raises is explained."""
    (tmp_path / "experiment").mkdir()
    for name, text, said in (
        ("key", "data: {validation_share: 0.5}", "data.validation_share was renamed: it is data.val_fraction now"),
        ("choice", "defaults: [{override /data: ovmer}]", "data=ovmer was renamed: give data=ov_merd"),
    ):
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
        overrides = [f"+experiment@_global_={name}", f"hydra.searchpath=[file://{tmp_path}]"]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(Exception) as refused:
            check_composed(compose("train", overrides))
        assert isinstance(refused.value, HydraException | ConfigError)
        assert explain(refused.value, overrides) == said


def test_a_sweep_callback_under_its_old_name_is_explained():
    error = HydraException("Error locating target 'affectgpt_r1.sweep.SweepCallback', set env var HYDRA_FULL_ERROR=1")
    assert explain(error, []) == (
        "affectgpt_r1.sweep.SweepCallback was renamed: it is affectgpt_r1.config.sweep.SweepCallback now"
    )


def test_a_checkpoint_under_old_names_is_refused_whoever_reads_it(tmp_path):
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": {}, "config": {"towers_from": None, "prompt": {"thinks": True}}}, path)
    for read in (read_checkpoint, settings_of_checkpoint):
        with pytest.raises(CheckpointError, match=r"towers_from is encoders_from .* train that stage again"):
            read(path)


def test_a_run_folder_under_old_names_says_so(tmp_path):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", overrides=["experiment=demo/sft", f"paths.run={tmp_path}"])
    for name in ("checkpoints", ".hydra"):
        (tmp_path / name).mkdir()
    OmegaConf.save(OmegaConf.create({"prompt": {"thinks": True}}), tmp_path / ".hydra" / "config.yaml")
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"")
    found = look_up(config)
    with pytest.raises(
        ConfigError,
        match=r"such as prompt\.thinks, now prompt\.enable_thinking in \.hydra/config\.yaml\. Give paths\.run=",
    ):
        check_may_train(config, found)
