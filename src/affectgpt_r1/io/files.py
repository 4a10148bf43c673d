"""Write files atomically, and say what to do where one cannot be written."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from affectgpt_r1.errors import AffectGPTError, WriteError

ELSEWHERE = "choose another paths.outputs="
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, or {elsewhere}"),
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or {elsewhere}",
    errno.EACCES: "change its permissions, or {elsewhere}",
    errno.ENAMETOOLONG: "a file name has at most 255 bytes: choose a shorter experiment_name= or clip name",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower data.num_workers",
}
_PARTIAL = ".partial"


def why_unwritable(error: OSError, elsewhere: str = ELSEWHERE) -> str:
    """Return what the file system said, and the remedy; ``elsewhere`` says how to write to another place."""
    remedy = _REMEDIES.get(error.errno or 0, "{elsewhere}").format(elsewhere=elsewhere)
    return f"{error.strerror or error}; {remedy}"


def is_of_file_system(error: OSError) -> bool:
    """Return whether an error is one of the disk or a limit, which the user can fix."""
    return error.errno in (*_REMEDIES, errno.EROFS)


@contextmanager
def clear_write_errors(path: Path, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Turn an error in writing ``path`` into a :class:`WriteError` with file, reason and remedy."""
    try:
        yield
    except Exception as error:  # libraries wrap the system's error in their own
        if isinstance(error, AffectGPTError) or (cause := os_error_in(error)) is None:
            raise
        raise WriteError(f"{path}: cannot be written: {why_unwritable(cause, elsewhere)}") from error


@contextmanager
def replacing(path: Path, *, flush: bool = True, elsewhere: str = ELSEWHERE) -> Iterator[Path]:
    """Yield a temporary path next to a file or folder, and move what the block writes there to its place.

    A reader finds the old or the new file, complete, at any moment and after a power cut. If the block or the disk
    fails, the old file is untouched and the temporary one is removed.

    Args:
        path: The file, or a folder that is new or empty; parents are made. A link is replaced, not followed, for it may
            be a stranger's; a device such as ``/dev/stdout`` is written to.
        flush: Wait until the disk has it; False where readers detect a damaged file and write it again.
        elsewhere: How the user chooses another place, for the message.
    """
    if path.is_absolute() and path.parts[1:2] in (("dev",), ("proc",)):
        with clear_write_errors(path, elsewhere):
            yield path
        return
    partial = path.with_name(f".{os.getpid()}-{uuid4().hex[:12]}{_PARTIAL}")  # process ids repeat on other machines
    try:
        with clear_write_errors(path, elsewhere):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            for written in (*partial.rglob("*"), partial) if flush else ():
                _flush(written)
            os.replace(partial, path)
            if flush:
                _flush(path.parent)
    finally:
        _remove(partial)


def write_text(path: Path, text: str, *, flush: bool = True, elsewhere: str = ELSEWHERE) -> None:
    """Write a text file as :func:`replacing` does, line ends as they are."""
    with replacing(path, flush=flush, elsewhere=elsewhere) as partial:
        partial.write_bytes(text.encode())


@contextmanager
def line_writer(path: Path, elsewhere: str = "choose another --output") -> Iterator[Callable[[str], None]]:
    """Yield a function that writes a line, with its line break, to a new file at once.

    Where the disk fails, it raises :class:`WriteError` and the lines before stay complete.
    """
    with clear_write_errors(path, elsewhere):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb", buffering=0)
    size = 0

    def write(line: str) -> None:
        nonlocal size
        left = data = line.encode()
        with clear_write_errors(path, elsewhere):
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                with suppress(OSError):  # a device
                    file.truncate(size)
                raise
        size += len(data)

    with file:
        yield write


def remove_partial(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder; call it where no other process writes."""
    for path in folder.glob(f"*{_PARTIAL}*"):  # SQLite adds -journal
        _remove(path)


def os_error_in(error: BaseException | None) -> OSError | None:
    """Find the system's error in a library's: torch raises a RuntimeError around it, safetensors names its number."""
    while error is not None and not isinstance(error, OSError):
        if numbered := re.search(r"\(os error (\d+)\)", str(error)):
            return OSError(int(numbered[1]), os.strerror(int(numbered[1])))
        error = error.__cause__ or error.__context__
    return error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # the earlier error is the one to report
            path.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
