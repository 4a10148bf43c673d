"""Files that look damaged by their first bytes, and sound ones that do not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from affectgpt_r1.data.media.quick_look import Look, quick_look


@pytest.fixture
def files(tmp_path, write_mp4, write_wav):
    write_mp4(tmp_path / "clip.mp4", 8)
    write_wav(tmp_path / "clip.wav", 0.5)
    np.save(tmp_path / "clip.npy", np.zeros((3, 20, 10, 3), np.uint8))
    return tmp_path


def test_whole_files_raise_no_doubt(files):
    assert quick_look(f"{files}/clip.mp4") == Look()
    assert quick_look(f"{files}/clip.wav") == Look()
    assert quick_look(f"{files}/clip.npy") == Look("", (20, 10))


@pytest.mark.parametrize("kind", ["mp4", "wav", "npy"])
def test_a_file_that_lacks_its_end_is_doubted(files, kind):
    path = files / f"clip.{kind}"
    path.write_bytes(path.read_bytes()[:-1])
    assert quick_look(str(path)).doubt == "the file is cut short"


@pytest.mark.parametrize("kind", ["mp4", "wav", "npy", "avi"])
@pytest.mark.parametrize(
    ("content", "doubt"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS: .*git lfs pull"),
        (b"\n<!DOCTYPE html>", "a web page"),
        (b"something else altogether", "."),
    ],
)
def test_other_content_is_doubted(tmp_path, kind, content, doubt):
    path = tmp_path / f"clip.{kind}"
    path.write_bytes(content)
    assert re.search(doubt, quick_look(str(path)).doubt)


def test_an_mp4_whose_index_was_never_written_is_doubted(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x0cmdat1234")
    assert quick_look(str(path)).doubt == "it has no index (moov): its recording or copying was cut off"


def test_a_wav_that_was_written_to_a_pipe_is_not_doubted(files):
    path = files / "clip.wav"
    content = path.read_bytes()
    for length in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        path.write_bytes(content[:4] + length + content[8:])
        assert quick_look(str(path)) == Look()


@pytest.mark.parametrize("kind", ["avi", "mkv"])
def test_a_video_of_another_kind_under_the_name_of_an_mp4_is_not_doubted(tmp_path, write_mp4, kind):
    content = write_mp4(tmp_path / f"clip.{kind}", 8).read_bytes()
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert quick_look(str(path)) == Look()
    if kind == "avi":
        path.write_bytes(content[:-100])
        assert quick_look(str(path)).doubt == "the file is cut short"
