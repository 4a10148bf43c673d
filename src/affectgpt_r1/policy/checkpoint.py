"""Read policy weights from a training checkpoint, and say clearly when they do not fit."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from affectgpt_r1.errors import CheckpointError
from affectgpt_r1.policy.encoders import Encoders
from affectgpt_r1.policy.frozen_weights import frozen_weights, weights_digest, why_another
from affectgpt_r1.policy.hf_folder import SETTINGS_FILE, is_exported, read_multimodal
from affectgpt_r1.policy.integrity import check_finite, load_verified
from affectgpt_r1.policy.policy import MultimodalPolicy

log = logging.getLogger(__name__)

POLICY_PREFIX = "policy."
ENCODERS_PREFIX = "policy.encoders."
OLD_SETTING = "towers_from"  # in every checkpoint from before the settings were renamed


def read_checkpoint(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Load an undamaged checkpoint with ``weights_only=True``, so that no code in it can run.

    Args:
        path: The file.
        mmap: Leave tensors on the disk until they are used, and unverified, for what reads other parts only.

    Raises:
        CheckpointError: The file is missing, damaged, older than this version's settings or not a checkpoint of this
            package, or a weight in it is NaN or infinite.
    """
    check_there(path)
    if Path(path).is_dir():
        raise CheckpointError(f"{path} is an exported folder, which init_from takes: a checkpoint is wanted here")
    try:
        checkpoint = load_verified(path, mmap=mmap)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({first_sentence(error)}); train that stage again"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise CheckpointError(f"{path} holds no state_dict: it is not a checkpoint of this package")
    # Not translated: settings, weights, digests and the states of callbacks have other names, and a digest under a name
    # that is not looked up would not be compared.
    if isinstance(config := checkpoint.get("config"), dict) and OLD_SETTING in config:
        raise CheckpointError(
            f"{path} was written before its settings were renamed ({OLD_SETTING} is encoders_from now): train that "
            "stage again, or use the version that wrote it"
        )
    if not mmap:
        check_finite(checkpoint["state_dict"], path)
        check_finite(checkpoint.get("reference") or {}, f"{path}, reference")
    return checkpoint


def check_there(path: str | Path) -> None:
    """Check that there is a checkpoint, or a folder that was exported; nothing is opened."""
    if Path(path).is_dir() and not is_exported(path):
        raise CheckpointError(
            f"{path} is a folder without {SETTINGS_FILE}: give a folder that `affectgpt-r1 export` wrote, or a "
            "checkpoint, such as best.ckpt in the folder checkpoints of a run"
        )
    if not Path(path).exists():
        run = Path(path).parent.parent
        others = sorted(run.parent.glob(f"{run.name}+*/checkpoints/{Path(path).name}"))
        named = f"; there is {', '.join(map(str, others))}" if others else ""
        raise CheckpointError(
            f"No checkpoint at {path}: train that stage first (`make sft`, or `affectgpt-r1 train` with "
            "experiment=demo/pretrain_encoders, then demo/sft; of a paper's run, the cold start that the README names "
            f"before it), or correct the path{named}"
        )


def check_reference(state: Mapping[str, Tensor], policy: MultimodalPolicy, origin: str) -> None:
    """Check that a reference's weights, if there are any, are those of a policy of this shape."""
    if state:
        check_tensors(state, policy.trainable_parameters(), f"the reference in {origin}")


def first_sentence(error: Exception) -> str:
    """Return why torch could not load a file, without its advice to run the file's code."""
    return str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__


