"""Groups of synonyms by clip, as MER2024's scorer caches them: ``NAME.npy`` in a folder or a ``.zip``."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from affectgpt_r1.emotion.parsing import parse_labels
from affectgpt_r1.errors import DataError
from affectgpt_r1.io.untrusted_files import npy_header, open_zip, read_member
from affectgpt_r1.types import EmotionSet

_LARGEST = 1 << 20
_MOST_CLIPS = 200_000
_GROUP = re.compile(r"\[([^\[\]]*)\]")


def read_groupings(path: Path, names: Sequence[str]) -> list[list[EmotionSet]]:
    """Return the groups of synonyms of each clip, such as ``[("joyful", "happy"), ("calm",)]``.

    Args:
        path: The folder, or the archive. Each file holds one text, such as ``[['joyful', 'happy'], ['calm']]``.
        names: Clips whose groups are wanted.

    Raises:
        DataError: There is no such folder or archive, a file is damaged, or a clip has none.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such folder or archive of groupings")
    wanted = set(names)
    groups = {name: _groups(content, f"{path}: {name}.npy") for name, content in _files(path, wanted)}
    if missing := [name for name in names if name not in groups]:
        raise DataError(f"{path}: no groups for {len(missing)} of {len(names)} clips, such as {missing[0]}.npy")
    return [groups[name] for name in names]


def _files(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes | bytearray]]:
    if path.is_dir():
        for file in sorted(path.glob("*.npy")):
            if file.stem in wanted:
                if file.stat().st_size > _LARGEST:
                    raise DataError(f"{file}: more than {_LARGEST:,} bytes")
                yield file.stem, file.read_bytes()
        return
    try:
        with open_zip(path) as archive:
            members = archive.namelist()
            if len(members) > _MOST_CLIPS:
                raise DataError(f"{path}: more than {_MOST_CLIPS:,} files")
            for member in members:
                name = PurePosixPath(member)
                if name.suffix == ".npy" and name.stem in wanted:
                    yield name.stem, read_member(archive, member, _LARGEST)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: neither a folder nor a zip archive of NAME.npy files; fetch it again") from error
    except ValueError as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch it again") from error


def _groups(content: bytes | bytearray, place: str) -> list[EmotionSet]:
    try:
        header = npy_header(content)
        if header.shape != () or not re.fullmatch(r"[<>]U\d{1,7}", header.descr):
            raise ValueError(f"an array of shape {header.shape} and type {header.descr} in place of one text")
        order = "be" if header.descr[0] == ">" else "le"
        text = content[header.start :].decode(f"utf-32-{order}").rstrip("\0")
    except ValueError as error:
        raise DataError(f"{place}: cannot be read ({error}); fetch it again") from error
    return [words for group in _GROUP.findall(text) if (words := parse_labels(group))]
