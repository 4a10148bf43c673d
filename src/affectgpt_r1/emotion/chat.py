"""Chat models at temperature 0: what one is, one behind an OpenAI-compatible URL, and answers kept on disk."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from affectgpt_r1.emotion.cache import cache_folder
from affectgpt_r1.errors import AffectGPTError, WriteError
from affectgpt_r1.files import write_text

MAX_TOKENS = 512
_TRY_AGAIN = frozenset((408, 429, 500, 502, 503, 504))


class ChatError(AffectGPTError):
    """A chat model that cannot be reached or loaded, or whose answer cannot be read."""


class Chat(Protocol):
    """A chat model that gives the same answer to the same question."""

    @property
    def identity(self) -> str:
        """The model and whatever else its answers depend on; two chats that may differ have two identities."""

    def __call__(self, prompt: str, instruction: str = "") -> str:
        """Answer ``prompt``.

        Args:
            prompt: The user's message.
            instruction: The system's message, ``""`` for none.

        Raises:
            ChatError: If there is no answer.
        """


def chat_messages(prompt: str, instruction: str) -> list[dict[str, str]]:
    """The messages that a chat template and the API take."""
    system = [{"role": "system", "content": instruction}] if instruction else []
    return [*system, {"role": "user", "content": prompt}]


@dataclass(frozen=True)
class UrlChat:
    """A chat model behind an OpenAI-compatible API.

    Attributes:
        url: Of the API, such as ``http://127.0.0.1:8000/v1``; ``/chat/completions`` is appended.
        model: The model's name there.
        timeout: Seconds to wait for an answer.
        retries: How often to ask again where the server is busy, silent or away.
        pause: Seconds before the first retry; they double with each.
        max_tokens: Most tokens of an answer.
        api_key_variable: Environment variable with the key, if the API wants one.
    """

    url: str
    model: str
    timeout: float = 60.0
    retries: int = 2
    pause: float = 1.0
    max_tokens: int = MAX_TOKENS
    api_key_variable: str = "OPENAI_API_KEY"

    @property
    def identity(self) -> str:
        """See :class:`Chat`."""
        return f"{self.url.rstrip('/')} {self.model} {self.max_tokens}"

    def __call__(self, prompt: str, instruction: str = "") -> str:
        """See :class:`Chat`."""
        address = f"{self.url.rstrip('/')}/chat/completions"
        if not address.startswith(("http://", "https://")):
            raise ChatError(f"{self.url!r} is no address of a chat model; it starts with http:// or https://")
        body = {
            "model": self.model,
            "messages": chat_messages(prompt, instruction),
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.api_key_variable):
            headers["Authorization"] = f"Bearer {key}"
        return self._answer(urllib.request.Request(address, json.dumps(body).encode(), headers))

    def _answer(self, request: urllib.request.Request) -> str:
        for attempt in range(self.retries + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return _content(response.read(), request.full_url)
            except (OSError, http.client.HTTPException) as error:
                passing = not isinstance(error, urllib.error.HTTPError) or error.code in _TRY_AGAIN
                if attempt == self.retries or not passing:
                    raise self._failure(request.full_url, error, attempt + 1) from error
            time.sleep(self.pause * 2**attempt)
        raise ChatError(f"retries={self.retries}: give 0 or more")

    def _failure(self, address: str, error: Exception, times: int) -> ChatError:
        asked = f" ({times} times asked)" if times > 1 else ""
        if isinstance(error, urllib.error.HTTPError):
            return ChatError(f"{address} answered {error.code} {error.reason}{asked}: check the URL, key and model")
        if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
            return ChatError(f"{address} gave no answer within {self.timeout:g} s{asked}; raise the time-out")
        return ChatError(f"{address} cannot be reached ({error}){asked}: is the server running?")


@dataclass(frozen=True)
class CachedChat:
    """A chat whose answers are kept on disk, so that each question is asked once a machine.

    Attributes:
        chat: Answers what is not kept yet.
    """

    chat: Chat

    @property
    def identity(self) -> str:
        """See :class:`Chat`."""
        return self.chat.identity

    def __call__(self, prompt: str, instruction: str = "") -> str:
        """See :class:`Chat`."""
        question = json.dumps([self.identity, instruction, prompt])
        path = cache_folder() / "chat" / f"{hashlib.sha256(question.encode()).hexdigest()}.json"
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(kept, str):
                return kept
        except (OSError, ValueError):
            pass  # not asked yet, or a damaged file, which the new answer replaces
        answer = self.chat(prompt, instruction)
        with suppress(WriteError):  # an answer that cannot be kept is asked for again
            write_text(path, json.dumps(answer), flush=False)
        return answer


def _content(body: bytes, address: str) -> str:
    try:
        answer = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise ChatError(f"{address} did not answer as an OpenAI-compatible API does ({error!r})") from error
    if not isinstance(answer, str):
        raise ChatError(f"{address} answered with {type(answer).__name__} in place of text")
    return answer
