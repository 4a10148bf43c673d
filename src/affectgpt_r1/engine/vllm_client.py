"""A client of vLLM's OpenAI-compatible server: prompt embeddings go out, tokens and their log-probs come back."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, NamedTuple, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from affectgpt_r1.errors import ConfigError, TrainingError
from affectgpt_r1.io.untrusted_files import parse_json

log = logging.getLogger(__name__)

RESTART = (
    "Start it again by `affectgpt-r1 rollout-server` with this run's overrides and give the same command again: "
    "training continues from its last checkpoint"
)
_OPENER = build_opener(ProxyHandler({}))  # the server is on this machine or next to it, never behind a proxy
_MOST_SHOWN = 300  # characters of a server's answer in a message
T = TypeVar("T")


class _RefusedError(TrainingError):
    """A server would say the same again."""


class ServedCompletion(NamedTuple):
    """A completion as the server drew it."""

    ids: list[int]  # the stop token included
    logps: list[float]
    truncated: bool


@dataclass(frozen=True)
class VLLMClient:
    """Ask a vLLM server; each question is asked again after a failure that may pass.

    Args:
        url: Where it listens, such as ``http://127.0.0.1:8000``.
        model: Name by which it serves the frozen language model.
        timeout: Seconds until an answer must have begun.
        retries: Times that a question is asked again.
        pause: Seconds before it is, doubled each time.
        concurrency: Prompts that are under way at once.
    """

    url: str
    model: str
    timeout: float = 600.0
    retries: int = 2
    pause: float = 2.0
    concurrency: int = 256

    def __post_init__(self) -> None:
        """Check every value."""
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigError(f"rollout.server.url={self.url} must begin with http:// or https://")
        for key, least in (("timeout", 0.001), ("retries", 0), ("pause", 0), ("concurrency", 1)):
            if not least <= getattr(self, key) < math.inf:
                raise ConfigError(f"rollout.server.{key}={getattr(self, key)} must be at least {least}, and finite")

    def served_length(self) -> int:
        """Return the most tokens, prompt and completion, that the server takes.

        Raises:
            ConfigError: It serves another model.
            TrainingError: It does not answer.
        """
        self._ask("/health")
        served = self._models(lambda card: int(card["max_model_len"] or 0))
        if self.model not in served:
            raise ConfigError(
                f"rollout=vllm: the server at {self.url} serves {', '.join(served)}, and this run trains adapters of "
                f"{self.model}: start `affectgpt-r1 rollout-server` with this run's overrides"
            )
        return served[self.model]

    def load_adapter(self, name: str, folder: str, previous: str | None) -> None:
        """Let the server read an adapter, forget the previous one, and drop what it has cached of prompts."""
        # Where an attempt took longer than `timeout` and worked all the same, vLLM refuses the next one.
        try:
            self._ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})
        except _RefusedError:
            if self._folders().get(name) != folder:
                raise
        # Keys and values of a prompt depend on the adapter; its new name alone should tell them apart.
        if self._json("/reset_prefix_cache", {}) != {"success": True}:
            log.warning("%s has not emptied its prefix cache: other requests are running", self.url)
        if previous is not None:
            try:
                self._ask("/v1/unload_lora_adapter", {"lora_name": previous})
            except _RefusedError:
                if previous in self._folders():
                    raise

    def complete_all(self, bodies: Sequence[Mapping[str, Any]]) -> list[list[ServedCompletion]]:
        """Ask for the completions of several prompts at once.

        Args:
            bodies: Each of a request to ``/v1/completions``, of ``n`` completions.
        """
        with ThreadPoolExecutor(min(self.concurrency, len(bodies))) as pool:
            try:
                return list(pool.map(self._complete, bodies))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _complete(self, body: Mapping[str, Any]) -> list[ServedCompletion]:
        answer = self._json("/v1/completions", body)
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            completions = [
                ServedCompletion(
                    [int(token) for token in choice["token_ids"]],
                    [float(logp) for logp in choice["logprobs"]["token_logprobs"]],
                    choice["finish_reason"] == "length",
                )
                for choice in choices
            ]
        except (LookupError, TypeError, ValueError) as error:
            raise self._not_vllm("/v1/completions", error) from error
        faulty = [one for one in completions if not one.ids or len(one.ids) != len(one.logps)]
        if faulty or len(completions) != body["n"]:
            raise self._not_vllm("/v1/completions", f"{len(completions)} of {body['n']} completions")
        return completions

    def _folders(self) -> dict[str, str]:
        """Return the folder that each model or adapter was loaded from, by the name it is served by."""
        return self._models(lambda card: str(card["root"]))

    def _models(self, value: Callable[[Any], T]) -> dict[str, T]:
        try:
            return {str(card["id"]): value(card) for card in self._json("/v1/models")["data"]}
        except (LookupError, TypeError, ValueError) as error:
            raise self._not_vllm("/v1/models", error) from error

    def _json(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        answer = self._ask(path, body)
        try:
            return parse_json(answer.decode())
        except ValueError as error:
            raise self._not_vllm(path, error) from error

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Return the answer to a question; a body makes it a POST."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url.rstrip("/") + path, data, {"Content-Type": "application/json"})
        failures: list[str] = []  # the first one is often the cause of what follows
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                with _OPENER.open(request, timeout=self.timeout) as response:
                    answer: bytes = response.read()
                    return answer
            except HTTPError as error:
                failure = f"answered {path} by {error.code} ({_shown(error.read())})"
                if error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise _RefusedError(f"rollout=vllm: the server at {self.url} {failure}. {RESTART}") from error
            except TimeoutError:
                failure = f"did not answer {path} within {self.timeout:g} s (rollout.server.timeout)"
            except (OSError, HTTPException) as error:
                failure = f"cannot be reached ({getattr(error, 'reason', error)})"
            failures += [failure] if failure not in failures else []
        times = f", asked {self.retries + 1} times" if self.retries else ""
        raise TrainingError(f"rollout=vllm: the server at {self.url} {', then '.join(failures)}{times}. {RESTART}")

    def _not_vllm(self, path: str, fault: object) -> TrainingError:
        return TrainingError(
            f"rollout=vllm: {self.url}{path} did not answer as vLLM does ({fault!r}); start the server by "
            "`affectgpt-r1 rollout-server`, in the environment of its --requirements"
        )


def _shown(answer: bytes) -> str:
    return " ".join(answer.decode(errors="replace").split())[:_MOST_SHOWN]
