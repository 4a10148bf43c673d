"""The console of tables and progress bars. Rich would read ``[red]`` in a clip's name as markup."""

from __future__ import annotations

from functools import cache
from typing import Any

from rich.console import Console
from rich.text import Text

from affectgpt_r1.io.clean_text import printable


class PlainConsole(Console):
    """Show every ``str`` without markup and with control characters escaped, but not a ``Text``."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what rich prints for a ``str``, also in a table's cells and titles."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})


@cache
def get_console() -> PlainConsole:
    """Return the console of this process, which progress bars and other output share."""
    return PlainConsole()
