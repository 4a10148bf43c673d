"""The consoles that tables and bars are printed on. Rich would read ``[red]`` in a clip's name as markup."""

from __future__ import annotations

from functools import cache
from typing import Any

from rich.console import Console
from rich.text import Text

from affectgpt_r1.io.clean_text import printable


class PlainConsole(Console):
    """Shows every ``str``, in a table's cells and titles, too, as it is: no markup, control characters escaped.

    A :class:`rich.text.Text` is shown unchecked: make one of constants only.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text that rich prints for a ``str``."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})


@cache
def get_console() -> PlainConsole:
    """Return the console of this process, which bars and what is printed above them share."""
    return PlainConsole()
