"""Start vLLM in an environment of its own, for the rollouts of a run, and stop it again."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn
from urllib.parse import urlsplit

from omegaconf import DictConfig

from affectgpt_r1.config.compose import instantiate
from affectgpt_r1.config.instantiate import take_exported_model
from affectgpt_r1.engine.vllm_client import VLLMClient
from affectgpt_r1.errors import ConfigError, TrainingError
from affectgpt_r1.io.files import write_text
from affectgpt_r1.policy.pretrained import local_weights

REQUIREMENTS = """\
# The environment of `affectgpt-r1 rollout-server`, apart from the one that trains: vLLM pins other versions of torch
# and transformers.
vllm==0.32.0
"""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM can be started with
SWITCHES = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # has /reset_prefix_cache
    "VLLM_NO_USAGE_STATS": "1",
}
SECONDS_BETWEEN_LOOKS = 0.5
GRACE_SECONDS = 30.0  # in which vLLM may end by itself


def write_requirements(path: Path) -> str:
    """Write the requirements of the server's environment; return how to make it."""
    write_text(path, REQUIREMENTS)
    return f"python3 -m venv vllm-env && vllm-env/bin/pip install -r {shlex.quote(str(path))}"


def server_command(config: DictConfig, python: str, more: Sequence[str] = ()) -> list[str]:
    """Return the command that serves a run's language model.

    Args:
        config: Composed, with ``rollout=vllm``.
        python: Of vLLM's environment.
        more: Options of vLLM's own, which come last.

    Raises:
        ConfigError: The run trains no adapters of a pretrained language model.
    """
    take_exported_model(config)
    model, lora = config.model.language_model, config.model.get("lora")
    if model.get("pretrained") is None or lora is None:
        raise ConfigError(
            "rollout-server serves pretrained weights, and adapters that train: choose an experiment= or model= with "
            "model.language_model.pretrained and model.lora"
        )
    rank = next((rank for rank in LORA_RANKS if rank >= lora.r), None)
    if rank is None:
        raise ConfigError(f"model.lora.r={lora.r}: vLLM takes at most {LORA_RANKS[-1]}")
    listens = urlsplit(config.rollout.server.url)
    options = {
        "--model": local_weights(model.pretrained, config.model.get("weights")),
        "--served-model-name": model.pretrained,
        "--host": listens.hostname,
        "--port": listens.port or 8000,
        "--dtype": model.get("dtype", "float32"),
        "--max-lora-rank": rank,
        "--max-loras": 1,
        "--logprobs-mode": "processed_logprobs",  # at the temperature; raw ones ignore it
        "--generation-config": "vllm",  # else a repetition penalty in the model's folder would be applied
    }
    flags = ["--enable-prompt-embeds", "--enable-lora"]
    pairs = [str(part) for option in options.items() for part in option]
    return [python, "-m", "vllm.entrypoints.openai.api_server", *pairs, *flags, *more]


def serve(config: DictConfig, command: Sequence[str], say: Callable[[str], None]) -> None:
    """Run the server until it ends or this process is asked to stop, and leave none of its processes.

    Args:
        config: Composed, with ``rollout=vllm``.
        command: Of :func:`server_command`.
        say: Takes the line that it is ready.

    Raises:
        ConfigError: It cannot be started, or has ended by itself.
    """
    client: VLLMClient = instantiate(
        config.rollout.server, "rollout", model=config.model.language_model.pretrained, retries=0, timeout=5.0
    )
    listens = urlsplit(client.url)
    with socket.socket() as probe:
        probe.settimeout(5.0)
        if probe.connect_ex((listens.hostname, listens.port or 8000)) == 0:
            raise ConfigError(f"{client.url} is in use: stop what listens there, or give rollout.server.url=")
    try:
        # To standard error: standard output has the command and the line that it is ready.
        process = subprocess.Popen(command, env={**os.environ, **SWITCHES}, stdout=2, start_new_session=True)
    except OSError as error:
        raise ConfigError(
            f"--python {command[0]} cannot be run ({error.strerror}): make vLLM's environment from the file that "
            "`affectgpt-r1 rollout-server --requirements FILE` writes"
        ) from error
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _watch(process, client, say)
    finally:
        _stop(process)
        signal.signal(signal.SIGTERM, before)
    raise ConfigError(f"vLLM ended by itself with code {code}: read its messages above")


def _watch(process: subprocess.Popen[bytes], client: VLLMClient, say: Callable[[str], None]) -> int:
    """Say when the server is ready; return its exit code."""
    while True:
        try:
            return process.wait(SECONDS_BETWEEN_LOOKS)
        except subprocess.TimeoutExpired:
            with suppress(TrainingError):  # not yet
                client.served_length()
                say(f"Ready at {client.url}: train with rollout=vllm in another terminal; Ctrl-C stops this")
                return process.wait()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the processes that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
