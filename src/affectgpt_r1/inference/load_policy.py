"""Load the policy that answers: of a run's checkpoint, or of an exported folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from affectgpt_r1 import __version__
from affectgpt_r1.config.compose import CONFIGS, explain, resolved
from affectgpt_r1.config.instantiate import answer_sampling, build_policy
from affectgpt_r1.config.policy_config import lay_over, media_keys, settings_of_checkpoint
from affectgpt_r1.config.threads import set_threads
from affectgpt_r1.config.untrusted_config import read_media
from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import CheckpointError, ConfigError, LexiconError
from affectgpt_r1.inference.calibration import read_calibration
from affectgpt_r1.inference.label_file import Predictor
from affectgpt_r1.inference.read_file import Faces, ReadOptions
from affectgpt_r1.io.clean_text import printable
from affectgpt_r1.policy.hf_export import load_exported, read_processor, read_sampling
from affectgpt_r1.policy.hf_folder import SETTINGS_FILE, file_digest
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.types import Sampling

DEFAULT_CHECKPOINTS = ("grpo", "sft")


def load_predictor(
    checkpoint: Path | None = None,
    changes: Sequence[str] = (),
    *,
    device: str | None = None,
    lexicon: str | None = None,
    faces: Faces = "detect",
    contributions: bool = False,
    num_samples: int = 0,
    options: ReadOptions | None = None,
    require_person: bool = False,
) -> Predictor:
    """Load the policy of a checkpoint under the settings that it was trained with, or of an exported folder.

    Args:
        checkpoint: ``best.ckpt`` of a run, or an exported folder; None is the newest run's.
        changes: ``key=value`` pairs of settings that differ here from training.
        device: None is CUDA where there is some.
        lexicon: Names the clusters; None is the one of training.
        faces: See :class:`~.label_file.Predictor`.
        contributions: See :class:`~.label_file.Predictor`.
        num_samples: See :class:`~.label_file.Predictor`.
        options: See :class:`~.label_file.Predictor`.
        require_person: See :class:`~.label_file.Predictor`.

    Raises:
        CheckpointError: There is no checkpoint, or it does not say how it was trained.
        ConfigError: The device or a key does not exist.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without it
        raise ConfigError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error
    checkpoint = checkpoint or newest_checkpoint()
    load = _exported if checkpoint.is_dir() else _trained
    policy, media, sampling, trained_lexicon, synthetic = load(checkpoint, changes)
    if options is not None and options.person != "largest" and media.visual not in ("face", "both"):
        raise ConfigError(f"--person {options.person}: {checkpoint} reads full frames (data.visual={media.visual})")
    policy.to(device).eval()
    try:
        chosen = load_lexicon(lexicon or trained_lexicon)
    except LexiconError as error:
        if lexicon or trained_lexicon == "bundled":
            raise
        raise LexiconError(f"{checkpoint} was trained with emotion.lexicon={trained_lexicon}: {error}") from error
    mark = "trained on synthetic clips: says nothing about real people"
    provenance: dict[str, Any] = {"synthetic": mark} if synthetic else {}
    provenance |= {
        "policy": {
            "checkpoint": str(checkpoint),
            "digest": _digest(checkpoint),
            "lexicon": lexicon or trained_lexicon,
            "version": __version__,
        }
    }
    calibration, why_not = read_calibration(provenance["policy"]) if num_samples else (None, "")
    if why_not:
        print(printable(why_not), file=sys.stderr)
    return Predictor(
        policy,
        media,
        sampling,
        chosen,
        faces=faces,
        contributions=contributions,
        num_samples=num_samples,
        options=options or ReadOptions(),
        require_person=require_person,
        provenance=provenance,
        calibration=calibration,
    )


def _digest(checkpoint: Path) -> str:
    """Return the start of a checkpoint's SHA-256; an exported folder's settings hold the digests of its weights."""
    return file_digest(checkpoint / SETTINGS_FILE if checkpoint.is_dir() else checkpoint)[: len("sha256:") + 16]


