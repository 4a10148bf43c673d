"""Index media files: what is found, what it costs, and what is missing."""

import os
import threading

import pytest

from affectgpt_r1.data import media_index as media_state
from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.data.layouts.mer import audio_file, face_file, video_file
from affectgpt_r1.data.media_index import index_media
from affectgpt_r1.errors import DataError

FACES = {"a": "openface_face/a/a.npy", "b": "openface_face/b.npy"}


def rows(names):
    return [ManifestRow(name, (), row=row) for row, name in enumerate(names, start=2)]


@pytest.fixture
def root(tmp_path):
    """Clip a has a file of each kind; b's sound is in its video, and its faces are in no subfolder."""
    for number, place in enumerate((*FACES.values(), "video/a.mp4", "video/b.mp4", "audio/a.wav"), start=1):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"." * number)
        os.utime(path, ns=(number, number))
    return tmp_path


@pytest.mark.parametrize("visual", ["face", "frame", "both", "image"])
def test_files_are_those_that_the_dataset_reads(root, visual):
    states = index_media(rows("ab"), root, ("video", "audio", "text"), visual)
    for name, state in states.items():
        expected = [face_file(root, name)] if visual in ("face", "both") else []
        expected += [video_file(root, name)] if visual != "face" else []
        expected.append(audio_file(root, name))
        assert state.files(root, name) == expected
        assert state.sizes == tuple(file.stat().st_size for file in expected)


def test_text_alone_asks_for_no_file(root):
    assert index_media(rows("az"), root, ("text",), "face") == {"a": ((), (), ""), "z": ((), (), "")}


def test_a_file_at_its_usual_place_is_asked_for_once(root, monkeypatch):
    asked, stat = [], os.stat
    monkeypatch.setattr(media_state.os, "stat", lambda path, **more: asked.append(str(path)) or stat(path, **more))
    index_media(rows("a"), root, ("video", "audio"), "both")
    assert [path.removeprefix(f"{root}/") for path in asked if path.endswith(("npy", "mp4", "wav"))] == [
        "openface_face/a/a.npy", "video/a.mp4", "audio/a.wav",
    ]  # fmt: skip


def test_clips_without_media_are_named_with_their_rows(root):
    with pytest.raises(DataError, match=r"2 media files .*: row 4 \(c\): video/c\.mp4, row 4 \(c\): audio/c\.wav"):
        index_media(rows("abc"), root, ("video", "audio"), "frame")
    with pytest.raises(DataError, match=r"row 2 \(c\): openface_face/c/c\.npy"):
        index_media(rows("c"), root, ("video",), "face")
    with pytest.raises(DataError, match=r"row 2 \(a\): video/a\.mp4"):
        index_media(rows("a"), root / "elsewhere", ("video",), "frame")


def test_a_folder_that_may_not_be_read_is_no_missing_file(root, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(media_state, "_present", lambda root, places: list(places))
    monkeypatch.setattr(media_state.os, "stat", denied)
    with pytest.raises(PermissionError):
        index_media(rows("a"), root, ("video",), "frame")


def test_a_replaced_file_is_another_whatever_its_date(root):
    def identity():
        return index_media(rows("a"), root, ("video",), "frame")["a"].identity

    clip, before = root / "video/a.mp4", identity()
    assert identity() == before
    older = root / "older.mp4"
    older.write_bytes(clip.read_bytes())
    os.utime(older, ns=(3, 3))  # the size and date of the file that it replaces, as rsync -a leaves them
    os.replace(older, clip)
    assert (clip.stat().st_mtime_ns, clip.stat().st_size) == (3, 3)
    replaced = identity()
    os.utime(clip, ns=(1, 1))
    assert len({before, replaced, identity()}) == 3


def test_a_name_is_found_in_either_normal_form(root):
    composed, decomposed = "gr\u00fc\u00df{e}", "gru\u0308\u00df{e}"
    (root / f"video/{decomposed}.mp4").write_bytes(b"macOS")
    (root / f"audio/{composed}.wav").write_bytes(b"Linux")
    for name in (composed, decomposed):
        state = index_media(rows([name]), root, ("video", "audio"), "frame")[name]
        assert state.sizes == (5, 5)
        assert [file.read_bytes() for file in state.files(root, name)] == [b"macOS", b"Linux"]
        assert video_file(root, name).read_bytes() == b"macOS"
        assert audio_file(root, name).read_bytes() == b"Linux"


def test_a_name_too_long_for_a_file_is_missing_with_its_row(root):
    with pytest.raises(DataError, match=r"1 media files are missing .*row 2 \(n{300}\)"):
        index_media(rows(["n" * 300]), root, ("video",), "frame")


def test_a_slow_disk_is_asked_by_many_threads_in_order(monkeypatch):
    monkeypatch.setattr(media_state, "_SLOW_SECONDS", -1.0)
    monkeypatch.setattr(media_state, "_AT_ONCE", 8)
    together = threading.Barrier(16, timeout=60)  # passes only where 16 wait at once

    def ask(item: int) -> int:
        if item >= 64 and item % 8 == 0:
            together.wait()
        return -item

    assert list(media_state.in_threads(ask, range(64 + 32 * 8))) == [(item, -item) for item in range(64 + 32 * 8)]
