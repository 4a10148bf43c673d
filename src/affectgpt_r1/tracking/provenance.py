"""Provenance of a run: the commit of the code, the command line, the configuration."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PARAM_CHARACTERS = 250  # MLflow's interface shows no more of a param; the YAML artifact holds the full value

_TAG_CHARACTERS = 5000

# Keep Git from starting commands that a repository's configuration names.
NO_COMMANDS = ("--no-pager", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")


def git_tags(folder: Path | None = None) -> dict[str, str]:
    """Return ``git_commit`` and ``git_dirty`` of the repository that tracks ``folder``.

    Changes of tracked files make it dirty, and files below ``src/`` and ``configs/`` that Git does not track yet, such
    as a reward of the user's own.

    Both are ``unknown`` where no repository tracks the folder (by default this package's), such as a virtual
    environment inside another repository.
    """
    folder = folder or Path(__file__).parents[1]
    commit = _git(folder, "rev-parse", "HEAD")
    tracked = _git(folder, "ls-files", "--", ".")
    # Only of a repository that tracks this code: `status` runs the filters that a repository's configuration names.
    # `-z`: names with blanks or accents are not quoted.
    status = ("status", "--porcelain", "-z", "--untracked-files=all", "--no-renames")
    changes = _git(folder, *status) if tracked else None
    if commit is None or changes is None:
        return {"git_commit": "unknown", "git_dirty": "unknown"}
    entries = changes.split("\0")
    dirty = any(entry and not entry.startswith("?? ") for entry in entries) or any(
        entry.startswith(("?? src/", "?? configs/")) for entry in entries
    )
    return {"git_commit": commit, "git_dirty": str(dirty).lower()}


def command_line() -> str:
    """Return the command that started this process, quoted for a shell."""
    program, *arguments = sys.argv
    # The commands set `affectgpt-r1 train` as the program, which are two words to a shell.
    words = program.split() if program.startswith("affectgpt-r1 ") else [program]
    return shlex.join([*words, *arguments])[:_TAG_CHARACTERS]


def flatten_config(config: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a resolved configuration to dotted keys and text of at most :data:`PARAM_CHARACTERS`; lists are leaves.

    >>> flatten_config({"stage": {"beta": 0.04, "rewards": ["accuracy", "format"]}})
    {'stage.beta': '0.04', 'stage.rewards': "['accuracy', 'format']"}
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{_param_name(key)}.{inner}": text for inner, text in flatten_config(value).items()}
        else:
            flat[_param_name(key)] = _cut(str(value))
    return flat


def _param_name(key: object) -> str:
    return re.sub(r"[^\w\-. /:]", "_", str(key))


def _cut(text: str) -> str:
    return text if len(text) <= PARAM_CHARACTERS else text[: PARAM_CHARACTERS - 1] + "…"


def _git(folder: Path, *arguments: str) -> str | None:
    # Git's hooks set these, and `git -C` would then ask another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *NO_COMMANDS, "-C", str(folder), *arguments],
            capture_output=True,
            check=False,
            env={**env, "GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0"},
            errors="replace",
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
