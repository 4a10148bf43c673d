"""Answer the clips of a data folder: ``affectgpt-r1 answer --checkpoint C --data FOLDER --names FILE --output FILE``.

Media are read as in training, face crops among them, where ``predict`` reads any video and crops faces itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affectgpt_r1.cli.command import run_command
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.inference.load_policy import add_policy_options, load_predictor
from affectgpt_r1.io.clean_text import json_line, printable
from affectgpt_r1.io.files import line_writer

if TYPE_CHECKING:
    from affectgpt_r1.data.layouts.manifest import ManifestRow
    from affectgpt_r1.data.unreadable import UnreadableClips
    from affectgpt_r1.inference.label_file import Predictor

SUBTITLES = "subtitle_chieng.csv:english"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Raises:
        SystemExit: With code 2 after bad input, 1 if a clip could not be read.
    """
    if run_command(_parser(), answer, arguments):
        raise SystemExit(1)


def answer(options: argparse.Namespace) -> int:
    """Answer the clips that ``--names`` lists, or the test clips of MER-UniBench's sets below ``--data``.

    Args:
        options: See ``--help``.

    Returns:
        How many clips could not be read; they are named on the console.

    Raises:
        AffectGPTError: A file, a set or the checkpoint is at fault.
    """
    from affectgpt_r1.cli.scoring import report_console
    from affectgpt_r1.data.media_index import index_media
    from affectgpt_r1.data.unreadable import UnreadableClips

    tasks = _tasks(options)  # label files are read before a checkpoint is loaded
    predictor = load_predictor(options)
    media = predictor.media
    for _, folder, rows in tasks:
        index_media(rows, folder, media.modalities, media.visual)
    console, skipped = report_console(), UnreadableClips()
    for output, folder, rows in tasks:
        answered = _write(output, answered_rows(predictor, folder, rows, options, skipped))
        console.print(f"{output}: {answered} of {len(rows)} clips are answered")
    for name, reason, _ in skipped.rows():
        console.print(f"{name}: {reason}")
    return skipped.count


def answered_rows(
    predictor: Predictor,
    folder: Path,
    rows: Sequence[ManifestRow],
    options: argparse.Namespace,
    skipped: UnreadableClips,
) -> Iterator[Mapping[str, Any]]:
    """Greedy answers, batch by batch.

    Args:
        predictor: The policy and how its clips are read.
        folder: Data folder.
        rows: The clips.
        options: With ``batch_size`` and ``num_workers``.
        skipped: Counts the clips that could not be read.

    Yields:
        ``name``, ``openset`` (the labels), ``reasoning`` and ``completion`` of each clip that could be read.
    """
    from rich.markup import escape
    from rich.progress import track
    from torch.utils.data import DataLoader

    from affectgpt_r1.data.collate import batch_to_device, collate
    from affectgpt_r1.data.dataset import ClipDataset
    from affectgpt_r1.data.samplers import SampleKey
    from affectgpt_r1.training.completions import parse_rollout
    from affectgpt_r1.training.rollout_buffer import without_long_prompts

    policy = predictor.policy
    loader = DataLoader(
        ClipDataset(rows, folder, predictor.media, seed=0),
        sampler=[SampleKey(index, epoch=0) for index in range(len(rows))],
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        collate_fn=collate,
    )
    for read in track(loader, escape(printable(folder.name)), transient=True):
        batch = without_long_prompts(policy, read)
        skipped.add_batch(batch)
        if len(batch) == 0:
            continue
        embedded = policy.with_features(batch_to_device(batch, policy.device))
        rollout = policy.generate(embedded, 1, predictor.sampling)
        kind = policy.template.kind
        for one in parse_rollout(rollout, batch.names, enable_thinking=policy.enable_thinking, kind=kind):
            yield {"name": one.clip, "openset": list(one.labels), "reasoning": one.reasoning, "completion": one.text}


def _tasks(options: argparse.Namespace) -> list[tuple[Path, Path, list[ManifestRow]]]:
    """Output file, data folder and clips of each set."""
    from affectgpt_r1.data.layouts.manifest import ManifestRow, read_columns, read_table
    from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS, read_unibench_set
    from affectgpt_r1.data.layouts.spoken_text import limited_subtitles
    from affectgpt_r1.errors import DataError

    if options.names is None:
        chosen = options.sets or [name for name, layout in LAYOUTS.items() if (options.data / layout.folder).is_dir()]
        if not chosen:
            raise DataError(f"{options.data}: holds none of {', '.join(one.folder for one in LAYOUTS.values())}")
        tasks = []
        for name in chosen:
            folder = options.data / LAYOUTS[name].folder
            clips = read_unibench_set(folder, name)
            said: Mapping[str, str] = clips.transcription or {}
            rows = [ManifestRow(clip, (), "", said[clip], row) for row, clip in enumerate(clips.names, start=1)]
            tasks.append((options.output / f"{name}.jsonl", folder, rows))
        return tasks
    if options.output.suffix != ".jsonl":
        raise ConfigError(f"--output {options.output}: give a file that ends in .jsonl")
    table = read_table(options.data / options.names)
    names: list[str] = table["name"].tolist()
    file, _, column = options.subtitles.partition(":")
    said = read_columns(options.data / file, column or "english") if file else dict.fromkeys(names, "")
    if lacking := [name for name in names if name not in said]:
        raise DataError(f"{options.data / file}: has no row for {len(lacking)} clips, such as {lacking[0]}")
    said = limited_subtitles(options.data / file, said, names)
    rows = [ManifestRow(name, (), "", said[name], row) for row, name in zip(table.index, names, strict=True)]
    return [(options.output, options.data, rows)]


def _write(path: Path, rows: Iterator[Mapping[str, Any]]) -> int:
    """Write JSON lines as they come, so that Ctrl-C keeps them; returns how many."""
    count = 0
    with line_writer(path) as write_line:
        for row in rows:
            write_line(json_line(row))
            count += 1
    return count


def _parser() -> argparse.ArgumentParser:
    from affectgpt_r1.data.layouts.mer_unibench import LAYOUTS

    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 answer",
        description="Answer the clips of a data folder, for `score`, `submit` and `unibench` to read.",
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder; without --names, that of the nine sets")
    parser.add_argument("--names", metavar="FILE", help="CSV file in --data with the column name, such as test labels")
    parser.add_argument(
        "--sets", nargs="+", choices=tuple(LAYOUTS), help="of MER-UniBench (default: those whose folder is there)"
    )
    parser.add_argument(
        "--subtitles", default=SUBTITLES, metavar="FILE:COLUMN", help='in --data; "" for none (%(default)s)'
    )
    parser.add_argument("--output", type=Path, required=True, help="file.jsonl; without --names, a folder")
    parser.add_argument("--batch-size", type=int, default=32, help="clips that are answered at once (%(default)s)")
    parser.add_argument("--num-workers", type=int, default=0, help="decoding processes (%(default)s)")
    add_policy_options(parser)
    parser.set_defaults(lexicon=None, faces="detect", no_contributions=True)
    return parser


if __name__ == "__main__":
    main()
