"""Plan and make a data folder in the published layout of videos and tables as people keep them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from affectgpt_r1.data.layouts.manifest import listing
from affectgpt_r1.data.media.subtitles import SUBTITLE_SUFFIXES, read_subtitles
from affectgpt_r1.data.prepare.draw_splits import draw_splits
from affectgpt_r1.data.prepare.extract import (
    Extracted,
    Extraction,
    extract_all,
    is_current,
    read_record,
    write_changed,
    write_record,
)
from affectgpt_r1.data.prepare.filter_labels import Filters, disagreements, unusual_lengths
from affectgpt_r1.data.prepare.find_clips import Clip, find_clips, same_bytes
from affectgpt_r1.data.prepare.label_tables import (
    SPEAKER,
    SPLIT,
    SPLITS,
    SUBTITLE,
    Facts,
    Tables,
    clean_labels,
    find_tables,
    numbers_only,
    read_tables,
)
from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.io.clean_text import counted
from affectgpt_r1.metrics.prediction_rows import FREE_TEXT, LABELS
from affectgpt_r1.types import MODALITIES, Modality, Visual

LABEL_FILES = {split: f"labels_{split}.csv" for split in SPLITS}
REASONS, SUBTITLES, UNLABELLED, REPORT = "reasons.csv", "subtitles.csv", "unlabelled.csv", "report.csv"
ENOUGH = 0.5  # of the clips; a modality that fewer have is switched off, rather than the others left out

NEEDS: Mapping[Modality, str] = {"video": "no pictures", "audio": "no sound", "text": ""}


@dataclass(frozen=True)
class Wishes:
    """What the user asks for."""

    data: Path
    output: Path | None = None  # None only looks
    tables: tuple[Path, ...] = ()  # none: those below ``data``
    columns: Mapping[str, str] = field(default_factory=dict)
    label_by_folder: bool = False  # where no table labels a clip, its folder's name does
    modalities: tuple[Modality, ...] = ()  # none: those that enough clips have
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    extraction: Extraction = field(default_factory=Extraction)
    filters: Filters = field(default_factory=Filters)  # with agreement, ``tables`` are those of the labellers


@dataclass
class Plan:
    """What was found, and what of it is to be done."""

    wishes: Wishes
    clips: list[Clip]
    tables: Tables
    known: dict[str, Extracted]  # what an earlier run made, and is still true
    notes: list[str] = field(default_factory=list)
    others: list[dict[str, str]] = field(default_factory=list)  # labels by other labellers than the first

    @property
    def to_do(self) -> list[Clip]:
        """Return the clips of which something is to be made."""
        return [clip for clip in self.clips if clip.name not in self.known]

    @property
    def facts(self) -> dict[str, Facts]:
        """Return what tables, folders and subtitle files say, by clip name."""
        return self.tables.facts


@dataclass
class Prepared:
    """What was made."""

    splits: dict[str, list[str]]  # clip names
    modalities: tuple[Modality, ...]
    visual: Visual
    is_detected: bool  # whether faces were looked for
    has_reasons: bool
    has_subtitles: bool
    left_out: dict[str, str]  # reasons by clip name
    unlabelled: list[str]
    states: dict[str, Extracted]
    written: list[str] = field(default_factory=list)  # files that are new or have changed
    notes: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # of training clips


def plan(wishes: Wishes) -> Plan:
    """Look at the folder, read its tables, and compare with what an earlier run made; nothing is decoded or written.

    Raises:
        DataError: There is nothing to prepare, or a table contradicts itself.
        ConfigError: The output would overwrite something else.
    """
    if wishes.output is not None:
        _check_output(wishes.data, wishes.output)
    clips = find_clips(wishes.data, wishes.output)
    found = [] if wishes.tables else find_tables(wishes.data, wishes.output)
    labellers = wishes.tables if wishes.filters.agreement else ()
    if wishes.filters.agreement and len(labellers) < 2:
        raise ConfigError("--agree compares labellers: give two or more files by --labels, the one to keep first")
    tables = read_tables(clips, wishes.tables[:1] if labellers else wishes.tables, found, wishes.columns)
    result = Plan(wishes, clips, tables, {})
    for path in labellers[1:]:
        other = read_tables(clips, [path], [], wishes.columns)
        tables.used += [f"{line} (to compare)" for line in other.used]
        result.others.append({name: fact.values.get(LABELS, "") for name, fact in other.facts.items()})
    for clip in clips:
        facts = tables.facts.setdefault(clip.name, Facts())
        _add_from_places(result, clip, facts)
    if numbers_only(tables.facts.values()):
        raise DataError(
            f"{wishes.data}: all labels are numbers, as classes are; write their words into a column, and name it by "
            "--columns openset=COLUMN"
        )
    if wishes.output is not None:
        known = read_record(wishes.output)
        result.known = {
            clip.name: known[clip.name]
            for clip in clips
            if is_current(wishes.output, clip, wishes.extraction, known.get(clip.name))
        }
    return result


def prepare(found: Plan, workers: int, advance: Callable[[Extracted], None] = lambda state: None) -> Prepared:
    """Make what is to be done, and write the label files.

    Args:
        found: From :func:`plan`, with an output.
        workers: Processes.
        advance: Called with each clip that was made.

    Raises:
        DataError: No clip can be read.
    """
    output, wishes = found.wishes.output, found.wishes
    assert output is not None
    earlier = _earlier_splits(output)
    states = dict(found.known)
    to_do = found.to_do
    if to_do:
        write_record(output, read_record(output).values())  # without a line that a killed run left half written
        for state in extract_all(output, to_do, wishes.extraction, workers):
            states[state.name] = state
            advance(state)
    prepared = _choose(found, states)
    written = _write(output, found, prepared, earlier)
    write_record(output, [states[clip.name] for clip in found.clips])
    prepared.written = written
    if not any(not state.fault for state in states.values()):
        first = next(iter(states.values()))
        raise DataError(f"{wishes.data}: none of {len(states)} files can be read; the first: {first.fault}")
    return prepared


def _check_output(data: Path, output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output}: is a file; name a folder")
    if output.resolve() == data.resolve() or data.resolve().is_relative_to(output.resolve()):
        raise ConfigError(
            f"--output {output}: holds the videos themselves; name another folder, which may be in {data}"
        )
    if output.is_dir() and any(output.iterdir()) and not (output / "prepared.jsonl").exists():
        raise ConfigError(f"--output {output}: is not empty and was not made by `prepare`; name another folder")


def _add_from_places(found: Plan, clip: Clip, facts: Facts) -> None:
    """Add what subtitle files next to a clip and the names of its folders say, where no table does."""
    folders = PurePosixPath(clip.place).parent.parts
    if SPLIT not in facts.values:
        named = (split for part in folders for split, forms in SPLITS.items() if part.lower() in forms)
        if split := next(named, None):
            facts.values[SPLIT] = split
    if LABELS not in facts.values and found.wishes.label_by_folder and folders:
        facts.values[LABELS] = clean_labels(folders[-1])
    media = clip.video or clip.sound
    assert media is not None
    if SUBTITLE in facts.values:
        return
    for suffix in SUBTITLE_SUFFIXES:
        for path in (media.with_suffix(suffix), media.with_suffix(suffix.upper())):
            if not path.is_file():
                continue
            try:
                facts.values[SUBTITLE] = read_subtitles(path)
            except DataError as error:
                found.notes.append(f"{error}; the clip is taken without what is said")
            return


def _choose(found: Plan, states: Mapping[str, Extracted]) -> Prepared:
    """Choose modalities, and leave out the clips that lack one."""
    readable = {name: state for name, state in states.items() if not state.fault}
    has: dict[str, Callable[[Extracted], bool]] = {
        "video": lambda state: state.frames > 0,
        "audio": lambda state: state.seconds > 0,
        "text": lambda state: bool(_said(found, state)),
    }
    number = {modality: sum(map(test, readable.values())) for modality, test in has.items()}
    asked, notes = found.wishes.modalities, []
    chosen: list[Modality] = []
    for modality in MODALITIES:
        # What is said may be empty; of text, one clip with words is enough.
        enough = number[modality] > 0 if modality == "text" else number[modality] >= ENOUGH * len(readable) > 0
        if modality in asked or (not asked and enough):
            chosen.append(modality)
        if not asked and not enough and number[modality]:
            notes.append(f"{modality} is off: {number[modality]} of {len(readable)} clips have it; see --modalities")
    with_face = sum(state.faces > 0 for state in readable.values())
    is_face = found.wishes.extraction.faces != "none" and with_face >= ENOUGH * number["video"] > 0
    if found.wishes.extraction.faces != "none" and not is_face and "video" in chosen:
        notes.append(f"data.visual=frame: a face was found in {with_face} of {number['video']} videos only")
    left_out = {name: state.fault for name, state in states.items() if state.fault}
    for name, state in readable.items():
        lacking = [NEEDS[modality] for modality in chosen if modality != "text" and not has[modality](state)]
        if is_face and "video" in chosen and state.frames and not state.faces:
            lacking.append(f"no face in {counted(state.frames, 'frame', 'frames')}")
        if lacking:
            left_out[name] = ", ".join(lacking)
    return Prepared(
        splits={},
        modalities=tuple(chosen),
        visual="face" if is_face else "frame",
        is_detected=found.wishes.extraction.faces == "detect",
        has_reasons=False,
        has_subtitles="text" in chosen,
        left_out=left_out,
        unlabelled=[],
        states=dict(states),
        notes=notes,
    )


def _said(found: Plan, state: Extracted) -> str:
    return found.facts[state.name].values.get(SUBTITLE, "") or state.text


def _write(output: Path, found: Plan, prepared: Prepared, earlier: Mapping[str, str]) -> list[str]:
    """Draw the splits, and write every table that has changed."""
    facts = found.facts
    _filter(found, prepared)
    names = [clip.name for clip in found.clips if clip.name not in prepared.left_out]
    labelled = [name for name in names if facts[name].values.get(LABELS)]
    prepared.unlabelled = [name for name in names if name not in set(labelled)]
    copies = same_bytes([clip for clip in found.clips if clip.name in set(labelled)])
    if copies:
        shown = _some(f"{name} is {first}" for name, first in copies.items())
        prepared.notes.append(f"{counted(len(copies), 'clip has', 'clips have')} the bytes of another: {shown}")
    split_of = _splits(found.wishes, {name: facts[name] for name in labelled}, earlier, copies)
    prepared.splits = {split: [name for name in labelled if split_of[name] == split] for split in SPLITS}
    train = prepared.splits["train"]
    reasons = {name: facts[name].values.get(FREE_TEXT, "") for name in train}
    with_reason = sum(map(bool, reasons.values()))
    prepared.has_reasons = 0 < with_reason == len(train)
    if 0 < with_reason < len(train):
        prepared.notes.append(
            f"{with_reason} of {len(train)} training clips have a reason: none is used, for prompt=think needs all"
        )
    said = {name: _said(found, prepared.states[name]) for name in names}
    prepared.texts = [
        text for name in train for text in (said[name], facts[name].values[LABELS], reasons[name]) if text
    ]
    tables: dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]] = {
        **{
            file: (("name", "openset"), [(name, facts[name].values[LABELS]) for name in prepared.splits[split]])
            for split, file in LABEL_FILES.items()
        },
        REASONS: (("name", "reason"), list(reasons.items()) if prepared.has_reasons else []),
        SUBTITLES: (("name", "english"), list(said.items()) if prepared.has_subtitles else []),
        UNLABELLED: (("name",), [(name,) for name in prepared.unlabelled]),
        REPORT: (
            ("name", "file", "split", "labels", "frames", "faces", "people", "seconds", "characters", "left_out"),
            [_report_row(found, prepared, clip, split_of) for clip in found.clips],
        ),
    }
    written = []
    for file, (header, rows) in tables.items():
        path = output / file
        if not rows and path.exists():
            path.unlink()  # of an earlier run, whose clips are not these
            written.append(file)
        text = pd.DataFrame(rows, columns=list(header)).to_csv(index=False, lineterminator="\n")
        if rows and write_changed(path, text):
            written.append(file)
    return written


def _filter(found: Plan, prepared: Prepared) -> None:
    """Leave out clips whose labels a filter doubts, but none that a table or folder sets apart for evaluation."""
    filters, facts = found.wishes.filters, found.facts
    labels = {
        clip.name: facts[clip.name].values[LABELS]
        for clip in found.clips
        if clip.name not in prepared.left_out
        and facts[clip.name].values.get(LABELS)
        and facts[clip.name].values.get(SPLIT, "train") == "train"
    }
    faults: dict[str, str] = {}
    if filters.trim:
        faults |= unusual_lengths({name: facts[name].values.get(FREE_TEXT, "") for name in labels}, filters.trim)
    if filters.faces:
        states = {name: prepared.states[name] for name in labels if prepared.states[name].frames}
        unseen = {name: state for name, state in states.items() if state.faces < filters.faces * state.frames}
        faults |= {name: f"a face in {state.faces} of {state.frames} frames" for name, state in unseen.items()}
    if filters.agreement:
        faults |= disagreements(labels, found.others, filters.agreement)
    prepared.left_out |= faults


def _report_row(found: Plan, prepared: Prepared, clip: Clip, split_of: Mapping[str, str]) -> tuple[str, ...]:
    state = prepared.states[clip.name]
    labels = found.facts[clip.name].values.get(LABELS, "")
    left_out = prepared.left_out.get(clip.name, "")
    return (
        clip.name,
        str(clip.video or clip.sound),
        split_of.get(clip.name, ""),
        labels,
        *map(str, (state.frames, state.faces, state.people, state.seconds, len(_said(found, state)))),
        left_out,
    )


def _splits(
    wishes: Wishes, facts: Mapping[str, Facts], earlier: Mapping[str, str], copies: Mapping[str, str]
) -> dict[str, str]:
    """Return every labelled clip's split: the user's where a table or folder says it, else drawn by speaker.

    A copy of a clip is drawn with it: in two splits they would be a leak, which training refuses.
    """
    said = {name: fact.values[SPLIT] for name, fact in facts.items() if SPLIT in fact.values}
    origin = {name: copies.get(name, name) for name in facts}
    groups = {name: facts[first].values.get(SPEAKER, first) for name, first in origin.items()}
    fractions = {"test": wishes.test_fraction, "validation": wishes.val_fraction}
    missing = {split: share for split, share in fractions.items() if split not in said.values()}
    if said:  # what the user calls training may be divided further, for a split that is not there
        fixed = {name: split for name, split in said.items() if split != "train"}
        rest = {name: group for name, group in groups.items() if name not in fixed}
        missing.pop("test", None)  # a user who splits has no test clips on purpose, or keeps them elsewhere
    else:
        fixed, rest = {}, groups
    known = {name: split for name, split in earlier.items() if name in rest and split in (*missing, "train")}
    return {**fixed, **draw_splits(rest, known, missing)}


def _earlier_splits(output: Path) -> dict[str, str]:
    """Return the splits of an earlier run, so that a clip stays where it was."""
    splits = {}
    for split, file in LABEL_FILES.items():
        if (output / file).is_file():
            table = pd.read_csv(output / file, dtype=str, keep_default_na=False)
            splits.update(dict.fromkeys(table["name"], split))
    return splits


def describe(found: Plan) -> list[str]:
    """Return lines on what was found, for a reader who has not decided yet."""
    clips, facts = found.clips, found.facts
    suffixes = Counter((clip.video or clip.sound or Path()).suffix.lower() for clip in clips)
    kinds = ", ".join(f"{number} {suffix}" for suffix, number in suffixes.most_common())
    own_sound = sum(clip.video is not None and clip.sound is not None for clip in clips)
    own = f", {own_sound} with sound in a file of its own" if own_sound else ""
    lines = [f"{counted(len(clips), 'clip', 'clips')} ({kinds}){own}"]
    renamed = [clip for clip in clips if clip.name != unicodedata.normalize("NFC", PurePosixPath(clip.place).name)]
    if renamed:
        lines.append(f"{len(renamed)} are renamed: {_some(f'{clip.place} is {clip.name}' for clip in renamed)}")
    lines += [f"table {line}" for line in found.tables.used]
    lines += [f"not a table of labels: {line}" for line in found.tables.ignored]
    if found.tables.unmatched:
        number = len(found.tables.unmatched)
        lines.append(f"{counted(number, 'row has', 'rows have')} no clip: {_some(found.tables.unmatched)}")
    for role, what in ((LABELS, "labels"), (FREE_TEXT, "a reason"), (SUBTITLE, "what is said"), (SPEAKER, "a speaker")):
        number = sum(role in fact.values for fact in facts.values())
        if number or role == LABELS:
            lines.append(f"{number} of {len(clips)} clips have {what}")
    said = Counter(fact.values[SPLIT] for fact in facts.values() if SPLIT in fact.values)
    if said:
        lines.append(f"splits as given: {', '.join(f'{number} {split}' for split, number in said.items())}")
    return [*lines, *found.notes]


def outcome(prepared: Prepared) -> list[str]:
    """Return lines on what was made."""
    states = prepared.states.values()
    frames, faces = (sum(getattr(state, name) for state in states) for name in ("frames", "faces"))
    lines = [", ".join(f"{len(names)} {split}" for split, names in prepared.splits.items() if names) or "no labels"]
    if prepared.unlabelled:
        lines[0] += f", {len(prepared.unlabelled)} without labels ({UNLABELLED})"
    lines.append(f"modalities {', '.join(prepared.modalities)}; data.visual={prepared.visual}")
    if prepared.is_detected:
        several = sum(state.people > 1 for state in states)
        others = f"; several people in {counted(several, 'clip', 'clips')}, of whom one is cropped" if several else ""
        lines.append(f"a face in {faces:,} of {frames:,} frames ({faces / max(frames, 1):.1%}){others}")
    if prepared.left_out:
        reasons = Counter(prepared.left_out.values())
        shown = "; ".join(f"{number} with {reason}" for reason, number in reasons.most_common(5))
        lines.append(f"{counted(len(prepared.left_out), 'clip is', 'clips are')} left out, see {REPORT}: {shown}")
    return [*lines, *prepared.notes]


def _some(items: Iterable[str]) -> str:
    return listing(items)


def workers_for(clips: Sequence[Clip], most: int) -> int:
    """Return how many processes are worth their start of a few seconds each."""
    return max(1, min(most, len(clips) // 8))
