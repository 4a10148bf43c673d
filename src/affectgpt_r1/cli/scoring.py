"""What the commands that score share: the chat model's options, the console and the JSON report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from affectgpt_r1.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from affectgpt_r1.emotion.chat_client import Chat

TABLE_WIDTH = 140
"""Of tables that are written to a file."""


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--chat-url`` and ``--chat-model``."""
    parser.add_argument("--chat-url", help="ask this OpenAI-compatible API for the labels of free text")
    parser.add_argument(
        "--chat-model", help="the model's name there; without --chat-url, a folder with a transformers chat model"
    )


def chat_from(options: argparse.Namespace) -> Chat | None:
    """The chat model that the options name, its answers kept on disk; None where they name none.

    Raises:
        ConfigError: If there is a URL and no model.
        ChatError: If the folder holds no chat model.
    """
    from affectgpt_r1.emotion.chat_client import CachedChat, UrlChat

    if options.chat_model is None:
        if options.chat_url is None:
            return None
        raise ConfigError("--chat-url needs the model's name there, too: --chat-model NAME")
    if options.chat_url is not None:
        return CachedChat(UrlChat(options.chat_url, options.chat_model))
    from affectgpt_r1.policy.local_chat import load_local_chat

    return CachedChat(load_local_chat(Path(options.chat_model)))


def report_console() -> Console:
    """Where tables are printed: as wide as the terminal, or wide enough for every table."""
    from affectgpt_r1.io.console import PlainConsole

    return PlainConsole(width=None if sys.stdout.isatty() else TABLE_WIDTH)