def _trained(checkpoint: Path, changes: Sequence[str]) -> tuple[MultimodalPolicy, MediaSettings, Sampling, str, bool]:
    config, facts = _config_and_facts(checkpoint, changes)
    set_threads(config)
    tokenizer = Path(config.model.tokenizer)
    if tokenizer.suffix == ".json" and not tokenizer.is_file():
        raise CheckpointError(
            f"{tokenizer}: no such file; if {checkpoint} was trained in another folder, name that by "
            "--set paths.root=FOLDER, or the tokenizer alone by --set model.tokenizer=FILE"
        )
    data = resolved(config)["data"]
    media = read_media({key: data[key] for key in media_keys() if key in data}, checkpoint)
    # Encoders that are not pretrained (encoders_from=null) were drawn from the run's seed; no checkpoint holds them.
    torch.manual_seed(int(facts.get("seed") or config.seed))
    return build_policy(config), media, answer_sampling(config), config.emotion.lexicon, bool(facts.get("synthetic"))


def _exported(folder: Path, changes: Sequence[str]) -> tuple[MultimodalPolicy, MediaSettings, Sampling, str, bool]:
    if changes:
        raise CheckpointError(f"{folder}: --set changes a training run's configuration; an exported folder has none")
    processor, sampling = read_processor(folder), read_sampling(folder)
    lexicon = str(processor.pop("lexicon", "bundled"))
    media = read_media(processor, folder / "preprocessor_config.json")
    synthetic = bool(settings_of_checkpoint(folder).facts.get("synthetic"))
    return load_exported(folder), media, sampling, lexicon, synthetic


def config_of_checkpoint(checkpoint: Path, changes: Sequence[str]) -> DictConfig:
    """Compose this version's configuration under the settings of a checkpoint, to start from its weights.

    What the checkpoint says is built by the ``_target_`` of ``configs/`` here alone.

    Raises:
        CheckpointError: There is no such file, it does not say how it was trained, or a pair contradicts that.
        ConfigError: A pair has no ``=``, or its key does not exist.
    """
    return _config_and_facts(checkpoint, changes)[0]


def _config_and_facts(checkpoint: Path, changes: Sequence[str]) -> tuple[DictConfig, Mapping[str, Any]]:
    if not checkpoint.is_file():
        raise CheckpointError(
            f"{checkpoint}: no such file; --checkpoint names OUTPUT/checkpoints/best.ckpt of a training run, or a "
            "folder that `affectgpt-r1 export` wrote"
        )
    settings = settings_of_checkpoint(checkpoint)
    if settings.origin is None:
        raise CheckpointError(
            f"{checkpoint} does not say how its policy was trained: give a checkpoint of a training run"
        )
    config, notes = lay_over(_composed(changes), settings, changes)
    config.init_from, config.ckpt_path = str(checkpoint), None
    for note in notes:
        print(printable(note), file=sys.stderr)
    return config, settings.facts


def _composed(changes: Sequence[str]) -> DictConfig:
    """Compose ``configs/train.yaml`` with the pairs of ``--set``; ``emotion=mer2025`` names a file of a group."""
    for change in changes:
        if "=" not in change:
            raise ConfigError(f"--set {change}: give KEY=VALUE; what follows --set up to the next option is read so")
    groups = [change for change in changes if (CONFIGS / change.partition("=")[0]).is_dir()]
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", groups)
    except HydraException as error:
        raise ConfigError(explain(error, groups)) from error
    for change in changes:
        if change in groups:
            continue
        try:
            config.merge_with_dotlist([change])
        except OmegaConfBaseException as error:
            raise ConfigError(explain(error, [change])) from error
    return config


def newest_checkpoint() -> Path:
    """Return the best checkpoint of the newest GRPO run, else of the newest SFT run; says which on standard error."""
    outputs = Path.cwd() / "outputs"
    for stage in DEFAULT_CHECKPOINTS:
        paths = [path for name in (stage, f"{stage}+*") for path in outputs.glob(f"*/{name}/checkpoints/best.ckpt")]
        if paths:
            newest = max(paths, key=lambda path: path.stat().st_mtime)
            print(printable(f"answering with {newest}, the newest; --checkpoint names another"), file=sys.stderr)
            return newest
    raise CheckpointError(f"no trained policy below {outputs}: run `make grpo`, or name one with --checkpoint")
