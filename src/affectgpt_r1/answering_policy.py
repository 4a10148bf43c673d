"""The policy that answers: of a run's checkpoint, or of a folder that was exported."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from affectgpt_r1.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from affectgpt_r1.data.dataset import MediaSettings
    from affectgpt_r1.policy.policy import MultimodalPolicy
    from affectgpt_r1.prediction import Predictor
    from affectgpt_r1.types import Sampling

DEFAULT_CHECKPOINTS = ("grpo", "sft")


def add_policy_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which policy answers, for :func:`load_predictor`."""
    parser.add_argument("--checkpoint", type=Path, help="best.ckpt of a run, or an exported folder (newest GRPO run)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="keys that differ here from training: paths.root=/data",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (CUDA where there is some)")


def load_predictor(options: argparse.Namespace) -> Predictor:
    """The policy of a checkpoint with the configuration that its run wrote beside it, or of an exported folder.

    Raises:
        CheckpointError: There is no checkpoint, or what belongs beside it is gone.
        ConfigError: ``--device`` or a key of ``--set`` does not exist.
    """
    import torch

    from affectgpt_r1.emotion.lexicon import load_lexicon
    from affectgpt_r1.prediction import Predictor

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without it
        raise ConfigError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error
    checkpoint = options.checkpoint or newest_checkpoint()
    policy, media, sampling, lexicon = (_exported if checkpoint.is_dir() else _trained)(checkpoint, options.set)
    policy.to(device).eval()
    chosen = load_lexicon(options.lexicon or lexicon)
    return Predictor(policy, media, sampling, chosen, options.faces, not options.no_contributions)


def _trained(checkpoint: Path, changes: Sequence[str]) -> tuple[MultimodalPolicy, MediaSettings, Sampling, str]:
    from affectgpt_r1.assembly import answer_sampling, build_policy, prepare_process
    from affectgpt_r1.config import instantiate

    written = checkpoint.parent.parent / ".hydra" / "config.yaml"
    if not checkpoint.is_file() or not written.is_file():
        missing = written if checkpoint.is_file() else checkpoint
        raise CheckpointError(
            f"{missing}: no such file; --checkpoint names OUTPUT/checkpoints/best.ckpt of a training run, whose "
            "OUTPUT/.hydra/config.yaml must be there, too, or a folder that `affectgpt-r1 export` wrote"
        )
    config = config_of_run(written, changes)
    config.init_from, config.ckpt_path = str(checkpoint), None
    prepare_process(config)
    tokenizer = Path(config.model.tokenizer)
    if tokenizer.suffix == ".json" and not tokenizer.is_file():
        raise CheckpointError(
            f"{tokenizer}: no such file; if {checkpoint} was trained in another folder, name that by "
            "--set paths.root=FOLDER, or the tokenizer alone by --set model.tokenizer=FILE"
        )
    return build_policy(config), instantiate(config.data).media, answer_sampling(config), config.emotion.lexicon


def _exported(folder: Path, changes: Sequence[str]) -> tuple[MultimodalPolicy, MediaSettings, Sampling, str]:
    from affectgpt_r1.data.dataset import MediaSettings
    from affectgpt_r1.policy.export import load_exported, read_processor
    from affectgpt_r1.types import Sampling

    if changes:
        raise CheckpointError(f"{folder}: --set changes a training run's configuration; an exported folder has none")
    policy = load_exported(folder)
    processor, max_completion_length = read_processor(folder)
    media = MediaSettings(**{**processor, "modalities": tuple(processor["modalities"])})
    return policy, media, Sampling(temperature=0.0, max_completion_length=max_completion_length), "bundled"


def config_of_run(written: Path, changes: Sequence[str]) -> DictConfig:
    """The configuration that a run wrote, on top of today's defaults for keys that it did not know.

    Args:
        written: Its ``.hydra/config.yaml``.
        changes: ``key=value`` pairs.

    Raises:
        ConfigError: A pair is none, or its key does not exist.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from affectgpt_r1.config import CONFIGS, explain

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        defaults = compose("train")
    OmegaConf.set_struct(defaults, False)
    own = OmegaConf.load(written)
    for part in ("language_model", "video_tower", "audio_tower"):
        if OmegaConf.select(own, f"model.{part}") is not None:
            defaults.model[part] = {}  # an architecture is the run's alone, without the default model's sizes
    config = OmegaConf.merge(defaults, own)
    assert isinstance(config, DictConfig)
    OmegaConf.set_struct(config, True)
    for change in changes:
        if "=" not in change:
            raise ConfigError(f"--set {change}: give KEY=VALUE; what follows --set up to the next option is read so")
        try:
            config.merge_with_dotlist([change])
        except OmegaConfBaseException as error:
            raise ConfigError(explain(error, [change])) from error
    return config


def newest_checkpoint() -> Path:
    """The best checkpoint of the newest GRPO run, else of the newest SFT run; says which on standard error.

    Raises:
        CheckpointError: There is none.
    """
    from affectgpt_r1.config import REPOSITORY

    outputs = REPOSITORY / "outputs"
    for stage in DEFAULT_CHECKPOINTS:
        found = [path for name in (stage, f"{stage}+*") for path in outputs.glob(f"*/{name}/checkpoints/best.ckpt")]
        if found:
            newest = max(found, key=lambda path: path.stat().st_mtime)
            print(f"answering with {newest}, the newest; --checkpoint names another", file=sys.stderr)
            return newest
    raise CheckpointError(f"no trained policy below {outputs}: run `make grpo`, or name one with --checkpoint")
