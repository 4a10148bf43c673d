"""What spreadsheet programs save as CSV, and what they would run as a formula."""

from __future__ import annotations

import re

HEADER_BYTES = 65536  # holds any header

# In front of a formula: nothing, or what a program may take for the end of a cell, such as `;` in a German Excel.
_FORMULA = re.compile(r"(^|[;\t\r\n])(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])|^(?=[\t\r])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MOST_COLUMNS = 1000


def spreadsheet_format(start: bytes) -> str | None:
    """Say in what format a file named CSV was written, by its first bytes; None if it may be CSV."""
    if start.startswith(b"PK\x03\x04"):
        return "it is an Excel workbook (.xlsx)"
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        return "it is an old Excel workbook (.xls)"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it is in UTF-16, as Excel's 'Unicode text'"
    header = start.lstrip(b"\xef\xbb\xbf\r\n").splitlines()[:1]
    if header and header[0].count(b",") >= _MOST_COLUMNS:
        return f"its header has more than {_MOST_COLUMNS:,} cells"
    if not header or b"," in header[0]:
        return None
    if b";" in header[0]:
        return "semicolons are between its cells, as in the CSV of a German or French Excel"
    return "tabs are between its cells" if b"\t" in header[0] else None


def spreadsheet_cell(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would run as a formula, in files that people open.

    >>> spreadsheet_cell("=1+1"), spreadsheet_cell("-3.4"), spreadsheet_cell("a;=1+1")
    ("'=1+1", '-3.4', "a;'=1+1")
    """
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub(r"\1'", text)
