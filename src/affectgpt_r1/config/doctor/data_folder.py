"""Tell what is in the data folder of a configuration, and everything that is wrong with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from affectgpt_r1.config.compose import instantiate
from affectgpt_r1.config.doctor.finding import Finding, State, faults_of
from affectgpt_r1.config.preflight import check_labels, check_validation
from affectgpt_r1.data.datamodule import ClipDataModule
from affectgpt_r1.data.folder_report import FolderReport, collected_warnings, report_folder
from affectgpt_r1.data.layouts.manifest import listing
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import DataError, LexiconError
from affectgpt_r1.policy.questions import LABEL_KINDS
from affectgpt_r1.types import UnreadableClip

GIB = 2**30
_BOM = b"\xef\xbb\xbf"


def look_at_data(config: DictConfig, num_decoded: int) -> tuple[list[Finding], int]:
    """Check everything that the run will read of its data folder.

    Args:
        config: Composed.
        num_decoded: See :func:`~affectgpt_r1.data.folder_report.report_folder`.

    Returns:
        What was found, and the number of clips that the run can read.
    """
    findings: list[Finding] = []
    num_clips = 0
    with tempfile.TemporaryDirectory() as folder, faults_of("data", findings):
        settings = OmegaConf.to_container(config.data, resolve=True)
        assert isinstance(settings, dict)
        if "prepared" in settings:  # links to the clips, which the run makes in its outputs
            settings["prepared"] = folder
        data: ClipDataModule = instantiate(settings, "data")
        root = Path(config.data.root)
        if not root.is_dir():
            return [*findings, Finding("data", "problem", f"{root}: no such folder", _how_to_get(config))], 0
        findings += _misplaced(root, data)
        report = report_folder(data, num_decoded)
        _check_labels(config, data, report)
        findings += [*_label_files(data, report), *_faults(report.faults), *_media(data, report)]
        findings += [Finding("data", "warning", line) for line in report.warnings]
        num_clips = len(data.media_states)
    return findings, num_clips


def _how_to_get(config: DictConfig) -> str:
    return "affectgpt-r1 render" if config.synthetic else "paths.data=FOLDER, the folder above video/"


def _misplaced(root: Path, data: ClipDataModule) -> list[Finding]:
    """Say where the label file is, if it is one folder deeper or higher than it should be."""
    file = data.files.train_labels
    if data.root != root or (root / file).exists():
        return []
    places = [*sorted(root.glob(f"*/{file}")), root.parent / file]
    found = next((place.parent for place in places if place.is_file()), None)
    return [] if found is None else [Finding("data", "problem", f"{file} is in {found}", f"paths.data={found}")]


def _label_files(data: ClipDataModule, report: FolderReport) -> Iterable[Finding]:
    shown = [(name, rows) for name, rows in report.splits._asdict().items() if rows or name != "supervised"]
    rows = ", ".join(f"{len(rows):,} {name}" for name, rows in shown)
    yield Finding("clips", "ok" if report.splits.train else "problem", f"{rows} with all their media, in {data.root}")
    named = [file for file in asdict(data.files).values() if file]
    for file in dict.fromkeys([*named, *data.seen_labels]):
        path = data.root / file
        if path.is_file() and _starts_with_bom(path):
            text = f"{path}: starts with a byte order mark (BOM), which is left out in reading; other programs may not"
            yield Finding("labels", "warning", text, f"sed -i '1s/^\\xef\\xbb\\xbf//' {path}")


def _starts_with_bom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_BOM)) == _BOM


def _faults(faults: Sequence[DataError]) -> Iterable[Finding]:
    """Yield one finding for each fault, and one for all rows of a file that have the same."""
    groups: dict[str, list[DataError]] = {}
    for fault in {str(fault): fault for fault in faults}.values():  # each split reads the subtitles
        groups.setdefault(fault.kind or str(fault), []).append(fault)
    for group in groups.values():
        items = tuple(item for fault in group for item in fault.items)
        alike = f" (and {listing(items[1:])} alike)" if len(group) > 1 else ""
        yield Finding("data", "problem", f"{group[0]}{alike}", items=items)


def _media(data: ClipDataModule, report: FolderReport) -> Iterable[Finding]:
    clips = len(data.media_states)
    if report.files:
        counts = ", ".join(f"{count:,} in {folder}/" for folder, count in report.files.items())
        yield Finding("media", "ok", f"{counts}, {report.num_bytes / GIB:.1f} GiB of {clips:,} clips")
    if "openface_face" not in report.files:
        needed = "video" in data.media.modalities and data.media.visual in ("face", "both")
        has = (data.root / "openface_face").is_dir()
        text = "there are face crops (openface_face/)" if has else "there are no face crops (openface_face/)"
        state: State = "problem" if needed and not has else "ok"
        yield Finding("faces", state, text, "data.visual=frame reads the mp4" if state == "problem" else "")
    yield from _unreadable(data, report)
    if len(report.crop_sizes) > 1:
        usual, *others = sorted(report.crop_sizes.items(), key=lambda size: -len(size[1]))
        files = [file for _, named in others for file in named]
        sizes = ", ".join(f"{height}x{width}" for (height, width), _ in others)
        text = (
            f"{len(files):,} files of face crops are of {sizes} pixels, and {len(usual[1]):,} of "
            f"{usual[0][0]}x{usual[0][1]}: {listing(files)}; all are scaled to data.image_size={data.media.image_size}"
        )
        yield Finding("faces", "warning", text, "crop them again with the same settings of OpenFace", tuple(files))


def _unreadable(data: ClipDataModule, report: FolderReport) -> Iterable[Finding]:
    clips = len(data.media_states)
    if report.num_decoded:
        text = f"{report.num_decoded - len(report.unreadable):,} of {report.num_decoded:,} decoded clips are readable"
        yield Finding("media", "ok", text)
    bad: list[UnreadableClip] = [*report.unreadable, *report.doubtful]
    if not bad:
        return
    limit = data.max_unreadable_fraction
    reasons = "; ".join(clip.reason for clip in bad[:5])
    rest = f" and {len(bad) - 5:,} more" if len(bad) > 5 else ""
    text = f"{len(bad):,} of {clips:,} clips cannot be read: {reasons}{rest}"
    state: State = "problem" if len(bad) > limit * clips else "warning"
    told = f"at most {limit:.1%} may be lost (data.max_unreadable_fraction): " if state == "problem" else ""
    remedy = f"{told}fetch or cut these files again, or take their rows out"
    yield Finding("media", state, text, remedy, tuple(f"{clip.name}: {clip.reason}" for clip in bad))


def _check_labels(config: DictConfig, data: ClipDataModule, report: FolderReport) -> None:
    """Apply the checks of a run that come after reading: clips to validate on, and labels that a wheel knows."""
    if not report.splits.train:  # the cause was told
        return
    data.splits = report.splits
    with collected_warnings(report.warnings):
        try:
            if not report.faults:  # which may have left none
                check_validation(data)
        except DataError as fault:
            report.faults.append(fault)
        if config.stage.name == "pretrain_encoders" or config.prompt.kind not in ("", *LABEL_KINDS):
            return
        with suppress(LexiconError):  # which is told elsewhere
            lexicon = load_lexicon(config.emotion.lexicon)
            check_labels(data, lexicon, tests=config.evaluate_after, on_fault=report.faults.append)
