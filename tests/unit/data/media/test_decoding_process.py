"""Decoders that crash, never end or take all memory cost their clip, and nothing else."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from affectgpt_r1.data.clip_reader import read_full_frames, read_sound
from affectgpt_r1.data.dataset import ClipDataset, MediaSettings
from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.data.media import decoding_process, video
from affectgpt_r1.data.media.decoding_process import in_decoding_process, stop_decoding_process
from affectgpt_r1.data.samplers import SampleKey
from affectgpt_r1.errors import DataError, MediaError
from affectgpt_r1.inference.label_file import predict_files
from affectgpt_r1.inference.read_file import read_clip
from affectgpt_r1.types import UnreadableClip
from helpers.hostile_media import with_frame_count

MEDIA = MediaSettings(visual="frame", num_frames=2, image_size=16, num_windows=2)


@in_decoding_process
def read(path: Path, does: str, *, value: object = None) -> object:
    """What a decoder may do, by the name of what it is to do."""
    if does == "pid":
        return os.getpid()
    if does == "fault":
        ctypes.string_at(0)
    elif does == "abort":
        os.abort()
    elif does == "signal":
        os.kill(os.getpid(), value)
    elif does == "fault once" and not path.exists():
        path.touch()
        ctypes.string_at(0)
    elif does == "loop":
        while True:
            pass
    elif does in ("numpy", "torch"):
        return np.ones(1 << 29) if does == "numpy" else torch.ones(1 << 30)
    elif does == "exit":
        os._exit(3)
    elif does == "raise":
        raise value
    elif does == "cwd":
        return os.getcwd()
    return value


@pytest.fixture(autouse=True)
def own_process():
    """Forked after the test's patches."""
    stop_decoding_process()
    yield
    stop_decoding_process()


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4),
        torch.empty(0, 3),
        torch.arange(12.0).reshape(3, 4).T,
        [np.arange(6).reshape(2, 3)[:, ::-1], np.float32(1)],
        ("text", None, 2**70),
    ],
    ids=["tensor", "empty", "transposed", "arrays", "plain"],
)
def test_what_is_read_comes_back(tmp_path, value):
    result = read(tmp_path, "give", value=value)
    for given, back in zip(value, result, strict=True) if isinstance(value, list) else [(value, result)]:
        assert type(back) is type(given)
        assert np.array_equal(back, given) if isinstance(given, np.ndarray | torch.Tensor) else back == given


def test_arrays_belong_to_the_caller(tmp_path):
    first = read(tmp_path, "give", value=np.zeros(3))
    first += 1
    assert read(tmp_path, "give", value=np.zeros(3)).tolist() == [0, 0, 0]
    assert first.tolist() == [1, 1, 1]


def test_one_process_reads_all_files(tmp_path, monkeypatch):
    pid = read(tmp_path, "pid")
    assert pid != os.getpid()
    assert read(tmp_path, "pid") == pid
    monkeypatch.chdir(tmp_path)
    assert read(Path("."), "cwd") == str(tmp_path)


@pytest.mark.parametrize(
    ("does", "value", "cause"),
    [
        ("fault", None, "SIGSEGV"),
        ("abort", None, "SIGABRT"),
        ("signal", signal.SIGBUS, "SIGBUS"),
        ("signal", signal.SIGFPE, "SIGFPE"),
        ("signal", signal.SIGKILL, "SIGKILL"),
        ("exit", None, "exit code 3"),
    ],
)
def test_a_crash_is_an_unreadable_file(tmp_path, capfd, does, value, cause):
    with pytest.raises(MediaError, match=rf"a\.mp4: its decoder crashed \({cause}\)"):
        read(tmp_path / "a.mp4", does, value=value)
    assert read(tmp_path, "give", value=5) == 5
    assert capfd.readouterr() == ("", "")


def test_a_crash_that_an_earlier_file_caused_is_not_blamed_on_this_one(tmp_path):
    assert read(tmp_path / "a.mp4", "fault once", value=5) == 5


def test_a_decoder_that_does_not_end_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding_process, "MAX_SECONDS", 0.2)
    started = time.monotonic()
    with pytest.raises(MediaError, match=r"a\.mp4: decoding it did not end within 0 s"):
        read(tmp_path / "a.mp4", "loop")
    assert time.monotonic() - started < 20  # left alone, it never ends
    assert read(tmp_path, "give", value=5) == 5


@pytest.mark.parametrize("does", ["numpy", "torch"])
def test_memory_is_bounded(tmp_path, does):
    pid = read(tmp_path, "pid")
    with pytest.raises(MediaError, match=r"a\.mp4: decoding it takes more than 1024 MiB of memory"):
        read(tmp_path / "a.mp4", does)
    assert read(tmp_path, "pid") == pid


