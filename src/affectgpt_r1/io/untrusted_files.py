"""Read files that a stranger may have written: sizes are bounded, and each fault is a short ``ValueError``."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

MOST_JSON_BYTES = 1 << 24  # of a file or a line; objects take up to 30 times the memory of their text

_MOST_HEADER_BYTES = 10_000
_CHUNK = 1 << 16
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NPY_HEADER = re.compile(
    rb"\{'descr':'([^']{1,20})','fortran_order':(True|False),'shape':\((\d{1,12}(?:,\d{1,12}){0,3})?,?\),?\}"
)


def has_control_character(name: str) -> bool:
    """Return whether a name holds a line break, NUL or another control character."""
    return not name.isprintable() and _CONTROL.search(name) is not None


def parse_json(text: str) -> Any:
    r"""Parse JSON text.

    Raises:
        ValueError: It is not JSON, is nested too deeply, or holds a number of thousands of digits or a lone surrogate,
            which no file could be written with.

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


def read_json(path: Path, most: int = MOST_JSON_BYTES) -> Any:
    """Parse a JSON file of at most ``most`` bytes; see :func:`read_text` and :func:`parse_json` for what is refused."""
    return parse_json(read_text(path, most))


def read_text(path: Path, most: int) -> str:
    """Read a UTF-8 file of at most ``most`` bytes; raise ``ValueError`` for any other."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes")
    return content.decode("utf-8")


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and content of each line that is not blank; raise ``ValueError`` with the line that is not JSON."""
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
    """Open a zip archive; raise ``BadZipFile`` for any other file, and for a damaged directory."""
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # a damaged directory raises nearly anything, such as struct.error
            raise zipfile.BadZipFile(str(error)) from error
        with archive:
            yield archive


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytearray:
    """Read one member of at most ``most`` bytes, its checksum verified; raise ``ValueError`` for any other."""
    member = archive.getinfo(name)
    if member.file_size > most:
        raise ValueError(f"{name[:80]} has {member.file_size:,} bytes, too many: at most {most:,} are read")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name[:80]} is compressed by method {member.compress_type}, which is not read")
    content = bytearray()
    try:
        with archive.open(member) as stream:  # gives at most file_size bytes, whatever the archive holds
            while chunk := stream.read(_CHUNK):
                content += chunk
    except Exception as error:  # BadZipFile, zlib.error, EOFError, RuntimeError of an encrypted member, ...
        raise ValueError(str(error) or type(error).__name__) from error
    return content


class NpyHeader(NamedTuple):
    """The header of an array file."""

    descr: str  # type of the elements, such as <U9
    fortran_order: bool
    shape: tuple[int, ...]
    start: int  # offset of the elements in bytes


def npy_header(content: bytes | bytearray) -> NpyHeader:
    r"""Parse the header of an array file; numpy evaluates it with Python's parser, which deep nesting crashes.

    >>> npy_header(b"\x93NUMPY\x01\0\x3a\0{'descr': '<U9', 'fortran_order': False, 'shape': (2,), }\n")
    NpyHeader(descr='<U9', fortran_order=False, shape=(2,), start=68)
    """
    width = {1: 2, 2: 4, 3: 4}.get(content[6] if len(content) > 12 else 0)
    if content[:6] != b"\x93NUMPY" or width is None:
        raise ValueError("not an array of numpy")
    start = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
    text = bytes(content[8 + width : min(start, _MOST_HEADER_BYTES)])
    match = _NPY_HEADER.fullmatch(b"".join(text.split()))
    if match is None or start > len(content):
        raise ValueError("its header is damaged, or not of a plain array")
    shape = tuple(int(size) for size in (match[3] or b"").split(b",") if size)
    return NpyHeader(match[1].decode("latin-1"), match[2] == b"True", shape, start)
