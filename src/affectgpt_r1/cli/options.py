"""Options that several commands offer, and where they print."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from affectgpt_r1.cli.command import lazy
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.io.console import PlainConsole
from affectgpt_r1.io.plain_json import json_text, write_json

if TYPE_CHECKING:
    from affectgpt_r1.emotion.chat_client import Chat

STDOUT = Path("-")
TABLE_WIDTH = 140  # of tables that are written to a file

cached_chat = lazy("emotion.chat_client:CachedChat")
url_chat = lazy("emotion.chat_client:UrlChat")
load_local_chat = lazy("policy.local_chat:load_local_chat")


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--chat-url`` and ``--chat-model``."""
    parser.add_argument("--chat-url", help="ask this OpenAI-compatible API for the labels of free text")
    parser.add_argument(
        "--chat-model", help="the model's name there; without --chat-url, a folder with a transformers chat model"
    )


def chat_from(options: argparse.Namespace) -> Chat | None:
    """Return the chat model that the options name, its answers cached on disk; None where they name none.

    Raises:
        ConfigError: There is a URL and no model.
        ChatError: The folder does not hold a chat model.
    """
    if options.chat_model is None:
        if options.chat_url is None:
            return None
        raise ConfigError("--chat-url needs the model's name there, too: --chat-model NAME")
    if options.chat_url is not None:
        chat: Chat = cached_chat(url_chat(options.chat_url, options.chat_model))
    else:
        chat = cached_chat(load_local_chat(Path(options.chat_model)))
    return chat


def add_lexicon_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--lexicon``."""
    parser.add_argument("--lexicon", default="bundled", help="bundled, mer2025, mer2026 or a folder (%(default)s)")


def add_no_target_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-target``."""
    parser.add_argument(
        "--no-target",
        choices=("leave", "zero", "nan"),
        default="leave",
        help="a wheel on which no target counts: left out of the mean, which is ours, 0 as in 2026 or NaN as in 2025 "
        "(%(default)s)",
    )


def add_json_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--json``, for :func:`save_json`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"write {what} to this file")


def save_json(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Write a report where ``--json`` says, if it does."""
    if options.json is not None:
        write_json(options.json, report, "choose another --json")


def add_printable_json_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--json [FILE]``, for :func:`put_json`."""
    told = f"print {what} as JSON, or write it to FILE"
    parser.add_argument("--json", type=Path, nargs="?", const=STDOUT, metavar="FILE", help=told)


def put_json(options: argparse.Namespace, report: Any) -> bool:
    """Print a report, or write it, as ``--json`` asks; return whether it was printed in place of a table."""
    if options.json == STDOUT:
        sys.stdout.write(json_text(report))
    elif options.json is not None:
        write_json(options.json, report, "choose another --json")
    return bool(options.json == STDOUT)


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``, by default one a core, eight at most."""
    parser.add_argument(
        "--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes, at most (%(default)s)"
    )


def report_console() -> Console:
    """Return the console of tables: as wide as the terminal, or wide enough for every table."""
    return PlainConsole(width=None if sys.stdout.isatty() else TABLE_WIDTH)
