"""What a configuration may build is a list of exact names; all else is refused before it is imported."""

from __future__ import annotations

import sys

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from affectgpt_r1.config import keys as config_keys
from affectgpt_r1.config.compose import CONFIGS, check_composed, instantiate
from affectgpt_r1.config.targets import LIBRARY_TARGETS, PARTS, allowed_targets
from affectgpt_r1.errors import ConfigError
from helpers.configs import compose_config

SHIPPED = {
    "hydra": {"config.sweep.SweepCallback"},
    "callbacks": {
        *("callbacks.checkpoints.BestCheckpoint", "callbacks.checkpoints.LastCheckpoint"),
        *("callbacks.completions_table.CompletionsTable", "callbacks.hacking_alarm.RewardHackingAlarm"),
        *("callbacks.hacking_probe.RewardHackingProbe", "callbacks.step_timer.StepTimer"),
        *(
            "callbacks.fail_together.FailTogether",
            "callbacks.progress.PlainProgress",
            "callbacks.progress.progress_bar",
        ),
        "callbacks.modality_faithfulness.ModalityFaithfulness",
        *("callbacks.unreadable_clips.UnreadableClipsMonitor", "callbacks.validation_kl.ValidationKL"),
    },
    "data": {
        *("data.datamodule.MERCaptionDataModule", "data.datamodule.OVMERDataModule"),
        "data.recognition_datamodule.RecognitionDataModule",
    },
    "judge": {
        *("emotion.chat_client.CachedChat", "emotion.chat_client.UrlChat", "policy.local_chat.load_local_chat"),
        *("rewards.judges.ChatJudge", "rewards.judges.PeopleJudge", "rewards.judges.RecordedCuesJudge"),
    },
    "logger": {"tracking.mlflow_logger.TrackedMLFlowLogger"},
    "model": {"policy.build_policy.build_policy"},
    "optim": {"training.optim.cosine_schedule", "training.optim.linear_schedule"},
    "reward": {
        *("emotion.lexicon.load_lexicon", "rewards.accuracy.AccuracyReward", "rewards.alignment.AlignmentReward"),
        *("rewards.dual.DualReward", "rewards.format.FormatReward", "rewards.perception.PerceptionReward"),
        *(
            "rewards.r1_omni_published.PublishedFormatReward",
            "rewards.r1_omni_published.PublishedSingleLabelReward",
            "rewards.single_label.SingleLabelReward",
            "rewards.weighting.WeightedRewards",
        ),
        *("rewards.recall_precision.SetScoreReward", "rewards.repetition.RepetitionReward"),
    },
    "rollout": {"engine.vllm_client.VLLMClient"},
    "stage": {
        *("emotion.lexicon.load_lexicon", "training.grpo.GRPOStage", "training.sft.SFTStage"),
        *("training.pretrain_encoders.EncoderStage", "training.chord.MuSchedule", "types.Sampling"),
    },
    "trainer": {
        *("distributed.ddp.ddp_strategy", "distributed.fsdp.ShardedStrategy"),
        "lightning.pytorch.Trainer",
    },
}
"""By group, below ``affectgpt_r1.`` unless they are a library's."""

HOSTILE = (
    # What runs a command, imports, evaluates.
    *("os.system", "subprocess.run", "builtins.eval", "importlib.import_module", "runpy.run_path", "os.execv"),
    "affectgpt_r1.tracking.provenance._git",
    *(
        "affectgpt_r1.tracking.provenance.subprocess.run",
        "affectgpt_r1.config.compose.os.system",
        "affectgpt_r1.cli.main.main",
    ),
    *(
        "affectgpt_r1.cli.main.import_module",
        "affectgpt_r1.tracking.serve.main",
        "affectgpt_r1.config.compose.traceback.sys.exit",
    ),
    "lightning.pytorch.trainer.trainer.os.system",
    *("lightning.pytorch.utilities.model_helpers.os.system", "lightning.pytorch.cli.LightningCLI"),
    "lightning.pytorch.strategies.launchers.subprocess_script._SubprocessScriptLauncher",
    *("torch.optim.optimizer.functools.partial", "torch.utils.cpp_extension.load_inline", "torch.hub.load"),
    # What unpickles.
    *("pickle.load", "torch.load", "numpy.load", "affectgpt_r1.io.object_archive._PlainUnpickler"),
    *(
        "lightning.pytorch.core.saving._load_from_checkpoint",
        "lightning.pytorch.utilities.migration.migrate_checkpoint",
    ),
    *("affectgpt_r1.callbacks.checkpoints.pickle.load", "affectgpt_r1.callbacks.checkpoints.torch.load"),
    # What writes or deletes.
    *(
        "pathlib.Path.write_text",
        "shutil.rmtree",
        "affectgpt_r1.config.run_folder._write",
        "affectgpt_r1.config.run_folder.begin",
    ),
    *("affectgpt_r1.config.run_folder.shutil.rmtree", "affectgpt_r1.io.plain_json.write_json"),
    *("affectgpt_r1.data.recognition_datamodule._link", "affectgpt_r1.data.recognition_datamodule._put"),
    *("affectgpt_r1.data.synthetic.render_clips.shutil.rmtree", "affectgpt_r1.policy.hf_export.save_file"),
    *("affectgpt_r1.policy.convert_weights.convert_weights", "lightning.pytorch.core.saving.save_hparams_to_yaml"),
    # What opens a URL or a file.
    *("urllib.request.urlopen", "affectgpt_r1.policy.pretrained.hub_answers", "builtins.open"),
    *("affectgpt_r1.policy.backbone.load_tokenizer", "affectgpt_r1.policy.checkpoint.read_checkpoint"),
    "lightning.pytorch.loggers.wandb.WandbLogger",
    # What is allowed elsewhere, or looks like it.
    *("torch.optim.adamw.AdamW", "torch.optim.swa_utils.AveragedModel", "affectgpt_r1.types.Sampling.__init__"),
    *("lightning.pytorch.callbacks.early_stopping.EarlyStopping", "affectgpt_r1_other.run", "", "1", "${evil}"),
)


