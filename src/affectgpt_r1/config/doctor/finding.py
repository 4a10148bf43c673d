"""What ``affectgpt-r1 doctor`` finds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from affectgpt_r1.config.library_errors import explain_library_error

State: TypeAlias = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    part: str  # what was looked at, such as "FFmpeg" or "media"
    state: State  # a problem stops the run of this configuration; a warning is something to know
    text: str
    remedy: str = ""  # a command or a key, where the text does not name it
    items: tuple[str, ...] = ()  # every row or file that the text counts


@contextmanager
def faults_of(part: str, findings: list[Finding], remedy: str = "") -> Iterator[None]:
    """Turn what a user can fix into a finding, where a run would stop; a fault of the program is raised."""
    try:
        yield
    except Exception as error:
        text = explain_library_error(error)
        if text is None and isinstance(error, OSError):
            text = f"{error.filename or 'a file'}: {error.strerror or error}"
        if text is None:
            raise
        findings.append(Finding(part, "problem", text, remedy))
