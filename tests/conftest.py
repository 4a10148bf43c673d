"""Fixtures that make tiny clips; everything is written by the test run, nothing is downloaded."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import settings

if TYPE_CHECKING:
    import torch

RATE = 16_000
FPS = 8
SIZE = 32

settings.register_profile("fast", max_examples=40)  # of 100: every run draws others
settings.load_profile("fast")


def pytest_configure() -> None:
    """Let Ctrl-C reach the tests where a shell runs them in the background: it starts them with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is imported out of garbage collection: it stays, and a child that looked through it would copy it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _write_wav(path: Path, seconds: float = 2.5, *, hertz: float = 220.0, rate: int = RATE, channels: int = 1) -> Path:
    """Write a sine of ``hertz``; channel ``k`` is ``k + 1`` times quieter than the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.stack([tone / (channel + 1) for channel in range(channels)], axis=1), rate)
    return path


def _write_mp4(
    path: Path,
    num_frames: int = 24,
    *,
    size: int = SIZE,
    sound: bool = True,
    picture: bool = True,
    first_gray: int = 0,
    hertz: float = 220.0,
) -> Path:
    """Write H.264 and AAC at 8 frames per second; frame ``i`` is ``first_gray + 8 i`` gray, its left half red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        if picture:
            video = container.add_stream("libx264", rate=FPS, options={"crf": "12"})
            video.width = video.height = size
            video.pix_fmt = "yuv420p"
        if sound:
            track = container.add_stream("aac", rate=RATE, layout="mono")
        if picture:
            for index in range(num_frames):
                pixels = np.full((size, size, 3), (first_gray + 8 * index) % 256, np.uint8)
                pixels[:, : size // 2] = (200, 20, 20)
                container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(video.encode())
        if sound:
            time = np.arange(num_frames * RATE // FPS) / RATE
            tone = (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            frame.sample_rate = RATE
            container.mux(track.encode(frame))
            container.mux(track.encode())
    return path


@pytest.fixture(scope="session")
def write_wav() -> Callable[..., Path]:
    """``write_wav(path, seconds=2.5, hertz=220.0, rate=16000, channels=1)``."""
    return _write_wav


@pytest.fixture(scope="session")
def write_mp4() -> Callable[..., Path]:
    """``write_mp4(path, num_frames=24, size=32, sound=True, picture=True, first_gray=0, hertz=220.0)``."""
    return _write_mp4


def _fill_data_root(folder: Path, num_train: int, num_test: int) -> None:
    words = [("happy", "proud"), ("sad",), ("angry", "nervous"), ("surprised",)]
    names = [f"sample_{number:02d}" for number in range(num_train + num_test)]
    openset = {name: words[number % len(words)] for number, name in enumerate(names)}
    for number, name in enumerate(names):
        _write_mp4(folder / "video" / f"{name}.mp4", first_gray=5 * number, hertz=200 + 20 * number)
        _write_wav(folder / "audio" / f"{name}.wav", seconds=2 + 0.25 * number, hertz=200 + 20 * number)
        crops = np.zeros((10, 16, 16, 3), np.uint8)
        crops[..., 0], crops[..., 2] = 10 * number, 200 - 10 * number
        (folder / "openface_face" / name).mkdir(parents=True)
        np.save(folder / "openface_face" / name / f"{name}.npy", crops)
    train, test = names[:num_train], names[num_train:]
    human = {name: ",".join(openset[name]) for name in names}
    tables = {
        "track2_train_ovmerd.csv": {"name": train, "openset": [human[name] for name in train]},
        "track2_train_mercaptionplus.csv": {
            "name": train,
            "openset": [f"[{', '.join(openset[name])}]" for name in train],
        },
        "track3_train_mercaptionplus.csv": {
            "name": train,
            "reason": [f"The voice sounds {openset[name][0]}." for name in train],
        },
        "test.csv": {"name": test, "openset": [human[name] for name in test]},
        "subtitle_chieng.csv": {
            "name": names,
            "chinese": [""] * len(names),
            "english": ["" if number == 1 else f"line {number}" for number in range(len(names))],
        },
    }
    for file, columns in tables.items():
        pd.DataFrame(columns).to_csv(folder / file, index=False)
    cues = [{"name": name, "cues": {"pitch": k / 10, "smile": -k / 10}} for k, name in enumerate(names)]
    (folder / "cues.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in cues), "utf-8")


@pytest.fixture(scope="session")
def tiny_data_root(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_data_root(folder, num_train=8, num_test=4)`` fills a data folder in the published layout.

    Clips ``sample_00`` and on: the first ``num_train`` are in the training files (OV-MERD and MER-Caption+), the
    others in ``test.csv``. Every clip has an mp4, a wav, face crops (BGR), a subtitle, a reason and cues.
    """
    templates: dict[tuple[int, int], Path] = {}

    def fill(folder: Path, num_train: int = 8, num_test: int = 4) -> Path:
        sizes = (num_train, num_test)
        if sizes not in templates:
            templates[sizes] = tmp_path_factory.mktemp("data_root")
            _fill_data_root(templates[sizes], *sizes)
        shutil.copytree(templates[sizes], folder, dirs_exist_ok=True)
        return folder

    return fill


@pytest.fixture(scope="session", autouse=True)
def _kept_configurations() -> Iterator[None]:
    from helpers.configs import keep_what_hydra_reads

    with pytest.MonkeyPatch.context() as patch:
        keep_what_hydra_reads(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Let nothing wait until it is safe from a loss of power, which no test brings about."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", connected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield
    event.remove(Engine, "connect", connected)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Simulate an accelerator, for tests in files of their own: ``*_on_device.py``.

    With ``AFFECTGPT_TEST_DEVICE=cuda`` it is the GPU, as `gpu-check` runs them.
    """
    from helpers.simulated_device import simulated_device

    if os.environ.get("AFFECTGPT_TEST_DEVICE") == "cuda":
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # convolutions are compared in single precision
        yield torch.device("cuda", 0)
        return

    with simulated_device(monkeypatch.setattr) as device:
        yield device
