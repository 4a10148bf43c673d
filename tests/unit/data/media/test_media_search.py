"""Which files `predict` is given by paths and folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from affectgpt_r1.data.media.media_search import find_media
from affectgpt_r1.errors import DataError


def names(paths) -> list[str]:
    return [path.name for path in find_media(paths)]


def test_a_folder_gives_each_file_once_and_no_hidden_ones(tmp_path: Path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / ".trash").mkdir()
    for name in ("b.mp4", "a.MKV", "._b.mp4", "notes.txt", "folder.mp4/c.wav", ".trash/d.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert names([tmp_path / "b.mp4", tmp_path, tmp_path / "folder.mp4" / ".." / "b.mp4"]) == [
        "b.mp4",
        "a.MKV",
        "c.wav",
    ]


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path):
    films, elsewhere = tmp_path / "films", tmp_path / "elsewhere"
    (films / "inner").mkdir(parents=True)
    elsewhere.mkdir()
    for file in (films / "a.mp4", films / "inner" / "b.mp4", elsewhere / "c.mp4"):
        file.write_bytes(b"")
    (films / "inner" / "back").symlink_to(films)
    (films / "other").symlink_to(elsewhere)
    (films / "same.mp4").symlink_to(films / "a.mp4")
    (films / "itself.mp4").symlink_to("itself.mp4")  # reading it fails; the search does not
    assert names([films]) == ["a.mp4", "b.mp4", "itself.mp4", "c.mp4"]


def test_a_folder_that_may_not_be_read_is_listed(tmp_path: Path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.mp4").write_bytes(b"")
    scan = os.scandir

    def refusing(folder):
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    assert names([tmp_path]) == ["a.mp4", "locked"]


@pytest.mark.parametrize(("name", "reason"), [("gone", "no such file"), ("n" * 300, "file name too long")])
def test_what_is_not_there_is_refused_by_name(tmp_path: Path, name: str, reason: str):
    with pytest.raises(DataError, match=f"{name}: {reason}"):
        find_media([tmp_path / name])


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="holds no media file"):
        find_media([tmp_path])
