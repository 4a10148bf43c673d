"""Building HTML and SVG so that text can never become markup: whatever is no :class:`Markup` is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

_VOID = frozenset({"br", "img", "meta"})
# Control characters and halves of surrogate pairs have no place in HTML or in UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Markup(str):
    """Text that is markup already; only this module, and constants, make it."""

    __slots__ = ()


Child: TypeAlias = str | Iterable["Child"]


def escape(text: str) -> Markup:
    """``text`` as HTML shows it literally, in an element or a quoted attribute.

    >>> escape("<script>'&'</script>")
    '&lt;script&gt;&#x27;&amp;&#x27;&lt;/script&gt;'
    """
    return text if isinstance(text, Markup) else Markup(html.escape(_UNPRINTABLE.sub("\ufffd", text), quote=True))


def join(children: Iterable[Child]) -> Markup:
    """The children one after another, escaped where they are plain text."""
    return Markup("".join(escape(child) if isinstance(child, str) else join(child) for child in children))


def element(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """An element.

    Args:
        name: Of the element; a constant.
        children: Text, markup, or lists of both.
        attributes: ``class_`` stands for ``class`` and ``stroke_width`` for ``stroke-width``; None leaves one out.

    >>> element("td", "a < b", class_="metric")
    '<td class="metric">a &lt; b</td>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    closing = "" if name in _VOID else f"</{name}>"
    return Markup(f"<{name}{written}>{join(children)}{closing}")


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.5g}"
