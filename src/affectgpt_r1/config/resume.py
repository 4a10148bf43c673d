"""Settings of a resumed run compared with those in its checkpoint: each difference is applied and logged, or refused.

What steers the optimization (rates, schedule, length, clipping, KL, sampling) or only says how and where the run is
computed may change. What makes it another experiment (model, clips, prompt, rewards, seed) may not. A key in none of
the tables is refused, which loses nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from affectgpt_r1.config.keys import config_keys
from affectgpt_r1.errors import CheckpointError, ConfigError
from affectgpt_r1.policy.checkpoint import read_checkpoint

# Keys, or groups of keys, that may change
APPLIED = (
    *("experiment_name", "synthetic", "match_wall_time", "evaluate_after", "sweep", "num_threads", "train"),
    *("trainer", "optim", "judge", "rollout"),
    *("data.num_workers", "data.eval_batch_size", "data.modality_dropout", "data.max_unreadable_fraction"),
    *("data.feature_store", "data.manifests", "data.recheck", "data.seen_labels", "data.test_labels"),
    *("model.engine", "model.share_prefix", "model.attention", "model.gradient_checkpointing"),
    *("stage.beta", "stage.kl_estimator", "stage.use_bias_correction_kl"),
    *("stage.epsilon", "stage.epsilon_high", "stage.delta", "stage.loss_type", "stage.importance_sampling_level"),
    *(
        "stage.loss_normalizer",
        "stage.scale_rewards",
        "stage.multi_objective_aggregation",
        "stage.max_resamples",
        "stage.num_generations",
    ),
    *("stage.mask_truncated_completions", "stage.truncated_leave_baseline"),
    *(
        "stage.entropy_coef",
        "stage.faithfulness_coef",
        "stage.faithfulness_margin",
        "stage.top_entropy_quantile",
        "stage.sampling",
        "stage.log_mel_weight",
    ),
    *("stage.mu", "stage.token_weighting"),
    *("stage.vllm_importance_sampling_correction", "stage.vllm_importance_sampling_mode"),
    *("stage.vllm_importance_sampling_clip_max", "stage.vllm_importance_sampling_clip_min"),
    "stage.mode",  # the best checkpoint compares the direction itself
)

# Exceptions within `APPLIED`
REFUSED = (
    *("optim.optimizer._target_", "optim.optimizer.amsgrad"),  # the stored moments are of another kind
    *("trainer.limit_train_batches", "trainer.overfit_batches"),  # the position is counted in an epoch's batches
)

# Where the run is and writes
NOT_COMPARED = (
    "ckpt_path",
    "overwrite",
    "debugging",
    "strict_init",
    "paths",
    "trainer.default_root_dir",
    "data.prepared",
)

# Keys that name files or folders, which may have moved: what they hold is compared, by digest
BY_CONTENT = (
    *("init_from", "encoders_from", "emotion.lexicon", "model.tokenizer", "model.weights", "data.root"),
    *("data.train_labels", "data.train_reasons", "data.validation_labels", "data.subtitles", "data.cues_file"),
    *("data.supervised_labels", "data.supervised_reasons"),
)

# Patterns of keys that `configs/` fills from another key, and that key
SOURCES = (
    (r"stage\.rewards\.(.*)", r"reward.\1"),
    (r"reward\..*\.judge\.(.*)", r"judge.\1"),
    (r".*\blexicon\.spec", "emotion.lexicon"),
    (r"reward\.max_completion_length", "prompt.max_completion_length"),
    (r"data\.seed", "seed"),
)


class Unset:
    """A key that a configuration does not have."""

    def __repr__(self) -> str:
        return "unset"


UNSET = Unset()


class Change(NamedTuple):
    """A setting that differs between the checkpoint and today; a missing one is :data:`UNSET`."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.before)} -> {_shown(self.after)}"


class Resumed(NamedTuple):
    """The checkpoint of a resumed run.

    Attributes:
        path: The file.
        step: Its optimizer step.
        changes: Settings that differ and are applied.
        history: Settings that have changed over all parts of the run, these included, as plain values.
        content: See :func:`check_content`.
    """

    path: Path
    step: int
    changes: tuple[Change, ...]
    history: tuple[dict[str, Any], ...]
    content: Mapping[str, str]


def read_resumed(path: Path, today: Mapping[str, Any]) -> Resumed:
    """Read a checkpoint to resume from, and compare its run's configuration with ``today``, resolved.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        ConfigError: A setting changed that may not.
    """
    if not path.is_file():
        run = path.parent.parent
        # What the command line changes is a part of the folder's name, so a changed key looks in another folder.
        others = sorted(run.parent.glob(f"{run.name.partition('+')[0]}*/checkpoints/{path.name}"))
        elsewhere = f"; there is {', '.join(map(str, others))}" if others else ""
        raise CheckpointError(
            f"ckpt_path: no checkpoint at {path}; leave ckpt_path out to begin this run, or name the file of the run "
            f"to resume{elsewhere}"
        )
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError as error:
        best = path.with_name("best.ckpt")
        if best == path or not best.is_file():
            raise
        raise CheckpointError(f"{error}. {_offer_best(best)}") from error
    stored = checkpoint.get("config")
    if not isinstance(stored, Mapping) or not {"global_step", "epoch", "position"} <= checkpoint.keys():
        raise CheckpointError(
            f"{path} lacks its run's progress or settings (weights alone?): start from its weights by init_from={path}"
        )
    changes = tuple(check_changes(checkpoint, today, path))
    _check_length(today, checkpoint)
    step = int(checkpoint["global_step"])
    history = (
        *checkpoint.get("config_changes", ()),
        *(
            {"step": step, "key": change.key, "before": _plain(change.before), "after": _plain(change.after)}
            for change in changes
        ),
    )
    return Resumed(path, step, changes, history, checkpoint.get("content", {}))


