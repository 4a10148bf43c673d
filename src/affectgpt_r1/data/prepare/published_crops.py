"""Add the face crops that a data folder in the published layout lacks, as MER2026's ``samplenew3_*`` do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

from affectgpt_r1.data.layouts.manifest import read_table
from affectgpt_r1.data.layouts.mer import FACE_PLACES, VIDEO_PLACES, face_file, is_safe_name, video_file
from affectgpt_r1.data.prepare.crops import Crops, Faces, write_crops
from affectgpt_r1.data.prepare.extract import use_one_thread
from affectgpt_r1.errors import DataError, MediaError


def clips_without_crops(root: Path, names: str | None) -> tuple[list[str], int]:
    """Return the clips that have a video and no crops, and how many have crops.

    Args:
        root: Data folder.
        names: Table in it whose clips are meant; None for every video.

    Raises:
        DataError: There is no video, or a clip of the table has none.
    """
    if names is None:
        folders = {PurePosixPath(place).parent.as_posix(): PurePosixPath(place).suffix for place in VIDEO_PLACES}
        clips = [path.stem for folder, suffix in folders.items() for path in sorted((root / folder).glob(f"*{suffix}"))]
        clips = [name for name in dict.fromkeys(clips) if is_safe_name(name)]
    else:
        clips = read_table(root / names)["name"].tolist()
    if not clips:
        raise DataError(f"{root}: has no videos at {VIDEO_PLACES[0].format('<name>')}; `prepare` takes other folders")
    if lacking := [name for name in clips if not video_file(root, name).exists()]:
        raise DataError(f"{root}: {len(lacking)} of {len(clips)} clips have no video, such as {lacking[0]}")
    without = [name for name in clips if not face_file(root, name).exists()]
    return without, len(clips) - len(without)


def crop_clips(
    root: Path, output: Path, names: Sequence[str], count: int, faces: Faces, workers: int
) -> Iterator[tuple[str, Crops | str]]:
    """Yield what was found in each clip, or why its video cannot be read; crops appear whole, so that a run resumes."""
    jobs = [(video_file(root, name), output / FACE_PLACES[0].format(name), count, faces) for name in names]
    if workers <= 1:
        yield from ((name, _crop(*job)) for name, job in zip(names, jobs, strict=True))
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), use_one_thread) as pool:
        futures = {pool.submit(_crop, *job): name for name, job in zip(names, jobs, strict=True)}
        try:
            yield from ((futures[done], done.result()) for done in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)


def _crop(video: Path, target: Path, count: int, faces: Faces) -> Crops | str:
    try:
        return write_crops(video, target, count, faces)
    except MediaError as error:
        return str(error)