def test_other_errors_come_with_their_traceback(tmp_path):
    with pytest.raises(DataError, match="as it is"):
        read(tmp_path, "raise", value=DataError("as it is"))
    with pytest.raises(ZeroDivisionError) as error:
        read(tmp_path, "raise", value=ZeroDivisionError())
    assert "in read" in error.value.__notes__[0]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_to_all_processes_costs_no_clip(tmp_path, sent):
    assert read(tmp_path, "signal", value=sent) == sent


def test_an_interruption_leaves_no_answer_behind(tmp_path):
    first = read(tmp_path, "pid")
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            read(tmp_path, "loop")
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert read(tmp_path, "give", value=5) == 5
    assert read(tmp_path, "pid") != first


def test_threads_and_forked_processes_do_not_mix_answers(tmp_path):
    results: dict[int, object] = {}
    threads = [
        threading.Thread(target=lambda n=n: results.update({n: read(tmp_path, "give", value=n)})) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: n for n in range(8)}
    pid = read(tmp_path, "pid")
    if (child := os.fork()) == 0:
        os._exit(0 if read(tmp_path, "pid") not in (pid, os.getpid()) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert read(tmp_path, "pid") == pid


def test_it_ends_with_the_process_that_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding_process, "MAX_SECONDS", 0.3)
    receiving, sending = os.pipe()
    if (waiting := os.fork()) == 0:
        os.write(sending, str(read(tmp_path, "pid")).encode())
        read(tmp_path, "loop")
    decoding = os.pidfd_open(int(os.read(receiving, 20)))
    os.kill(waiting, signal.SIGKILL)
    os.waitpid(waiting, 0)
    assert select.select([decoding], [], [], 10)[0] == [decoding]
    os.close(decoding)


def test_what_is_wrong_with_a_path_the_reader_says(tmp_path):
    for path in (tmp_path / "none", Path("a\0b"), tmp_path):
        assert read(path, "give", value=5) == 5


def test_files_of_the_process_that_forked_are_not_held(tmp_path):
    with (tmp_path / "lock").open("w") as file:
        pid = read(tmp_path, "pid")
        held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert file.name not in held


class Crashing:
    """A decoder that dies of files named ``bad``."""

    def __init__(self, path: Path, size: int | None = None) -> None:
        if path.stem == "bad":
            ctypes.string_at(0)
        self.num_frames = 4

    def get_frames(self, indices):
        return np.zeros((len(indices), 20, 20, 3), np.uint8)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_survives_a_crash(tmp_path, write_mp4, monkeypatch, workers):
    monkeypatch.setitem(video.DECODERS, "auto", (Crashing,))
    for name in ("a", "bad", "b"):
        write_mp4(tmp_path / "video" / f"{name}.mp4")
    dataset = ClipDataset([ManifestRow(name, ()) for name in ("a", "bad", "b")], tmp_path, MEDIA, seed=0)
    keys = [SampleKey(index, 0) for index in range(3)]
    (clips,) = DataLoader(dataset, batch_sampler=[keys], num_workers=workers, collate_fn=list)
    assert [clip.name for clip in clips] == ["a", "bad", "b"]
    assert isinstance(clips[1], UnreadableClip)
    assert "bad.mp4: its decoder crashed (SIGSEGV)" in clips[1].reason
    assert clips[2].waveform.shape == (2, 32_000)


def test_predict_goes_on_after_a_crash(tmp_path, write_mp4, monkeypatch):
    monkeypatch.setitem(video.DECODERS, "auto", (Crashing,))
    files = [write_mp4(tmp_path / f"{name}.mp4") for name in ("a", "bad", "b")]
    failures: dict[Path, str] = {}

    class Predictor:
        def rows(self, path, subtitle):
            yield {"frames": read_clip(path, subtitle, MEDIA, "centre")[0].frames.shape}

    rows = list(predict_files(Predictor(), dict.fromkeys(files, ""), failures))
    assert [row is None for row in rows] == [False, True, True, False, True]  # None ends each file
    assert list(failures) == [files[1]]
    assert failures[files[1]].startswith(f"{files[1]}: its decoder crashed (SIGSEGV)")
    assert "\n" not in failures[files[1]]


def test_a_real_file_that_kills_its_decoder(tmp_path, write_mp4):
    """It declares 1e9 frames; decord asks for memory for each, and aborts where there is none."""
    path = with_frame_count(write_mp4(tmp_path / "a.mp4", num_frames=8), 10**9)
    with pytest.raises(MediaError, match=r"a\.mp4: "):
        read_full_frames(path, MEDIA)
    assert read_sound(path, MEDIA).shape == (2, 32_000)