def _offer_best(best: Path) -> str:
    try:
        step = read_checkpoint(best)["global_step"]
    except (CheckpointError, KeyError):
        return f"{best} is damaged, too: overwrite=true begins again"
    return f"best.ckpt is undamaged: ckpt_path={best} continues from its validation at step {step}"


def check_changes(checkpoint: Mapping[str, Any], today: Mapping[str, Any], path: Path) -> list[Change]:
    """Return the settings that changed since a checkpoint was written, and are applied.

    Raises:
        ConfigError: Names each setting that may not change, both values, and the remedy.
    """
    changes = compare_configs(checkpoint["config"], today)
    refused = [change for change in changes if not _may_change(change)]
    reason = "would make it another experiment"
    if not refused:
        refused, reason = _refused_in_mid_step(changes, checkpoint)
    if refused:
        new = ", ".join(f"{change.key}={_shown(change.after)}" for change in refused)
        old = " ".join(f"{change.key}={_shown(change.before)}" for change in refused)
        raise ConfigError(
            f"{new} {reason}: the run of ckpt_path has {old}. Resume with that, or start a new run from its weights by "
            f"init_from={path}"
        )
    return changes


def compare_configs(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return the settings that differ; each once, though ``configs/`` copies some to other keys.

    What is in :data:`BY_CONTENT` is left to :func:`check_content` and to the digests in the checkpoint.
    """
    old, new = dict(dotted(before)), dict(dotted(after))
    changes: dict[str, Change] = {}
    for key in [*new, *(key for key in old if key not in new)]:
        change = Change(_source(key), old.get(key, UNSET), new.get(key, UNSET))
        if change.before != change.after and not _is_below(change.key, (*NOT_COMPARED, *BY_CONTENT)):
            changes.setdefault(change.key, change)
    return list(changes.values())


def check_content(resumed: Resumed, content: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Refuse label files and a lexicon whose content has changed since the run began.

    Args:
        resumed: What the run was trained with.
        content: Digests by the key that names the file.
        config: Today's plain configuration, which has the files' names.
    """
    names = [key for key in BY_CONTENT if key.startswith(("data.", "emotion.")) and key != "data.root"]
    stored = resumed.content
    changed = [key for key in names if stored and stored.get(key) != content.get(key)]
    if changed:
        files = dict(dotted(config))
        raise ConfigError(
            f"{', '.join(f'{key}={files.get(key)}' for key in changed)}: not the content that the run of ckpt_path was "
            f"trained with. Put it back, or start a new run from its weights by init_from={resumed.path}"
        )


def _may_change(change: Change) -> bool:
    if change.before is UNSET and change.key in config_keys():  # the checkpoint is older than the key
        # A reward that is added has keys of its own, which an older checkpoint would lack as well.
        is_reward = _is_below(change.key, ("reward.rewards", "reward.weights"))
        return change.key not in REFUSED and not is_reward
    return _is_below(change.key, APPLIED) and not _is_below(change.key, REFUSED)


def _refused_in_mid_step(changes: list[Change], checkpoint: Mapping[str, Any]) -> tuple[list[Change], str]:
    """Return settings that may change between steps, but not in the middle of one; and why."""
    by_key = {change.key: change for change in changes}
    accumulation = by_key.get("trainer.accumulate_grad_batches")
    if accumulation and (checkpoint.get("gradients") or checkpoint["position"][1] % int(accumulation.after)):
        return [accumulation], f"cannot begin after batch {checkpoint['position'][1]} of an epoch"
    group = by_key.get("stage.num_generations")
    if group and checkpoint.get("rollout_buffer"):
        return [group], "cannot begin while the rollout buffer holds groups of another size"
    temperature = by_key.get("stage.sampling.temperature")
    if temperature and checkpoint.get("rollout_buffer"):
        return [temperature], "cannot begin while the rollout buffer holds log-probs at another temperature"
    weighting = [by_key[key] for key in ("stage.loss_normalizer", "stage.loss_type") if key in by_key]
    if weighting and checkpoint.get("gradients"):
        return weighting, "cannot begin in the middle of an accumulated step"
    return [], ""


def _check_length(today: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Refuse an end that the run has passed: it would count as finished, with more steps than configured."""
    reached = {"max_steps": int(checkpoint["global_step"]), "max_epochs": int(checkpoint["epoch"])}
    for name, least in reached.items():
        asked = today["trainer"].get(name)
        if asked is not None and 0 <= asked < least:
            raise ConfigError(
                f"trainer.{name}={asked}: the checkpoint of ckpt_path is at {least} already; give at least that, or "
                "resume from an earlier checkpoint"
            )


def dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each dotted key of a configuration with its value; lists and empty mappings are values."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _source(key: str) -> str:
    for pattern, source in SOURCES:
        key = re.sub(rf"^{pattern}$", source, key)
    return key


def _is_below(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _shown(value: Any) -> str:
    if isinstance(value, Unset):
        return "(unset)"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return None if isinstance(value, Unset) else value