def check_sizes(build: Callable[[], MultimodalPolicy], path: str | Path) -> None:
    """Compare the sizes in a checkpoint's settings with those of its tensors, before memory is allocated.

    ``build`` builds the policy, here on the meta device.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        parameters = build().trainable_parameters()
    check_tensors(_below(read_checkpoint(path, mmap=True)["state_dict"], POLICY_PREFIX), parameters, str(path))


def load_policy_weights(policy: MultimodalPolicy, path: str | Path) -> None:
    """Load what trained into a policy; its frozen parts keep their weights."""
    checkpoint = read_checkpoint(path)
    check_fits(checkpoint, policy, str(path))
    state = _below(checkpoint["state_dict"], POLICY_PREFIX)
    policy.load_state_dict({name: state[name] for name in policy.trainable_parameters()}, strict=False)


def load_encoder_weights(encoders: Encoders, path: str | Path) -> None:
    """Load pretrained encoders from a checkpoint or an exported folder."""
    if is_exported(path):
        state = _below(read_multimodal(Path(path)), "encoders.")
        check_tensors(state, encoders.state_dict(), str(path))
        check_finite(state, path)
    else:
        state = _below(read_checkpoint(path)["state_dict"], ENCODERS_PREFIX)
        check_tensors(state, dict(encoders.named_parameters()), str(path))
    encoders.load_state_dict(state, strict=False)


def check_fits(
    checkpoint: Mapping[str, Any], policy: MultimodalPolicy, origin: str, digests: Mapping[str, str] | None = None
) -> None:
    """Check that a checkpoint was written by a policy of this shape, this tokenizer and these frozen weights.

    Args:
        checkpoint: As :func:`read_checkpoint` returns it.
        policy: The policy that is to take its weights.
        origin: Name of the checkpoint in errors.
        digests: The policy's, where they were taken before its weights were sharded.

    Raises:
        CheckpointError: Names the first difference.
    """
    check_tensors(_below(checkpoint["state_dict"], POLICY_PREFIX), policy.trainable_parameters(), origin)
    stored: Mapping[str, str] = checkpoint.get("digests", {})
    for part, digest in (digests or policy_digests(policy)).items():
        reason: str | None = "use what it was trained with, or retrain"
        if part not in stored or stored[part] == digest:
            reason = None
        elif part in FROZEN_PARTS and digests is None:
            reason = why_another(stored[part], frozen_weights(getattr(policy, FROZEN_PARTS[part])), digest)
        if reason is not None:
            raise CheckpointError(f"{origin} does not fit the {part} here: {reason}")
        if part in FROZEN_PARTS and part not in stored:
            log.warning("%s does not tell which frozen %s it was trained with: they are not compared", origin, part)


# Parts that may be frozen, or whose base may be, and their attributes; what trains is in the checkpoint itself
FROZEN_PARTS = {"language model": "language_model", "fusion": "fusion"}


def policy_digests(policy: MultimodalPolicy) -> dict[str, str]:
    """Digest what a checkpoint does not hold but depends on: the tokenizer and all frozen weights."""
    digests = {"tokenizer": hashlib.sha256(policy.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]}
    if policy.encoders.frozen:
        digests["encoder weights"] = encoder_digest(policy.encoders)
    for part, attribute in FROZEN_PARTS.items():
        if frozen := frozen_weights(getattr(policy, attribute)):
            digests[part] = weights_digest(frozen)
    return digests


def encoder_digest(encoders: Encoders) -> str:
    """Digest everything but the media that encoder features depend on: weights and settings."""
    return hashlib.sha256(f"{module_digest(encoders)}{sorted(encoders.settings.items())}".encode()).hexdigest()[:16]


def module_digest(module: nn.Module) -> str:
    """Digest a module's weights: names, shapes and values."""
    return state_digest(module.state_dict())


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Digest named tensors: names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_tensors(state: Mapping[str, Tensor], parameters: Mapping[str, Tensor], origin: str) -> None:
    """Check that a state has these parameters and no others."""
    another = f"{origin} is a checkpoint of another model:"
    for name, parameter in parameters.items():
        if name not in state:
            raise CheckpointError(f"{another} it lacks {name}; choose its model= config")
        if state[name].shape != parameter.shape:
            raise CheckpointError(
                f"{another} {name} has shape {tuple(state[name].shape)}, here {tuple(parameter.shape)}; "
                "choose the model= config that it was trained with"
            )
    for name in state:
        if name not in parameters:
            raise CheckpointError(f"{another} {name} has no place in this one; choose its model= config")


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
