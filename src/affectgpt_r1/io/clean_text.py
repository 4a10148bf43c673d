"""Make text of files harmless for what shows it: a terminal, a log, JSON."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
import warnings
from types import TracebackType
from typing import Any, TextIO

# C0 but tab and line break, DEL, C1, the separators of lines and paragraphs, the overrides and isolates of the
# direction of writing (which show text in another order), and halves of surrogate pairs, which UTF-8 cannot hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Characters of markup; `](` of links and images, `&#60;`, formulas, and `://` and `www.`, which GitHub makes links.
_MARKDOWN = re.compile(r"([\\`*<>|~$]|(?<!\w)_|_(?!\w)|\](?=[(\[:])|&(?=#?\w+;)|:(?=//)|(?<=www)\.)", re.IGNORECASE)
_LONGEST_MESSAGE = 2000  # characters: a screen


def printable(text: object) -> str:
    r"""Return text with its control characters escaped, except line breaks and tabs.

    >>> printable("clip\x1b]0;title\x07")
    'clip\\x1b]0;title\\x07'
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def counted(number: int, one: str, many: str) -> str:
    """Return a number with the words that it takes.

    >>> counted(1, "row has", "rows have"), counted(3, "row has", "rows have")
    ('1 row has', '3 rows have')
    """
    return f"{number} {one if number == 1 else many}"


def one_line(text: str) -> str:
    """Return :func:`printable` text without line breaks, and with single blanks."""
    return printable(" ".join(text.split()))


def message(text: object) -> str:
    """Return one printable line of at most a screen, for an error that may quote a file."""
    return cut(one_line(str(text)))


def cut(shown: str) -> str:
    """Return a line, or its start where it is longer than a screen."""
    rest = len(shown) - _LONGEST_MESSAGE
    return shown if rest <= 0 else f"{shown[:_LONGEST_MESSAGE]}… and {rest:,} more characters"


def markdown_text(text: str) -> str:
    r"""Return Markdown that shows ``text`` as it is, on one line.

    >>> print(markdown_text("a|b <i>"))
    a\|b \<i\>
    """
    return _MARKDOWN.sub(r"\\\1", one_line(text))


def printable_json(text: str) -> str:
    r"""Return JSON of ``json.dumps(..., ensure_ascii=False)`` with control characters as ``\u001b``."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def json_line(row: Any) -> str:
    """Return ``row`` as one line of :func:`printable_json`, with its line break."""
    return printable_json(json.dumps(row, ensure_ascii=False)) + "\n"


class PrintableFormatter(logging.Formatter):
    """Format records as printable text; further lines are indented, so that no message can pass for a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        return printable(super().format(record)).replace("\n", "\n  ")


def guard_standard_error() -> None:
    """Make what Python itself writes there printable: tracebacks, warnings, and log records that no handler takes."""
    sys.excepthook = _show_error
    warnings.showwarning = _show_warning
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())


def _show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace))))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    (file or sys.stderr).write(printable(warnings.formatwarning(message, category, filename, lineno, line)))
