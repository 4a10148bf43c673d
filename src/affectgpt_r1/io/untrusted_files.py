"""Read what a stranger may have written: bounded before it is allocated, and each fault a short ``ValueError``."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

MOST_JSON_BYTES = 1 << 24
"""Of a JSON file, or of a line of one; objects take up to 30 times as much memory as their text."""

_MOST_HEADER_BYTES = 10_000
_CHUNK = 1 << 16
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NPY_HEADER = re.compile(
    rb"\{'descr':'([^']{1,20})','fortran_order':(True|False),'shape':\((\d{1,12}(?:,\d{1,12}){0,3})?,?\),?\}"
)


def has_control_character(name: str) -> bool:
    r"""Whether a name holds a line break, NUL or the like, which no clip's name does.

    >>> has_control_character("a\nb"), has_control_character("für")
    (True, False)
    """
    return _CONTROL.search(name) is not None


def parse_json(text: str) -> Any:
    r"""Return the content of JSON text.

    Raises:
        ValueError: It is not JSON, is nested too deeply, or holds a number of thousands of digits or half a character
            (a lone surrogate), with which no file could be written.

    >>> parse_json('{"name": "\\ud83d\\ude00"}')
    {'name': '😀'}
    """
    try:
        content = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("half a character, a surrogate without its pair") from None
    return content


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is too large, not UTF-8, or see :func:`parse_json`.
    """
    return parse_json(read_text(path, MOST_JSON_BYTES))


def read_text(path: Path, most: int) -> str:
    """Return the text of a UTF-8 file of at most ``most`` bytes.

    Raises:
        OSError: It cannot be read.
        ValueError: It is larger, or not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes")
    return content.decode("utf-8")


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number and the content of each line that is not blank.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not UTF-8, or a line is not JSON; names the line.
    """
    with path.open(encoding="utf-8-sig") as file:
        for number in count(1):
            try:
                line = file.readline(MOST_JSON_BYTES + 1)
                if not line:
                    return
                if len(line) > MOST_JSON_BYTES:
                    raise ValueError(f"more than {MOST_JSON_BYTES:,} characters")
                content = parse_json(line) if line.strip() else None
            except UnicodeDecodeError as error:
                raise ValueError(f"not UTF-8 ({error}); save it as UTF-8") from error
            except ValueError as error:
                raise ValueError(f"line {number}: not JSON ({error})") from error
            if line.strip():
                yield number, content


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive.

    Raises:
        OSError: The file cannot be opened.
        zipfile.BadZipFile: It is not a zip archive, or its directory is damaged.
    """
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # a damaged directory raises nearly anything: struct.error, NotImplementedError, ...
            raise zipfile.BadZipFile(str(error)) from error
        with archive:
            yield archive


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytearray:
    """Return one member of at most ``most`` bytes, its checksum verified.

    Raises:
        KeyError: There is no such member.
        ValueError: It is larger, compressed by another method than numpy and spreadsheets use, or damaged.
    """
    member = archive.getinfo(name)
    if member.file_size > most:
        raise ValueError(f"{name[:80]} has {member.file_size:,} bytes, too many: at most {most:,} are read")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name[:80]} is compressed by method {member.compress_type}, which is not read")
    content = bytearray()
    try:
        with archive.open(member) as stream:  # gives at most file_size bytes, whatever is in the archive
            while chunk := stream.read(_CHUNK):
                content += chunk
    except Exception as error:  # BadZipFile, zlib.error, EOFError, RuntimeError of an encrypted member, ...
        raise ValueError(str(error) or type(error).__name__) from error
    return content


class NpyHeader(NamedTuple):
    """What the header of an array file says."""

    descr: str
    """Type of the elements, such as ``<U9``."""
    fortran_order: bool
    shape: tuple[int, ...]
    start: int
    """Offset of the elements in bytes."""


def npy_header(content: bytes | bytearray) -> NpyHeader:
    r"""Return the header of an array file; numpy's own parser is Python's, which deep nesting breaks.

    Raises:
        ValueError: It is damaged, or of an array of structures.

    >>> npy_header(b"\x93NUMPY\x01\0\x3a\0{'descr': '<U9', 'fortran_order': False, 'shape': (2,), }\n")
    NpyHeader(descr='<U9', fortran_order=False, shape=(2,), start=68)
    """
    width = {1: 2, 2: 4, 3: 4}.get(content[6] if len(content) > 12 else 0)
    if content[:6] != b"\x93NUMPY" or width is None:
        raise ValueError("not an array of numpy")
    start = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
    text = bytes(content[8 + width : min(start, _MOST_HEADER_BYTES)])
    found = _NPY_HEADER.fullmatch(b"".join(text.split()))
    if found is None or start > len(content):
        raise ValueError("its header is damaged, or not of a plain array")
    shape = tuple(int(size) for size in (found[3] or b"").split(b",") if size)
    return NpyHeader(found[1].decode("latin-1"), found[2] == b"True", shape, start)
