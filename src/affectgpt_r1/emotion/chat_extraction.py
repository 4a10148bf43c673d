"""Emotion words of free text by a chat model behind an OpenAI-compatible URL, at temperature 0, kept on disk.

The published protocol asks a chat model for the words that describe the emotions in a description, as a list. The
wording here is our own, and so are its figures: they depend on the model, which a report has to name.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from affectgpt_r1.emotion.cache import cache_folder
from affectgpt_r1.emotion.extraction import Extraction, extract_labels
from affectgpt_r1.emotion.parsing import parse_completion, parse_labels
from affectgpt_r1.emotion.wheels import Lexicon
from affectgpt_r1.errors import AffectGPTError
from affectgpt_r1.types import EmotionSet

_INSTRUCTION = (
    "You read a description of a person and name the emotional states that it says the person is in. Answer with a "
    "list of emotion words in square brackets, separated by commas, and nothing else. Leave out states that the "
    "description denies. If it names no emotional state, answer []."
)
_MOST_TOKENS = 512


class ChatError(AffectGPTError):
    """A chat model that cannot be reached, or whose answer cannot be read."""


@dataclass(frozen=True)
class ChatExtractor:
    """Asks a chat model for the emotion words of a text.

    Attributes:
        url: Of the API, such as ``http://127.0.0.1:8000/v1``; ``/chat/completions`` is appended.
        model: The model's name there.
        timeout: Seconds to wait for an answer.
        api_key_variable: Environment variable with the key, if the API wants one.
    """

    url: str
    model: str
    timeout: float = 60.0
    api_key_variable: str = "OPENAI_API_KEY"

    def __call__(self, text: str) -> Extraction:
        """Emotion words of ``text``; a well-formed answer is parsed, anything else is asked once a machine.

        Raises:
            ChatError: If no answer comes in time, or it has another form.
        """
        completion = parse_completion(text, thinks="<think>" in text)
        if completion.well_formed:
            return Extraction(completion.labels, (), "answer")
        return Extraction(self._words_of(text), (), "chat")

    def _words_of(self, text: str) -> EmotionSet:
        request = self._request(text)
        digest = hashlib.sha256(f"{self.url} {request}".encode()).hexdigest()
        path = cache_folder() / "chat" / f"{digest}.json"
        try:
            answer = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(answer, str):
                return _words(answer)
        except (OSError, ValueError):
            pass  # not asked yet, or a damaged file, which the new answer replaces
        answer = self._ask(request)
        _keep(path, json.dumps(answer))
        return _words(answer)

    def _request(self, text: str) -> str:
        messages = [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": text}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": _MOST_TOKENS}
        return json.dumps(body, sort_keys=True)

    def _ask(self, request: str) -> str:
        address = f"{self.url.rstrip('/')}/chat/completions"
        if not address.startswith(("http://", "https://")):
            raise ChatError(f"{self.url!r} is no address of a chat model; it starts with http:// or https://")
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.api_key_variable):
            headers["Authorization"] = f"Bearer {key}"
        asked = urllib.request.Request(address, data=request.encode(), headers=headers)
        try:
            with urllib.request.urlopen(asked, timeout=self.timeout) as response:
                content = json.loads(response.read())
            answer = content["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            raise ChatError(f"{address} answered {error.code} {error.reason}: check the URL, key and model") from error
        except TimeoutError as error:
            raise ChatError(f"{address} gave no answer within {self.timeout:g} s; raise the time-out") from error
        except OSError as error:
            raise ChatError(f"{address} cannot be reached ({error}): is the server running?") from error
        except (ValueError, LookupError, TypeError) as error:
            raise ChatError(f"{address} did not answer as an OpenAI-compatible API does ({error!r})") from error
        if not isinstance(answer, str):
            raise ChatError(f"{address} answered with {type(answer).__name__} in place of text")
        return answer


def text_extractor(lexicon: Lexicon, url: str | None, model: str | None) -> Callable[[str], Extraction]:
    """The chat model at ``url``, or the offline search where there is none.

    Args:
        lexicon: Whose forms the search looks for.
        url: Of a chat model.
        model: Its name there.

    Raises:
        ChatError: If one of ``url`` and ``model`` is given without the other.
    """
    if url is None and model is None:
        return lambda text: extract_labels(text, lexicon)
    if url is None or model is None:
        raise ChatError("a chat model needs both --chat-url and --chat-model")
    return ChatExtractor(url, model)


def _words(answer: str) -> EmotionSet:
    """Words of the last bracketed list, of the whole answer where there is none."""
    end = answer.rfind("]")
    start = answer.rfind("[", 0, max(0, end))
    return parse_labels(answer[start : end + 1] if 0 <= start < end else answer.strip())


def _keep(path: Path, text: str) -> None:
    """Write whole or not at all; an answer that cannot be kept is asked for again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        return
