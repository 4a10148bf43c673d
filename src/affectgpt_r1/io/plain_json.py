"""Write JSON that every parser reads: NaN and infinities, which JSON cannot express, become null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from affectgpt_r1.io.clean_text import printable_json
from affectgpt_r1.io.files import ELSEWHERE, write_text


def finite_or_none(value: Any) -> Any:
    """Return ``value`` with NaN and infinities as None, also inside mappings and sequences."""
    if isinstance(value, Mapping):
        return {str(key): finite_or_none(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(content: Any) -> str:
    """Return ``content`` as indented JSON with a closing line break."""
    return printable_json(json.dumps(finite_or_none(content), indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def write_json(path: Path, content: Any, elsewhere: str = ELSEWHERE) -> None:
    """Write :func:`json_text` to ``path`` atomically; see :func:`~affectgpt_r1.io.files.write_text`."""
    write_text(path, json_text(content), elsewhere=elsewhere)
