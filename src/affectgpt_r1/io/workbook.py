"""Read sheets of workbooks (.xlsx) that a stranger may have written."""

from __future__ import annotations

import codecs
import re
import warnings
from pathlib import Path
from typing import NamedTuple

from affectgpt_r1.io.untrusted_files import open_zip, read_member

_XML_SPACE = codecs.BOM_UTF8 + b" \t\r\n"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"<\0", b"\0<")
_OTHER_ENCODING = re.compile(rb"encoding\s*=\s*[\"'](?!utf-8)", re.IGNORECASE)


class WorkbookLimits(NamedTuple):
    """What is read at most; openpyxl takes about 4 us and 200 bytes for a tag."""

    num_bytes: int  # unpacked
    num_tags: int
    num_rows: int  # of a sheet
    num_columns: int


def read_sheet(path: Path, sheet: str | None, limits: WorkbookLimits) -> tuple[list[str], list[tuple[object, ...]]]:
    """Return the names of a workbook's sheets and the cells of one, or of the first; no cells where it lacks it.

    Raises:
        ValueError: It is not a workbook, is damaged or is larger than ``limits``.
    """
    import openpyxl  # late: few runs read a workbook, and it takes a tenth of a second to load

    try:
        _check(path, limits)
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            workbook = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            names = list(workbook.sheetnames)
            if not names or (sheet is not None and sheet not in names):
                return names, []
            cells = workbook[sheet or names[0]].iter_rows
            rows: list[tuple[object, ...]] = list(
                cells(max_row=limits.num_rows + 1, max_col=limits.num_columns, values_only=True)
            )
    except Exception as error:  # openpyxl raises nearly anything over a damaged part
        raise ValueError(repr(error)) from error
    if len(rows) > limits.num_rows:
        raise ValueError(f"more than {limits.num_rows:,} rows")
    return names, rows


def _check(path: Path, limits: WorkbookLimits) -> None:
    """Refuse what would take openpyxl long or much memory, and XML with entities, which expand to any length."""
    with open_zip(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > limits.num_bytes:
            raise ValueError(f"more than {limits.num_bytes:,} bytes")
        num_tags = 0
        for name in archive.namelist():
            part = read_member(archive, name, limits.num_bytes)
            start = part.lstrip(_XML_SPACE)
            num_tags += part.count(b"<")
            if start[:2] in _UTF_16 or b"<!DOCTYPE" in part or _OTHER_ENCODING.search(start[:200]):
                raise ValueError(f"{name[:80]} is not as a spreadsheet program writes it")
            if num_tags > limits.num_tags:
                raise ValueError(f"more than {limits.num_tags:,} tags")
