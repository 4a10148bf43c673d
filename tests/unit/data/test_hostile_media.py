"""Media files that name other files or places, or declare sizes that no memory holds."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from affectgpt_r1.data.clip_reader import read_full_frames, read_sound
from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.data.media import audio, decoding_process
from affectgpt_r1.data.media.containers import inspect
from affectgpt_r1.data.media.video import DecordDecoder, PyAVDecoder, read_frames
from affectgpt_r1.errors import MediaError
from helpers.hostile_media import gif, patched, playlists, png, wav

MEDIA = MediaSettings(visual="frame", num_frames=2, image_size=16, num_windows=2)
READERS: dict[str, Callable[[Path], object]] = {
    "inspect": lambda path: inspect(path, with_text=True),
    "frames": lambda path: read_full_frames(path, MEDIA),
    "sound": lambda path: read_sound(path, MEDIA),
    "decord": lambda path: read_frames(path, 2, "decord"),
    "pyav": lambda path: read_frames(path, 2, "pyav"),
}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """In this process, where a test can count what is opened."""
    monkeypatch.setattr(decoding_process._process, "is_child", True)


@pytest.fixture(scope="module")
def clip(write_mp4, tmp_path_factory) -> bytes:
    return write_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=8).read_bytes()


def refused(path: Path, how: str) -> str:
    with pytest.raises(MediaError) as error:
        READERS[how](path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("suffix", ["own", ".mp4", ".wav"])
@pytest.mark.parametrize("kind", list(playlists("")))
def test_a_list_of_other_files_is_refused_by_its_content(tmp_path, clip, kind, suffix):
    (tmp_path / "other.mp4").write_bytes(clip)
    own = {"hls": ".m3u8", "concat": ".ffconcat", "dash": ".mpd", "vobsub": ".idx"}.get(kind, f".{kind}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        for target in ("other.mp4", f"{tmp_path}/other.mp4", f"http://127.0.0.1:{port}/a.ts", "/etc/passwd"):
            path = tmp_path / f"list{own if suffix == 'own' else suffix}"
            path.write_bytes(playlists(target)[kind])
            for how in READERS:
                refused(path, how)
            with pytest.raises(MediaError):
                DecordDecoder(path)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_playlist_in_front_of_a_broadcast_is_not_given_to_decord(tmp_path, clip):
    """decord's FFmpeg would take it for a playlist, where PyAV's finds the broadcast."""
    head = playlists("other.mp4")["hls"]
    path = tmp_path / "a.mp4"
    path.write_bytes(head.ljust(188 * 2, b"\n") + (b"G\x1f\xff\x10" + bytes(184)) * 40)
    assert "may be a list of other files" in refused(path, "decord")


@pytest.mark.parametrize("name", ["shot%03d.png", "shot*.png", "shot[0-9].png", "shot%03d.mp4", "concat:a.mp4|b.mp4"])
@pytest.mark.parametrize("content", ["clip", "picture"])
def test_a_name_is_a_name(tmp_path, clip, monkeypatch, name, content):
    """What a pattern stands for, or an address, is not opened in place of the file."""
    monkeypatch.chdir(tmp_path)
    for other in ("shot001.png", "shot1.png"):
        Path(other).write_bytes(png(16, 16))
    Path("a.mp4").write_bytes(clip)
    path = Path(name)
    path.write_bytes(clip if content == "clip" else gif(24, 24))
    for decoder in (DecordDecoder, PyAVDecoder):
        try:
            frames = decoder(path).get_frames([0])
        except MediaError:
            continue
        assert frames.shape == ((1, 32, 32, 3) if content == "clip" else (1, 24, 24, 3))
    if content == "clip" and name.endswith(("mp4", "|b.mp4")):
        assert DecordDecoder(path).num_frames == PyAVDecoder(path).num_frames == 8


@pytest.mark.parametrize("name", ["pipe:0", "pipe:", "data:video", "file:clip.mp4", "http:clip.mp4", "fd:0", "cache:x"])
def test_a_protocols_name_is_a_file(tmp_path, clip, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(clip)
    for decoder in (DecordDecoder, PyAVDecoder):
        assert decoder(Path(name)).num_frames == 8
    assert audio.read_waveform(Path(name))[1] == 16_000
    assert len(inspect(Path(name)).picture_times) == 8


def test_links_lead_to_media_or_nowhere(tmp_path, clip):
    (tmp_path / "clip.mp4").write_bytes(clip)
    os.symlink("clip.mp4", tmp_path / "good.mp4")
    os.symlink("/etc/passwd", tmp_path / "bad.mp4")
    os.symlink("/dev/zero", tmp_path / "endless.mp4")
    assert PyAVDecoder(tmp_path / "good.mp4").num_frames == 8
    for name in ("bad.mp4", "endless.mp4"):
        for how in READERS:
            refused(tmp_path / name, how)


@pytest.mark.parametrize(
    ("content", "how", "message"),
    [
        (gif(16_000, 16_000), "inspect", "its pictures have 16000 x 16000 pixels, more than 67108864"),
        (gif(16_000, 16_000), "frames", "its pictures have 16000 x 16000 pixels"),
        (gif(65_500, 65_500), "frames", "cannot be decoded"),
        (gif(0, 0), "inspect", "cannot be read as video or sound"),
        (png(65_500, 65_500), "frames", "cannot be decoded"),
        (png(1, 2**31 - 1), "frames", ""),
        (wav(1), "sound", "its sound has 1 samples per second; 1000 to 768000 are read"),
        (wav(999), "sound", "its sound has 999 samples per second"),
        (wav(10**9), "sound", "its sound has 1000000000 samples per second"),
        (wav(2**32 - 1), "sound", ""),
        (wav(0), "sound", ""),
        (wav(16_000, 0), "sound", ""),
        (wav(16_000, 65_535), "sound", ""),
        (wav(16_000, content=b""), "sound", "the sound is empty"),
        (b"", "inspect", "cannot be read as video or sound"),
        (b"", "sound", "cannot be read"),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".wav"])
def test_what_no_memory_holds_is_refused_by_its_header(tmp_path, content, how, message, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    assert message in refused(path, how)


def test_a_header_that_claims_more_sound_than_there_is(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(16_000, content=bytes(64_000), size=2**32 - 9))
    assert read_sound(path, MEDIA).shape == (2, 32_000)
    soundfile.write(tmp_path / "b.flac", np.zeros(80_000), 16_000)
    flac = bytearray((tmp_path / "b.flac").read_bytes())
    flac[22:26] = b"\xff\xff\xff\xff"  # of the 36 bits that count its samples
    path.write_bytes(flac)
    with pytest.raises(MediaError, match=r"a\.wav: cannot be read as sound: it holds \d+ samples; at most 134217728"):
        audio.read_waveform(path)


def test_a_header_that_hides_how_much_sound_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "MAX_SAMPLES", 60_000)
    soundfile.write(tmp_path / "a.flac", np.zeros(80_000), 16_000)
    with pytest.raises(MediaError, match=r"a\.flac: .*it holds more than 60000 samples"):
        audio.read_waveform(tmp_path / "a.flac")


@pytest.mark.parametrize("box", [b"mvhd", b"tkhd", b"mdhd"])
def test_a_duration_of_years_changes_nothing(tmp_path, clip, box):
    path = tmp_path / "a.mp4"
    path.write_bytes(clip)
    expected = read_full_frames(path, MEDIA), read_sound(path, MEDIA)
    patched(path, box, 24 if box == b"tkhd" else 20, struct.pack(">I", 2**31 - 1))
    frames = read_full_frames(path, MEDIA)
    assert (frames.int() - expected[0].int()).abs().max() <= 4  # by PyAV, not by decord
    assert read_sound(path, MEDIA, inspect(path)).shape == expected[1].shape


@pytest.mark.parametrize(
    ("box", "offset", "value", "message"),
    [
        (b"stsz", 12, 10**9, "cannot be read as video or sound"),
        (b"stts", 16, 2**31 - 1, "cut short: 1 of 8 frames decode"),
        (b"mdhd", 16, 0, "cut short: 1 of 8 frames decode"),
    ],
)
def test_a_count_that_cannot_be_is_refused(tmp_path, clip, box, offset, value, message):
    path = tmp_path / "a.mp4"
    path.write_bytes(clip)
    patched(path, box, offset, struct.pack(">I", value))
    assert message in refused(path, "pyav")


def test_decord_gives_what_it_gave_by_the_files_name(tmp_path, clip):
    import decord

    path = tmp_path / "a.mp4"
    path.write_bytes(clip)
    by_name = decord.VideoReader(str(path), num_threads=1).get_batch([0, 3, 5]).asnumpy()
    assert by_name.std() > 10
    assert np.array_equal(DecordDecoder(path).get_frames([0, 3, 5]), by_name)
