"""A file is the old or the new one, complete; an error is one line."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from affectgpt_r1.errors import WriteError
from affectgpt_r1.io.files import line_writer, remove_partial, replacing, write_text

BIG = 20_000


@contextmanager
def limited_file_size(limit: int = 2_000) -> Iterator[None]:
    """Let every longer write fail as over a quota; the limit is the process's own and needs no rights."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def save_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, words=np.random.default_rng(0).random(BIG))


def save_checkpoint(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"a": torch.zeros(BIG)}, file)


WRITERS = {
    "text": lambda path: path.write_bytes(b"x" * BIG),
    "npz": save_npz,
    "safetensors": lambda path: save_file({"a": torch.zeros(BIG)}, path),
    "checkpoint": save_checkpoint,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_the_old_file_and_one_line(tmp_path, write):
    path = tmp_path / "run.json"
    path.write_text("old")
    with pytest.raises(WriteError) as raised, limited_file_size(), replacing(path) as partial:
        write(partial)
    assert str(raised.value) == (
        f"{path}: cannot be written: File too large; raise the limit of a file's size (ulimit -f), or choose another "
        "paths.outputs="
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert path.read_text() == "old"
    with replacing(path) as partial:
        write(partial)
    assert path.stat().st_size >= BIG


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_late_leaves_nothing(tmp_path, monkeypatch, call, number):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(WriteError, match=os.strerror(number)):
        write_text(tmp_path / "made" / "run.json", "new", elsewhere="choose another --folder")
    assert not list((tmp_path / "made").iterdir())


def test_the_mistake_of_a_program_stays_what_it_is_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text(str(1 / 0))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_links_are_not_followed_and_devices_are_written_to(tmp_path, capfd):
    """A stranger's folder may hold a link to any file of the user's."""
    (tmp_path / "own").write_text("own")
    link = tmp_path / "run.json"
    link.symlink_to("own")
    write_text(link, "new\r\n")
    assert (tmp_path / "own").read_text() == "own"
    assert link.read_bytes() == b"new\r\n"
    write_text(Path("/dev/stdout"), "shown")
    assert capfd.readouterr().out == "shown"
    assert Path("/dev/stdout").is_symlink()


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "exported"

    def write_two(partial: Path) -> None:
        partial.mkdir()
        (partial / "small").write_text("complete")
        (partial / "big").write_bytes(b"x" * BIG)

    with pytest.raises(WriteError), limited_file_size(), replacing(folder) as partial:
        write_two(partial)
    assert not list(tmp_path.iterdir())
    folder.mkdir()
    with replacing(folder) as partial:
        (partial / "adapter").mkdir(parents=True)
        (partial / "adapter" / "small").write_text("complete")
    assert (folder / "adapter" / "small").read_text() == "complete"
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


def test_a_full_disk_keeps_the_lines_before_whole(tmp_path):
    path = tmp_path / "made" / "rows.jsonl"

    def write_three() -> None:
        with limited_file_size(100), line_writer(path) as write_line:
            for number in range(3):
                write_line(f"{number}".ljust(39) + "\n")

    with pytest.raises(WriteError, match=r"rows\.jsonl: cannot be written: File too large; .* another --output"):
        write_three()
    assert path.read_text() == "0".ljust(39) + "\n" + "1".ljust(39) + "\n"


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".123-abc.partial").write_text("half")
    (tmp_path / ".123-abc.partial-journal").write_text("half")
    (tmp_path / "last.ckpt.partial").write_text("half")
    (tmp_path / "run.json").write_text("complete")
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
