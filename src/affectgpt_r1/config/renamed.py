"""Keys, choices and targets of ``configs/`` that have a new name; an old one is refused with the new one named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

# `*` is any one name. A key below a renamed one, such as model.video_tower.dtype, has its new name as well.
KEYS = {
    "towers_from": "encoders_from",
    "paths.towers": "paths.encoders",
    "num_human": "num_exact",
    "data.validation_share": "data.val_fraction",
    "data.max_unreadable_share": "data.max_unreadable_fraction",
    "callbacks.*.max_share": "callbacks.*.max_fraction",
    "model.video_tower": "model.video_encoder",
    "model.audio_tower": "model.audio_encoder",
    "model.share_prompt": "model.share_prefix",
    "optim.scheduler.final_share": "optim.scheduler.min_lr_ratio",
    "prompt.thinks": "prompt.enable_thinking",
    "reward.rewards.*.thinks": "reward.rewards.*.enable_thinking",
}
CHOICES = {
    "data=ovmer": "data=ov_merd",
    "stage=towers": "stage=pretrain_encoders",
    "debug=none": "debug=null",
    **{
        f"experiment={old}": f"experiment={new}"
        for old, new in {
            "towers": "demo/pretrain_encoders",
            **{name: f"demo/{name}" for name in ("pretrain_encoders", "sft", "grpo", "control", "ablation")},
            "smol_sft": "smol/sft",
            "smol_grpo": "smol/grpo",
            "affectgpt_mercaption": "affectgpt/mercaption",
            "affectgpt_ovmerd": "affectgpt/ov_merd",
            "affectgpt_ov_merd": "affectgpt/ov_merd",
            "affectgpt": "affectgpt/published",
            "affectgpt_r1_cold_start": "affectgpt_r1/cold_start",
            "affectgpt_r1_grpo": "affectgpt_r1/grpo",
            "affectgpt_rl": "affectgpt_rl/ablation",
            "r1_omni_cold_start": "r1_omni/cold_start",
            "r1_omni": "r1_omni/rlvr",
            "r1_omni/grpo": "r1_omni/on_affectgpt_rlvr",
        }.items()
    },
}
TARGETS = {
    f"affectgpt_r1.{old}": f"affectgpt_r1.{new}"
    for old, new in {
        "callbacks.completions.CompletionsTable": "callbacks.completions_table.CompletionsTable",
        "callbacks.data_parallel.ddp_strategy": "distributed.ddp.ddp_strategy",
        "callbacks.hacking.RewardHackingAlarm": "callbacks.hacking_alarm.RewardHackingAlarm",
        "callbacks.processes.FailTogether": "callbacks.fail_together.FailTogether",
        "callbacks.sharded.ShardedStrategy": "distributed.fsdp.ShardedStrategy",
        "callbacks.skipped.UnreadableClips": "callbacks.unreadable_clips.UnreadableClipsMonitor",
        "data.recognition_folder.RecognitionDataModule": "data.recognition_datamodule.RecognitionDataModule",
        "emotion.chat.CachedChat": "emotion.chat_client.CachedChat",
        "emotion.chat.UrlChat": "emotion.chat_client.UrlChat",
        "optim.cosine_schedule": "training.optim.cosine_schedule",
        "optim.linear_schedule": "training.optim.linear_schedule",
        "policy.build.build_policy": "policy.build_policy.build_policy",
        "policy.chat.load_local_chat": "policy.local_chat.load_local_chat",
        "reporting.logger.TrackedMLFlowLogger": "tracking.mlflow_logger.TrackedMLFlowLogger",
        "stages.grpo.GRPOStage": "training.grpo.GRPOStage",
        "stages.sft.SFTStage": "training.sft.SFTStage",
        "stages.towers.TowerStage": "training.pretrain_encoders.EncoderStage",
        "sweep.SweepCallback": "config.sweep.SweepCallback",
    }.items()
}


def new_key(key: str) -> str | None:
    """Return the new name of a dotted key; None where it was not renamed.

    >>> new_key("model.video_tower.dtype")
    'model.video_encoder.dtype'
    """
    for old, new in KEYS.items():
        pattern = re.escape(old).replace(r"\*", r"([^.]+)")
        if match := re.match(rf"{pattern}(?=\.|$)", key):
            return new.replace("*", (*match.groups(), "")[0]) + key[match.end() :]
    return None


def new_override(override: str) -> str | None:
    """Return a command-line override under its new name; None where neither its key nor its choice was renamed.

    >>> new_override("data=ovmer,mercaption")
    'data=ov_merd,mercaption'
    """
    prefix, key, rest = re.fullmatch(r"([+~]*)([^=@]*)(.*)", override, re.DOTALL).groups()  # type: ignore[union-attr]
    if (renamed := new_key(key)) is not None:
        return f"{prefix}{renamed}{rest}"
    values = rest.removeprefix("=").split(",")
    new = ",".join(CHOICES.get(f"{key}={value}", f"={value}").partition("=")[2] for value in values)
    return f"{prefix}{key}={new}" if rest.startswith("=") and f"={new}" != rest else None


def renamed_keys(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the old and the new name of each renamed key in a configuration, such as an earlier run's."""
    for name, value in tree.items() if isinstance(tree, Mapping) else ():
        key = f"{prefix}{name}"
        if (new := new_key(key)) is not None:
            yield key, new
        else:
            yield from renamed_keys(value, f"{key}.")
