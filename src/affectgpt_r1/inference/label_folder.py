"""Label the clips of a data folder, read as in training, face crops among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape
from rich.progress import track
from torch.utils.data import DataLoader

from affectgpt_r1.data.collate import batch_to_device, collate
from affectgpt_r1.data.dataset import ClipDataset
from affectgpt_r1.data.layouts.manifest import ManifestRow, read_columns, read_table
from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS, read_unibench_set
from affectgpt_r1.data.layouts.spoken_text import limited_subtitles
from affectgpt_r1.data.media_index import index_media
from affectgpt_r1.data.samplers import SampleKey
from affectgpt_r1.data.unreadable import UnreadableClips
from affectgpt_r1.emotion.parsing import parse_labels
from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.inference.label_file import Predictor
from affectgpt_r1.io.clean_text import json_line, printable
from affectgpt_r1.io.files import line_writer
from affectgpt_r1.training.completions import parse_rollout
from affectgpt_r1.training.rollout_buffer import without_long_prompts


class FolderTask(NamedTuple):
    """Clips of one data folder, and the ``.jsonl`` that takes their labels."""

    output: Path
    folder: Path
    rows: list[ManifestRow]


def folder_task(data: Path, names: str, subtitle: str, output: Path) -> FolderTask:
    """Find the clips that a CSV file of a data folder names, and their labels where it has some.

    ``subtitle`` is ``FILE:COLUMN`` in the folder, ``""`` for none.

    Raises:
        ConfigError: ``output`` does not end in ``.jsonl``.
        DataError: A file is at fault, or has no row for a clip.
    """
    if output.suffix != ".jsonl":
        raise ConfigError(f"--output {output}: give a file that ends in .jsonl")
    table = read_table(data / names)
    clips: list[str] = table["name"].tolist()
    file, _, column = subtitle.partition(":")
    said = read_columns(data / file, column or "english") if file else dict.fromkeys(clips, "")
    if lacking := [clip for clip in clips if clip not in said]:
        raise DataError(f"{data / file}: has no row for {len(lacking)} clips, such as {lacking[0]}")
    said = limited_subtitles(data / file, said, clips)
    labels = [parse_labels(cell) for cell in table.get("openset", [""] * len(clips))]
    rows = [
        ManifestRow(clip, words, "", said[clip], row)
        for row, clip, words in zip(table.index, clips, labels, strict=True)
    ]
    return FolderTask(output, data, rows)


def unibench_tasks(data: Path, sets: Sequence[str] | None, output: Path) -> list[FolderTask]:
    """Find the test clips of MER-UniBench's sets below a folder; None takes the sets that are there.

    Raises:
        ConfigError: A set is unknown.
        DataError: A file is at fault, or there is no set.
    """
    if unknown := [name for name in sets or () if name not in LAYOUTS]:
        raise ConfigError(f"--sets {unknown[0]}: give some of {', '.join(LAYOUTS)}")
    sets = sets or [name for name, layout in LAYOUTS.items() if (data / layout.folder).is_dir()]
    if not sets:
        raise DataError(f"{data}: holds none of {', '.join(layout.folder for layout in LAYOUTS.values())}")
    tasks = []
    for name in sets:
        folder = data / LAYOUTS[name].folder
        clips = read_unibench_set(folder, name)
        said: Mapping[str, str] = clips.transcription or {}
        rows = [ManifestRow(clip, (), "", said[clip], row) for row, clip in enumerate(clips.names, start=1)]
        tasks.append(FolderTask(output / f"{name}.jsonl", folder, rows))
    return tasks


def label_folders(
    predictor: Predictor, tasks: Sequence[FolderTask], *, batch_size: int, num_workers: int, say: Callable[[str], None]
) -> int:
    """Label the clips of every task, and return how many could not be read.

    Args:
        predictor: The policy and how its clips are read.
        tasks: What to label.
        batch_size: Clips that are labelled at once.
        num_workers: Decoding processes.
        say: Prints how many clips were labelled, and why the others were not.
    """
    media = predictor.media
    for task in tasks:  # a missing file is named before the first clip is labelled
        index_media(task.rows, task.folder, media.modalities, media.visual)
    unreadable = UnreadableClips()
    for task in tasks:
        count = 0
        with line_writer(task.output) as write_line:
            for row in _labelled_rows(predictor, task, batch_size, num_workers, unreadable):
                write_line(json_line(row))  # as it comes, so that Ctrl-C keeps it
                count += 1
        say(f"{task.output}: {count} of {len(task.rows)} clips are answered")
    for name, reason, _ in unreadable.rows():
        say(f"{name}: {reason}")
    return unreadable.count


def _labelled_rows(
    predictor: Predictor, task: FolderTask, batch_size: int, num_workers: int, unreadable: UnreadableClips
) -> Iterator[Mapping[str, Any]]:
    """Yield ``name``, ``openset`` (the labels), ``reasoning`` and ``completion`` of each clip that could be read."""
    policy = predictor.policy
    loader = DataLoader(
        ClipDataset(task.rows, task.folder, predictor.media, seed=0),
        sampler=[SampleKey(index, epoch=0) for index in range(len(task.rows))],
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=collate,
    )
    for read in track(loader, escape(printable(task.folder.name)), transient=True):
        batch = without_long_prompts(policy, read)
        unreadable.add_batch(batch)
        if len(batch) == 0:
            continue
        embedded = policy.with_features(batch_to_device(batch, policy.device))
        rollout = policy.generate(embedded, 1, predictor.sampling)
        kind = policy.template.kind
        sure = predictor.sampled_fractions(embedded) if predictor.num_samples else [None] * len(batch)
        answers = parse_rollout(rollout, batch.names, enable_thinking=policy.enable_thinking, kind=kind)
        for answer, confidence in zip(answers, sure, strict=True):
            yield {
                "name": answer.clip,
                "openset": list(answer.labels),
                "reasoning": answer.reasoning,
                "completion": answer.text,
                **predictor.provenance,
                **({} if confidence is None else {"confidence": confidence}),
            }
