"""Fenced code blocks of the repository's Markdown files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "README.zh-CN.md",
    "docs/reproduce.md",
    "docs/predict.md",
    "docs/data.md",
    "docs/metrics.md",
    "docs/models.md",
    "docs/design.md",
    "docs/app.md",
    "configs/README.md",
    "data/README.md",
    ".github/CONTRIBUTING.md",
)
_BLOCK = re.compile(r"^```(?P<language>\S*)\n(?P<text>.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run: (.+) -->")
_FILE = re.compile(r"`([\w./-]+\.\w+)`")


class Block(NamedTuple):
    """A code block; ``mark`` says why it is not run, ``file`` where it belongs: each from the line above it."""

    document: str
    line: int
    language: str
    text: str
    mark: str
    file: str

    @property
    def commands(self) -> list[str]:
        """Its commands, one a line, with continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if line and not line.startswith("#")]


def code_blocks(document: str) -> list[Block]:
    """Return the fenced blocks of a file, in order."""
    return list(_blocks(document))


def _blocks(document: str) -> Iterator[Block]:
    content = (REPOSITORY / document).read_text("utf-8")
    for match in _BLOCK.finditer(content):
        before = content[: match.start()].rstrip("\n").rpartition("\n")[2]
        mark, file = _MARK.fullmatch(before), _FILE.fullmatch(before)
        yield Block(
            document,
            content.count("\n", 0, match.start()) + 1,
            match["language"],
            match["text"],
            mark[1] if mark else "",
            file[1] if file else "",
        )