def test_what_may_be_built_is_what_configs_name_and_the_list():
    groups = {*SHIPPED, *LIBRARY_TARGETS}
    own = {group: allowed_targets(group) - set(LIBRARY_TARGETS.get(group, ())) for group in groups}
    for group, parts in PARTS.items():
        own[group] -= {name for part in parts for name in allowed_targets(part)} - {
            "affectgpt_r1.emotion.lexicon.load_lexicon"
        }
    prefixed = {
        group: {name if name.startswith("lightning.") else f"affectgpt_r1.{name}" for name in names}
        for group, names in SHIPPED.items()
    }
    assert own == prefixed
    for group in (path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name not in groups):
        assert allowed_targets(group) == frozenset()


@pytest.mark.parametrize("group", LIBRARY_TARGETS)
def test_the_listed_names_of_libraries_exist_and_are_classes(group):
    assert [name for name in LIBRARY_TARGETS[group] if not isinstance(get_object(name), type)] == []


@pytest.mark.parametrize("target", HOSTILE)
def test_what_is_not_listed_is_refused_in_every_group_and_place(target):
    loaded = set(sys.modules)
    for group in (*SHIPPED, "hydra", "anything"):
        for tree, key in (
            ({"_target_": target, "_args_": ["x"]}, group),
            (
                {
                    "a": [
                        {"_target_": "affectgpt_r1.types.Sampling"} if group == "stage" else {},
                        {"b": {"_target_": target}},
                    ]
                },
                rf"{group}\.a\[1\]\.b",
            ),
        ):
            with pytest.raises(ConfigError, match=rf"^{key}\._target_: .*is not allowed"):
                instantiate(tree, group)
    assert set(sys.modules) == loaded


def test_a_target_of_another_group_is_refused():
    for group, target in (
        ("callbacks", "affectgpt_r1.tracking.mlflow_logger.TrackedMLFlowLogger"),
        ("model", "affectgpt_r1.emotion.chat_client.UrlChat"),
        ("data", "affectgpt_r1.policy.build_policy.build_policy"),
        ("optim", "lightning.pytorch.Trainer"),
    ):
        with pytest.raises(ConfigError, match=f"{target} is not allowed"):
            instantiate({"_target_": target}, group)


@pytest.mark.parametrize(
    "override",
    [
        "+callbacks.evil={_target_: antigravity.x}",
        "+model.language_model.evil={_target_: affectgpt_r1.tracking.provenance._git}",
        "+evil={_target_: antigravity.x}",
        "model._target_=antigravity.x",
        "+data.questions=[{_target_: antigravity.x}]",
        "++stage.sampling={_target_: '${init_from}'}",
    ],
)
def test_a_composed_configuration_is_refused_before_anything_is_imported(override):
    config = compose_config("train", "experiment=demo/grpo", override)
    with pytest.raises(ConfigError, match=r"_target_: .* is not allowed"):
        check_composed(config)
    assert "antigravity" not in sys.modules


def test_a_class_of_ones_own_is_allowed_by_a_file_of_configs(monkeypatch, tmp_path):
    mine = "affectgpt_r1.rewards.mine.MyReward"
    (tmp_path / "reward").mkdir()
    OmegaConf.save({"rewards": {"mine": {"_target_": mine}}}, tmp_path / "reward" / "mine.yaml")
    monkeypatch.setattr(config_keys, "CONFIGS", tmp_path)
    allowed_targets.cache_clear()
    config_keys.config_items.cache_clear()
    assert mine in allowed_targets("reward")
    assert mine in allowed_targets("stage")
    assert mine not in allowed_targets("callbacks")
    monkeypatch.undo()
    allowed_targets.cache_clear()
    config_keys.config_items.cache_clear()
    assert mine not in allowed_targets("reward")
