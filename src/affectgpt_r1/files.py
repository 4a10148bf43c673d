"""Files that are written whole or not at all, and what to do where one cannot be written."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from affectgpt_r1.errors import WriteError

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
    """Return what the file system said, and the remedy.

    Args:
        error: What it raised.
        elsewhere: How to write to another place.
    """
    remedy = _REMEDIES.get(error.errno or 0, "{elsewhere}").format(elsewhere=elsewhere)
    return f"{error.strerror or error}; {remedy}"


def is_of_file_system(error: OSError) -> bool:
    """Whether an error is one of a disk or a limit that the user can do something about."""
    return error.errno in (*_REMEDIES, errno.EROFS)


@contextmanager
def replacing(path: Path, *, flush: bool = True, elsewhere: str = ELSEWHERE) -> Iterator[Path]:
    """Yield a temporary path next to a file, and move what the block writes there to the file's place.

    A reader finds the old file or the new one, whole, at any moment, and after a power cut as well. If the block or
    the disk fails, the old file is untouched and the temporary one removed.

    Args:
        path: The file; its folder is made. A link is followed, and a device such as ``/dev/stdout`` written to.
        flush: Wait until the disk has it; False where a reader finds out that a file is damaged, and makes it again.
        elsewhere: How the user chooses another place, for the message.

    Raises:
        WriteError: Names the file, the reason and the remedy.
    """
    if path.is_absolute() and path.parts[1:2] in (("dev",), ("proc",)):
        yield path
        return
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{os.getpid()}-{uuid4().hex[:12]}{_PARTIAL}")  # other machines have the same numbers
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if flush:
            _flush(partial)
        os.replace(partial, target)
        if flush:
            _flush(target.parent)
    except Exception as error:
        if (cause := os_error_in(error)) is None:
            raise
        raise WriteError(f"{path}: cannot be written: {why_unwritable(cause, elsewhere)}") from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, flush: bool = True, elsewhere: str = ELSEWHERE) -> None:
    """Write a text file as :func:`replacing` does, line ends as they are.

    Raises:
        WriteError: See :func:`replacing`.
    """
    with replacing(path, flush=flush, elsewhere=elsewhere) as partial:
        partial.write_bytes(text.encode())


def remove_partial(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder; call it where no other process writes."""
    for path in folder.glob(f"*{_PARTIAL}"):
        if path.is_file():
            path.unlink(missing_ok=True)


def os_error_in(error: BaseException | None) -> OSError | None:
    """Find the system's error in a library's: torch raises a RuntimeError around it, safetensors names its number."""
    while error is not None and not isinstance(error, OSError):
        if numbered := re.search(r"\(os error (\d+)\)", str(error)):
            return OSError(int(numbered[1]), os.strerror(int(numbered[1])))
        error = error.__cause__ or error.__context__
    return error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
