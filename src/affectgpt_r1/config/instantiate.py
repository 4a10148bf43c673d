"""From a composed configuration to the objects of a run, for training and evaluation."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig
from torch import Tensor

from affectgpt_r1.config.compose import instantiate
from affectgpt_r1.data.collate import batch_to_device
from affectgpt_r1.data.fill_feature_store import Encode, fill_feature_store
from affectgpt_r1.data.layouts.annotations import QuestionSet
from affectgpt_r1.data.unreadable import UnreadableClips
from affectgpt_r1.engine.vllm_client import VLLMClient
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.build_policy import has_sizes
from affectgpt_r1.policy.checkpoint import check_sizes, encoder_digest, load_encoder_weights, load_policy_weights
from affectgpt_r1.policy.hf_export import check_exported_sizes, load_exported_weights
from affectgpt_r1.policy.hf_folder import is_exported, read_exported
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.policy.pretrained import weights_on
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.types import ClipBatch, Sampling

if TYPE_CHECKING:  # it imports Lightning, which takes `predict` seconds
    from affectgpt_r1.data.datamodule import ClipDataModule

log = logging.getLogger(__name__)

SECONDS_BETWEEN_REPORTS = 20.0


def build_policy(config: DictConfig, device: torch.device | None = None) -> MultimodalPolicy:
    """Build the policy with pretrained encoders and, if ``init_from`` names a checkpoint, trained weights.

    Where it names an exported folder, the configuration takes the folder's ``model``. On a ``device`` no pretrained
    part is held by the host.
    """
    exported = take_exported_model(config)
    template = PromptTemplate(
        config.prompt.question,
        config.prompt.enable_thinking,
        config.data.visual,
        config.prompt.force_answer,
        bos_at_inference=config.prompt.bos_at_inference,
        kind=config.prompt.kind,
    )
    build = partial(instantiate(config.model, "model", _partial_=True), template=template)
    if exported is not None:
        check_exported_sizes(build, exported)
    elif config.init_from is not None and has_sizes(config.model):
        check_sizes(build, config.init_from)
    with weights_on(device):
        policy: MultimodalPolicy = build()
    if device is not None:
        policy.to(device)
    if config.encoders_from is not None:
        load_encoder_weights(policy.encoders, config.encoders_from)
    if exported is not None:
        load_exported_weights(policy, exported)
    elif config.init_from is not None:
        load_policy_weights(policy, config.init_from)
    return policy


def rollout_client(config: DictConfig, *, sharded: bool) -> VLLMClient | None:
    """Return a client of the server of ``rollout=vllm``, which answers; None for ``rollout=local``.

    Raises:
        ConfigError: The stage samples nothing, or what trains cannot be sent to a server.
        TrainingError: The server does not answer.
    """
    if config.rollout.server is None:
        return None
    if "sampling" not in config.stage:
        raise ConfigError(f"rollout=vllm: stage={config.stage.name} samples no completions; leave rollout= out")
    if sharded:
        raise ConfigError("rollout=vllm: adapters that trainer=fsdp shards are not sent; give trainer=gpu or ddp")
    name = config.model.language_model.get("pretrained")
    if name is None:
        raise ConfigError(
            "rollout=vllm serves pretrained weights, and model.language_model.pretrained is null: choose a model= that "
            "names them, with model.lora, or rollout=local"
        )
    client: VLLMClient = instantiate(config.rollout.server, "rollout", model=name)
    client.served_length()
    return client


def take_exported_model(config: DictConfig) -> Path | None:
    """Let a configuration whose ``init_from`` names an exported folder take the folder's model and encoders.

    Changes ``config`` in place, so that what the run stores says where its frozen weights are. Above a ``merged``
    folder the run keeps its own ``model.lora``.

    Returns:
        The folder; None where ``init_from`` names none.
    """
    if config.init_from is None or not is_exported(config.init_from):
        return None
    folder = Path(config.init_from).resolve()
    exported = read_exported(folder)
    model = exported["model"]
    for key in (*KEPT_OF_RUN, "lora") if exported["kind"] == "merged" else KEPT_OF_RUN:
        model[key] = config.model.get(key)
    config.model, config.encoders_from = {"_target_": config.model["_target_"], **model}, str(folder)
    return folder


# Keys of `model` that a run does not take from an exported folder
KEPT_OF_RUN = ("engine", "share_prefix", "attention", "gradient_checkpointing", "weights")


def build_data(config: DictConfig) -> ClipDataModule:
    """Build the data module and check its label files and media.

    Raises:
        ConfigError: Validation asks for emotion words, and the label files have none; or SFT is to reason, and no file
            of reasons is named.
    """
    if (
        config.prompt.enable_thinking
        and config.get("stage", {}).get("name") == "sft"
        and config.data.train_reasons is None
    ):
        raise ConfigError("prompt=think learns to reason from data.train_reasons, which is null: name its file")
    data: ClipDataModule = instantiate(config.data, "data")
    data.setup()
    own = QuestionSet((config.prompt.kind,) if config.prompt.kind else ())
    if own.needs_labels() and not any(row.labels for row in data.splits.train):
        raise ConfigError(
            f"{data.files.train_labels} has no emotion words, which validation asks for; set prompt.kind to one of "
            f"data.questions={list(data.questions.kinds)}"
        )
    return data


def encode_clips(data: ClipDataModule, policy: MultimodalPolicy, device: torch.device | None = None) -> UnreadableClips:
    """Encode every clip once with the frozen encoders, if there is a feature store; ranks share the work.

    Args:
        data: Set up.
        policy: Has the encoders.
        device: Where they run; None is where they are. On a CPU, CLIP-L and HuBERT-L take seconds per clip.

    Returns:
        The clips that could not be read.

    Raises:
        ConfigError: The features would depend on the clips of each training batch.
    """
    if data.feature_store is None:
        return UnreadableClips()
    if policy.encoders.settings.get("waveform_normalization") == "joint":
        raise ConfigError(
            "model.waveform_normalization=joint depends on the clips of each training batch, so nothing can be "
            "stored: set data.feature_store=null, or model.waveform_normalization=clip"
        )
    data.open_feature_store(encoder_digest(policy.encoders))
    home = next(policy.encoders.parameters()).device
    device = device or home

    def prepare(missing: int) -> Encode:
        log.info("Encoding %d clips with the frozen encoders, once, on %s", missing, device)
        policy.encoders.to(device)
        encoded, reported = 0, time.monotonic()

        def encode(batch: ClipBatch) -> Mapping[str, Tensor]:
            nonlocal encoded, reported
            features: Mapping[str, Tensor] = policy.encoders(batch_to_device(batch, device))
            encoded += len(batch)
            if time.monotonic() - reported >= SECONDS_BETWEEN_REPORTS:
                log.info("Encoded %d of %d clips", encoded, missing)
                reported = time.monotonic()
            return features

        return encode

    try:
        return fill_feature_store(data, prepare)
    finally:
        policy.encoders.to(home)


def answer_sampling(config: DictConfig) -> Sampling:
    """Return how answers are decoded outside training; sampled ones are the same when repeated."""
    rule, longest = config.prompt.sampling, config.prompt.max_completion_length
    if rule == "greedy":
        return Sampling(temperature=0.0, max_completion_length=longest)
    if rule == "published":  # AffectGPT's temperature and top_p, and the top_k of Qwen's generation_config.json
        return Sampling(temperature=1.0, top_p=0.9, top_k=20, max_completion_length=longest, seed=config.seed)
    raise ConfigError(f"prompt.sampling={rule} is unknown; choose greedy or published")


def checkpoint_to_resume(config: DictConfig) -> Path | None:
    """Return the path that ``ckpt_path`` names; ``last`` is this run's last checkpoint."""
    if config.ckpt_path is None:
        return None
    if config.ckpt_path == "last":
        # A run that was killed between its first best.ckpt and first last.ckpt has the former alone: they are equal.
        last, best = (Path(config.paths.run) / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
        return best if best.is_file() and not last.is_file() else last
    return Path(config.ckpt_path)
