"""Recognise what spreadsheet programs save under the name of a CSV file."""

from __future__ import annotations

HEADER_BYTES = 65536
"""Enough of a file's start for its whole header."""

_MOST_COLUMNS = 1000


def spreadsheet_format(start: bytes) -> str | None:
    r"""Say in what format a spreadsheet program wrote a file whose name says CSV, None if it may be CSV.

    Args:
        start: The file's first bytes, with its whole header.

    >>> spreadsheet_format(b"name;openset\n")
    'semicolons are between its cells, as in the CSV of a German or French Excel'
    """
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
