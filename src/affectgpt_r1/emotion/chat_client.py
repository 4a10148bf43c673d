"""Chat models at temperature 0: their protocol, one behind an OpenAI-compatible URL, and answers cached on disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from affectgpt_r1.emotion.lexicon_cache import cache_folder
from affectgpt_r1.errors import AffectGPTError, WriteError
from affectgpt_r1.io.files import write_text
from affectgpt_r1.io.untrusted_files import parse_json, read_json

if TYPE_CHECKING:
    import ssl

    from httpx2 import AsyncClient

MAX_TOKENS = 512
MAX_BYTES = 1 << 20  # of an answer; 512 tokens take a few thousand

_MAX_RETRY_AFTER, _MAX_PAUSE = 60, 3600
_TRY_AGAIN = frozenset((408, 429, 500, 502, 503, 504))
_RANGES = {
    "timeout": (0.001, 3600),
    "retries": (0, 100),
    "pause": (0, _MAX_PAUSE),
    "max_tokens": (1, 1_000_000),
    "concurrency": (1, 1000),
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_JITTER = random.SystemRandom()  # the global generator's state belongs to training

logging.getLogger("httpx2").setLevel(logging.WARNING)  # or each question is a line of the run's log


class ChatError(AffectGPTError):
    """A chat model that cannot be reached or loaded, or whose answer cannot be read."""


class Chat(Protocol):
    """A chat model that gives the same answer to the same question."""

    @property
    def identity(self) -> str:
        """The model and whatever else its answers depend on; two chats that may differ have two identities."""

    def __call__(self, prompt: str, instruction: str = "") -> str:
        """Answer ``prompt``, the user's message; ``instruction`` is the system's, ``""`` for none.

        Raises:
            ChatError: There is no answer.
        """


def answer_all(
    chat: Chat, prompts: Sequence[str], instruction: str = "", keep: Callable[[str, str], None] | None = None
) -> list[str]:
    """Answer prompts, in order; a chat that answers many at once does, any other is asked one after another.

    Args:
        chat: Whom to ask.
        prompts: The user's messages; one that stands twice may be asked twice.
        instruction: The system's message.
        keep: Called with prompt and answer as soon as there is one, so that a later failure does not lose it.

    Raises:
        ChatError: There is no answer to one of them; those that are still waited for are given up.
    """
    if isinstance(chat, UrlChat | CachedChat):
        return chat.answer_all(prompts, instruction, keep)
    answers = []
    for prompt in prompts:
        answers.append(chat(prompt, instruction))
        if keep is not None:
            keep(prompt, answers[-1])
    return answers


def chat_messages(prompt: str, instruction: str) -> list[dict[str, str]]:
    """Return the messages that chat templates and the API take."""
    system = [{"role": "system", "content": instruction}] if instruction else []
    return [*system, {"role": "user", "content": prompt}]


@dataclass(frozen=True)
class UrlChat:
    """A chat model behind an OpenAI-compatible API.

    The server is not trusted: its redirects are not followed, and size and duration of its answer are bounded. Proxies
    are those of the environment (``HTTPS_PROXY``, ``NO_PROXY``).
    """

    url: str  # such as http://127.0.0.1:8000/v1; /chat/completions is appended
    model: str
    timeout: float = 60.0  # seconds until the full answer has arrived
    retries: int = 2  # where the server is busy, silent or unreachable
    # Seconds before the first retry; they double with each, plus up to a quarter at random. A Retry-After header of up
    # to a minute takes precedence.
    pause: float = 1.0
    max_tokens: int = MAX_TOKENS
    api_key_variable: str = "OPENAI_API_KEY"  # environment variable with the key, if the API needs one
    concurrency: int = 32  # questions that are under way at once

    def __post_init__(self) -> None:
        for name, (lowest, highest) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or not lowest <= value <= highest:  # NaN is in no range
                raise ChatError(f"the chat model's {name} is {value!r}: give a number from {lowest} to {highest}")
        _check_url(self.url)

    @property
    def identity(self) -> str:
        """See :class:`Chat`."""
        return f"{self.url.rstrip('/')} {self.model} {self.max_tokens}"

    def __call__(self, prompt: str, instruction: str = "") -> str:
        """See :class:`Chat`."""
        return self.answer_all([prompt], instruction)[0]

    def answer_all(
        self, prompts: Sequence[str], instruction: str = "", keep: Callable[[str, str], None] | None = None
    ) -> list[str]:
        """See :func:`answer_all`; ``concurrency`` prompts are under way at once."""
        # Not compressed, or a few bytes could unfold into gigabytes.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key := os.environ.get(self.api_key_variable):
            if not (key.isascii() and key.isprintable()):
                raise ChatError(
                    f"{self.api_key_variable} holds a line break or a character that no key has: correct it"
                )
            headers["Authorization"] = f"Bearer {key}"
        return _run(self._answer_all(prompts, instruction, headers, keep))

    async def _answer_all(
        self,
        prompts: Sequence[str],
        instruction: str,
        headers: Mapping[str, str],
        keep: Callable[[str, str], None] | None,
    ) -> list[str]:
        import httpx2

        address = f"{self.url.rstrip('/')}/chat/completions"
        free = asyncio.Semaphore(int(self.concurrency))

        async def ask(prompt: str) -> str:
            body = {
                "model": self.model,
                "messages": chat_messages(prompt, instruction),
                "temperature": 0,
                "max_tokens": self.max_tokens,
            }
            async with free:
                answer = await self._answer(client, address, json.dumps(body).encode())
            if keep is not None:
                keep(prompt, answer)
            return answer

        try:
            # httpx2's time-outs are for single reads: a server that sends a byte now and then would never meet them.
            # Its limit of connections is lifted, since a question that waits for one would seem to wait for an answer.
            limits = httpx2.Limits(max_connections=None)
            async with httpx2.AsyncClient(timeout=None, limits=limits, verify=_tls(), headers=headers) as client:
                async with asyncio.TaskGroup() as group:  # one failure cancels the others
                    tasks = [group.create_task(ask(prompt)) for prompt in prompts]
                return [task.result() for task in tasks]
        except BaseExceptionGroup as failures:
            error = failures.exceptions[0]
        except (ImportError, ValueError, OSError) as failure:  # OSError: no certificates
            error = failure
        if isinstance(error, httpx2.InvalidURL | ImportError | ValueError | OSError):
            raise ChatError(f"{address} cannot be asked ({_shown(error)}): check URL and proxy settings") from error
        raise error

    async def _answer(self, client: AsyncClient, address: str, body: bytes) -> str:
        import httpx2

        for attempt in range(int(self.retries) + 1):
            pause = min(self.pause * 2**attempt, _MAX_PAUSE) * (1 + _JITTER.random() / 4)
            passing = True
            try:
                async with asyncio.timeout(self.timeout):
                    status, retry_after, answer = await _post(client, address, body)
                if status == HTTPStatus.OK:
                    return _content(answer, address)
                failure, remedy = f"answered {_in_words(status)}", ": check the URL, key and model"
                passing, pause = status in _TRY_AGAIN, pause if retry_after is None else retry_after
            except TimeoutError:
                failure, remedy = f"gave no answer within {self.timeout:g} s", "; raise the time-out"
            except (httpx2.TransportError, OSError) as error:
                failure, remedy = f"cannot be reached ({_shown(error)})", ": is the server running?"
            if not passing or attempt == self.retries:
                break
            await asyncio.sleep(pause)
        asked = f" ({attempt + 1} times asked)" if attempt else ""
        raise ChatError(f"{address} {failure}{asked}{remedy}")


@dataclass(frozen=True)
class CachedChat:
    """A chat whose answers are cached on disk, so that each question is asked once per machine."""

    chat: Chat

    @property
    def identity(self) -> str:
        """See :class:`Chat`."""
        return self.chat.identity

    def __call__(self, prompt: str, instruction: str = "") -> str:
        """See :class:`Chat`."""
        return self.answer_all([prompt], instruction)[0]

    def answer_all(
        self, prompts: Sequence[str], instruction: str = "", keep: Callable[[str, str], None] | None = None
    ) -> list[str]:
        """See :func:`answer_all`; only what is not on disk is asked, and once."""
        answers = {prompt: self._kept(prompt, instruction) for prompt in prompts}
        if keep is not None:
            for prompt, kept in answers.items():
                if kept is not None:
                    keep(prompt, kept)

        def store(prompt: str, answer: str) -> None:
            with suppress(WriteError):  # an answer that cannot be kept is asked for again
                write_text(self._path(prompt, instruction), json.dumps(answer), flush=False)
            if keep is not None:
                keep(prompt, answer)

        missing = [prompt for prompt, kept in answers.items() if kept is None]
        given = dict(zip(missing, answer_all(self.chat, missing, instruction, store), strict=True)) if missing else {}
        return [given[prompt] if (kept := answers[prompt]) is None else kept for prompt in prompts]

    def _kept(self, prompt: str, instruction: str) -> str | None:
        try:
            kept = read_json(self._path(prompt, instruction))
        except (OSError, ValueError):  # not asked yet, or a damaged file, which the new answer replaces
            return None
        return kept if isinstance(kept, str) else None

    def _path(self, prompt: str, instruction: str) -> Path:
        question = json.dumps([self.identity, instruction, prompt])
        return cache_folder() / "chat" / f"{hashlib.sha256(question.encode()).hexdigest()}.json"


async def _post(client: AsyncClient, address: str, body: bytes) -> tuple[int, float | None, bytes]:
    """Return status, seconds to wait before a retry, and the answer; redirects are answers, too."""
    answer = bytearray()
    async with client.stream("POST", address, content=body, follow_redirects=False) as response:
        wanted = response.headers.get("Retry-After", "")
        retry_after = min(int(wanted), _MAX_RETRY_AFTER) if re.fullmatch("[0-9]{1,9}", wanted) else None
        if response.status_code == HTTPStatus.OK:
            async for chunk in response.aiter_raw():
                answer += chunk
                if len(answer) > MAX_BYTES:
                    raise ChatError(f"{address} answered with more than {MAX_BYTES} bytes: this is not a chat model")
        return response.status_code, retry_after, bytes(answer)


def _in_words(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}" if status in HTTPStatus._value2member_map_ else str(status)


def _run(answer: Coroutine[Any, Any, list[str]]) -> list[str]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(answer)
    with ThreadPoolExecutor(1) as pool:  # a notebook runs a loop of its own
        return pool.submit(asyncio.run, answer).result()


@cache
def _tls() -> ssl.SSLContext:
    import httpx2

    return httpx2.create_ssl_context()


def _check_url(url: str) -> None:
    """Refuse what is not an address, and a password: results show the address."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or not url.isprintable():
        raise ChatError(f"{url[:200]!r} is not the address of a chat model; it starts with http:// or https://")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ChatError("the chat model's URL holds a user, a ? or a #: take them out; a key belongs in OPENAI_API_KEY")


def _content(body: bytes, address: str) -> str:
    """Return the answer without control characters, which a terminal might obey."""
    try:
        answer = parse_json(body.decode())["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise ChatError(f"{address} did not answer as an OpenAI-compatible API does ({_shown(error)})") from error
    if not isinstance(answer, str):
        raise ChatError(f"{address} answered with {type(answer).__name__} in place of text")
    return _CONTROL.sub("", answer)


def _shown(error: Exception) -> str:
    return ascii(error)[:200]
