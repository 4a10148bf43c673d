import csv
import logging

import pytest
from lightning.pytorch.loggers import CSVLogger

from affectgpt_r1.callbacks.checkpoints import AtomicCheckpointIO, LastCheckpoint
from affectgpt_r1.callbacks.unreadable_clips import UnreadableClipsMonitor, _csv
from affectgpt_r1.errors import DataError
from affectgpt_r1.types import ClipBatch, UnreadableClip

LOST = [
    UnreadableClip("clip_a", "a.mp4: truncated, 12 frames"),
    UnreadableClip("clip_b", "b.wav: empty"),
    UnreadableClip("clip_a", "a.mp4: truncated, 12 frames"),
]


class Monitor(UnreadableClipsMonitor):
    """Counts clips that were drawn before training; the batches of these tests are not of clips."""

    def __init__(self, folder, num_read, lost=LOST, **options):
        super().__init__(folder, **options)
        self.skipped.add(lost, num_read=num_read)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pass

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        pass


def test_list_reasons_and_metric_without_mlflow(tmp_path, tiny_module, fit, caplog):
    logger = CSVLogger(tmp_path, name="csv")
    with caplog.at_level(logging.WARNING):
        fit(tiny_module(), [Monitor(tmp_path / "run", 97, max_fraction=0.03)], logger=logger)
    with (tmp_path / "run" / "unreadable_clips.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "reason"], *map(list, LOST[:2])]
    assert "3 of 100 clips drawn could not be read" in caplog.text
    assert "clip_b: b.wav: empty" in caplog.text
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        logged = [row["train/unreadable_clips"] for row in csv.DictReader(file) if row["train/unreadable_clips"]]
    assert logged == ["3.0"]


def test_nothing_lost_writes_no_list(tmp_path, tiny_module, fit):
    fit(tiny_module(), [Monitor(tmp_path / "run", 100, [], max_fraction=0.0)])
    assert not (tmp_path / "run").exists()


def test_too_large_a_share_ends_the_run_early_with_the_list(tmp_path, tiny_module, fit):
    module = tiny_module()
    with pytest.raises(DataError, match=r"3 of 99 .*at most 3\.0%.*a\.mp4: truncated, 12 frames; b\.wav: empty"):
        fit(module, [Monitor(tmp_path, 96, max_fraction=0.03, judge_after=99)])
    assert module.trainer.global_step == 1
    assert (tmp_path / "unreadable_clips.csv").is_file()


def test_few_clips_are_judged_at_the_end_only(tmp_path, tiny_module, fit, caplog):
    module = tiny_module()
    with pytest.raises(DataError), caplog.at_level(logging.WARNING):
        fit(module, [Monitor(tmp_path, 96, max_fraction=0.03, judge_after=100)])
    assert module.trainer.global_step == 12
    assert caplog.text.count("clips drawn could not be read") == 1


def test_the_list_holds_no_formula_and_no_control_character():
    rows = [("=cmd|x", "a.mp4: \x1b]0;t\x07, -1 s"), ("a\r=1", "-3.4")]
    assert list(csv.reader(_csv(rows).splitlines())) == [
        ["name", "reason"],
        ["'=cmd|x", r"a.mp4: \x1b]0;t\x07, -1 s"],
        [r"a\r=1", "-3.4"],
    ]


def test_batches_are_counted_and_the_count_is_resumed(tmp_path):
    monitor = UnreadableClipsMonitor(tmp_path)
    batch = ClipBatch(("a", "b"), ("", ""), ((), ()), ("", ""), ((), ()), unreadable=tuple(LOST[:2]))
    monitor.on_train_batch_start(None, None, batch, 0)
    monitor.on_validation_batch_start(None, None, batch, 0)
    assert (monitor.skipped.count, monitor.skipped.total) == (4, 8)
    resumed = Monitor(tmp_path, 1, LOST[:1])  # what today's encoding met
    resumed.load_process_state(monitor.process_state())
    assert (resumed.skipped.count, resumed.skipped.total) == (5, 10)


def test_a_run_that_was_killed_after_its_last_step_reports_when_it_is_resumed(tmp_path, tiny_module, fit):
    last = LastCheckpoint(tmp_path / "checkpoints")
    fit(tiny_module(), [last], plugins=[AtomicCheckpointIO()])
    callbacks = [Monitor(tmp_path, 97, max_fraction=0.03), LastCheckpoint(tmp_path / "checkpoints")]
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    fit(tiny_module(), callbacks, plugins=[AtomicCheckpointIO()], ckpt_path=path)
    assert (tmp_path / "unreadable_clips.csv").read_text().splitlines()[1] == 'clip_a,"a.mp4: truncated, 12 frames"'
