"""Render a planned set to disk atomically."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from filelock import FileLock

from affectgpt_r1.data.synthetic.clip_plan import ClipPlan, plan_clips
from affectgpt_r1.data.synthetic.face import draw_face, face_crops
from affectgpt_r1.data.synthetic.labels import digest, label_files
from affectgpt_r1.data.synthetic.media_files import write_face_crops, write_mp4, write_wav
from affectgpt_r1.data.synthetic.settings import SAMPLE_RATE, SPLITS, RenderConfig
from affectgpt_r1.data.synthetic.voice import render_voice
from affectgpt_r1.errors import DataError
from affectgpt_r1.io.files import clear_write_errors

STAMP_FILE = "demo.json"
VERSION = 1  # raise it when the rendering changes, so that old folders are rendered again

_MEDIA_STREAM = 104_729  # keeps the renderer's draws apart from the plan's
_ELSEWHERE = "choose another paths.data="
_NEW, _OLD = "new", "old"


def render_demo(root: Path, settings: RenderConfig, *, workers: int = 2) -> None:
    """Render the synthetic clips into the published layout below ``root``.

    A folder that already holds the same set is kept; one that holds another synthetic set is replaced. The set is built
    next to ``root`` and moved there when it is complete.

    Args:
        root: Folder to fill, such as ``data/synthetic``.
        settings: What to render; label files depend on nothing else.
        workers: Processes; 1 renders in this one. The result does not depend on it.

    Raises:
        DataError: ``root`` holds something that this function did not write.
    """
    root = root.resolve()  # it may be a link to a larger disk, which stays one
    plans = plan_clips(settings)
    files = label_files(plans)
    stamp = _stamp(settings, files)
    with clear_write_errors(root, _ELSEWHERE):
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root.parent / f".{root.name}.lock").acquire()
    with lock:
        if is_rendered(root, plans, {**files, STAMP_FILE: stamp}):
            return
        _refuse_foreign(root)
        with clear_write_errors(root, _ELSEWHERE), _partial_folder(root) as partial:
            _render_clips(partial / _NEW, plans, settings, workers)
            for name, content in {**files, STAMP_FILE: stamp}.items():
                (partial / _NEW / name).write_text(content, encoding="utf-8", newline="")
            if root.exists():
                os.replace(root, partial / _OLD)  # removed there: a kill leaves no half of it in the set's place
            os.replace(partial / _NEW, root)


def is_rendered(root: Path, plans: list[ClipPlan], files: dict[str, str]) -> bool:
    """Return whether ``root`` holds this set with all its media; ``files`` are its text files, as they should be."""
    for name, content in files.items():
        if not (root / name).is_file() or (root / name).read_bytes() != content.encode():
            return False
    return all(file.exists() for plan in plans for file in _media_files(root, plan.name))


def render_clip(root: Path, plan: ClipPlan, settings: RenderConfig) -> None:
    """Render the mp4, the wav and the face crops of one clip."""
    key = (settings.seed, _MEDIA_STREAM, SPLITS.index(plan.split), plan.number)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
    voice = render_voice(plan.identity, plan.cues, plan.seconds, generator)
    moments = np.arange(int(plan.seconds * settings.fps)) * SAMPLE_RATE // settings.fps
    frames = draw_face(plan.identity, plan.cues, voice.syllables[moments], settings.fps, settings.frame_size, generator)
    video, audio, faces = _media_files(root, plan.name)
    write_mp4(video, frames, voice.waveform, settings.fps)
    write_wav(audio, voice.waveform)
    write_face_crops(faces, face_crops(frames))


def _media_files(root: Path, name: str) -> tuple[Path, Path, Path]:
    return (
        root / "video" / f"{name}.mp4",
        root / "audio" / f"{name}.wav",
        root / "openface_face" / name / f"{name}.npy",
    )


def _stamp(settings: RenderConfig, files: dict[str, str]) -> str:
    content = {
        "synthetic": True,
        "version": VERSION,
        "settings": asdict(settings),
        "labels_sha256": digest(files),
    }
    return json.dumps(content, indent=2) + "\n"


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not (root / STAMP_FILE).exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"{root} exists and is not a synthetic set (it has no {STAMP_FILE}); choose another folder or empty it"
        )


@contextmanager
def _partial_folder(root: Path) -> Iterator[Path]:
    """Make a folder next to ``root`` for the new and the old set; clear what an interrupted render left there."""
    partial = root.parent / f".{root.name}.partial"
    if partial.exists():
        if not {path.name for path in partial.iterdir()} <= {_NEW, _OLD}:
            raise DataError(f"{partial} is in the way and was not written by a demo render; remove it")
        shutil.rmtree(partial)
    try:
        for name in ("video", "audio", "openface_face"):
            (partial / _NEW / name).mkdir(parents=True)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _render_clips(root: Path, plans: list[ClipPlan], settings: RenderConfig, workers: int) -> None:
    if workers <= 1:
        _render_plans(root, plans, settings)
        return
    parts = [plans[start::workers] for start in range(workers)]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(_render_plans, root, part, settings) for part in parts]:
            done.result()


def _render_plans(root: Path, plans: list[ClipPlan], settings: RenderConfig) -> None:
    for plan in plans:
        render_clip(root, plan, settings)
