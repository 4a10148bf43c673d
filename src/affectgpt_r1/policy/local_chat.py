"""A chat model from a folder on this machine, greedy, as a :class:`~affectgpt_r1.emotion.chat_client.Chat`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from affectgpt_r1.emotion.chat_client import MAX_TOKENS, ChatError, chat_messages
from affectgpt_r1.policy.backbone import greedy_tokens, load_chat_model


@dataclass(frozen=True)
class LocalChat:
    """A transformers chat model, whose ``identity`` is the folder and the state of its files."""

    folder: Path
    identity: str
    tokenizer: Any
    model: Any
    max_tokens: int = MAX_TOKENS

    @torch.inference_mode()
    def __call__(self, prompt: str, instruction: str = "") -> str:
        """Answer a prompt greedily."""
        inputs = self.tokenizer.apply_chat_template(
            chat_messages(prompt, instruction), add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        asked, most = inputs["input_ids"].shape[1], self.model.config.max_position_embeddings
        if asked + self.max_tokens > most:
            raise ChatError(
                f"{self.folder}: the model takes {most} tokens, and the question that begins {prompt[:40]!r} "
                f"has {asked} before an answer of {self.max_tokens}; shorten the text"
            )
        answer = greedy_tokens(self.model, inputs.to(self.model.device), self.max_tokens)
        return str(self.tokenizer.decode(answer, skip_special_tokens=True)).strip()


def load_local_chat(folder: str | Path, max_tokens: int = MAX_TOKENS) -> LocalChat:
    """Load a chat model from a folder of safetensors weights, on the accelerator where there is one."""
    folder = Path(folder)
    tokenizer, model = load_chat_model(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return LocalChat(folder, f"{_state(folder)} {max_tokens}", tokenizer, model.to(device).eval(), max_tokens)


def _state(folder: Path) -> str:
    """Digest names, sizes and times of a folder's files: weights are too large to be read for it."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        state = file.stat()
        digest.update(f"{file.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return f"{folder.resolve()} {digest.hexdigest()}"
