import errno
import os
import resource
import shutil
import warnings
from math import inf, nan
from pathlib import Path

import pytest
import torch

from affectgpt_r1.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint, direction_of
from affectgpt_r1.errors import CheckpointError, ConfigError, TrainingError


def _checkpoints(folder, **options):
    return [BestCheckpoint(folder, **options), LastCheckpoint(folder, every_n_steps=3)]


def _fill_the_disk(monkeypatch):
    """From now on torch.save writes half a file, then finds the disk full."""
    real = torch.save

    def half(checkpoint, file):
        import io

        full = io.BytesIO()
        real(checkpoint, full)
        file.write(full.getvalue()[: full.tell() // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", half)


def test_names_are_fixed_and_best_is_the_best(tmp_path, tiny_module, fit):
    trainer = fit(tiny_module((0.5, 0.7, 0.6)), _checkpoints(tmp_path / "run"), plugins=[AtomicCheckpointIO()])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["best.ckpt", "last.ckpt"]
    io = AtomicCheckpointIO()
    best, last = (io.load_checkpoint(tmp_path / "run" / name) for name in ("best.ckpt", "last.ckpt"))
    assert (best["global_step"], last["global_step"]) == (8, 12)
    assert torch.equal(last["state_dict"]["weight.weight"], trainer.lightning_module.weight.weight.detach())
    scores = [state["best_model_score"] for key, state in last["callbacks"].items() if "val/f1" in key]
    assert [float(score) for score in scores] == [pytest.approx(0.7)]


def test_last_is_written_though_the_score_falls(tmp_path, tiny_module, fit):
    fit(tiny_module((0.9, 0.5, 0.1)), _checkpoints(tmp_path), plugins=[AtomicCheckpointIO()], max_steps=11)
    io = AtomicCheckpointIO()
    assert io.load_checkpoint(tmp_path / "best.ckpt")["global_step"] == 4
    assert io.load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 11


def test_resumed_run_keeps_the_earlier_best(tmp_path, tiny_module, fit):
    plugins = [AtomicCheckpointIO()]
    fit(tiny_module((0.5, 0.9)), _checkpoints(tmp_path), plugins=plugins, max_epochs=2)
    trainer = fit(tiny_module((0.7,)), _checkpoints(tmp_path), plugins=plugins, ckpt_path="last")
    assert trainer.global_step == 12
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "best.ckpt")["global_step"] == 8


def _score_and_step(folder):
    """What best.ckpt says of itself."""
    best = AtomicCheckpointIO().load_checkpoint(folder / "best.ckpt")
    (score,) = [float(state["best_model_score"]) for key, state in best["callbacks"].items() if "val/f1" in key]
    return pytest.approx(score), best["global_step"]


@pytest.mark.parametrize(("later", "kept"), [(0.7, (0.9, 8)), (0.95, (0.95, 12))])
def test_the_best_survives_a_move_of_the_folder(tmp_path, tiny_module, fit, later, kept):
    plugins = [AtomicCheckpointIO()]
    fit(tiny_module((0.5, 0.9)), _checkpoints(tmp_path / "old"), plugins=plugins, max_epochs=2)
    shutil.move(tmp_path / "old", tmp_path / "new")
    checkpoints = _checkpoints(tmp_path / "new")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dirpath has changed.*")
        warnings.filterwarnings("error", message=".*callbacks used to create the checkpoint.*")
        fit(tiny_module((later,)), checkpoints, plugins=plugins, ckpt_path=str(tmp_path / "new" / "last.ckpt"))
    assert _score_and_step(tmp_path / "new") == kept
    assert float(checkpoints[0].best_model_score) == pytest.approx(kept[0])
    assert checkpoints[0].best_model_path == str(tmp_path / "new" / "best.ckpt")
    assert not (tmp_path / "old").exists()


def test_a_run_that_continues_in_another_folder_takes_its_best_along(tmp_path, tiny_module, fit):
    plugins = [AtomicCheckpointIO()]
    fit(tiny_module((0.5, 0.9)), _checkpoints(tmp_path / "a"), plugins=plugins, max_epochs=2)
    before = (tmp_path / "a" / "best.ckpt").read_bytes()
    fit(tiny_module((0.7,)), _checkpoints(tmp_path / "b"), plugins=plugins, ckpt_path=str(tmp_path / "a" / "last.ckpt"))
    assert (tmp_path / "a" / "best.ckpt").read_bytes() == (tmp_path / "b" / "best.ckpt").read_bytes() == before


def test_a_resume_from_before_the_best_does_not_replace_it(tmp_path, tiny_module, fit):
    """As after a step back, with a lower rate: the score in the older checkpoint is not the file's."""
    plugins = [AtomicCheckpointIO()]
    fit(tiny_module((0.5,)), _checkpoints(tmp_path), plugins=plugins, max_epochs=1)
    shutil.copy(tmp_path / "last.ckpt", tmp_path / "early.ckpt")
    fit(tiny_module((0.9,)), _checkpoints(tmp_path), plugins=plugins, max_epochs=2, ckpt_path="last")
    assert _score_and_step(tmp_path) == (0.9, 8)
    fit(tiny_module((0.6, 0.7)), _checkpoints(tmp_path), plugins=plugins, ckpt_path=str(tmp_path / "early.ckpt"))
    assert _score_and_step(tmp_path) == (0.9, 8)
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 12


def test_a_best_that_was_deleted_is_not_waited_for(tmp_path, tiny_module, fit):
    plugins = [AtomicCheckpointIO()]
    fit(tiny_module((0.5, 0.9)), _checkpoints(tmp_path), plugins=plugins, max_epochs=2)
    (tmp_path / "best.ckpt").unlink()
    fit(tiny_module((0.6,)), _checkpoints(tmp_path), plugins=plugins, ckpt_path="last")
    assert _score_and_step(tmp_path) == (0.6, 12)


@pytest.mark.parametrize("options", [{"monitor": "train/loss", "mode": "min"}, {"monitor": "val/loss"}])
def test_scores_of_another_metric_are_not_compared(tmp_path, tiny_module, fit, options):
    plugins = [AtomicCheckpointIO()]
    fit(tiny_module((0.5,)), _checkpoints(tmp_path), plugins=plugins, max_epochs=1)
    before = (tmp_path / "best.ckpt").read_bytes()
    with pytest.raises(CheckpointError, match=r"judged by val/f1 \(max\).*Resume with stage\.monitor=val/f1"):
        fit(tiny_module((0.9,)), _checkpoints(tmp_path, **options), plugins=plugins, ckpt_path="last")
    assert (tmp_path / "best.ckpt").read_bytes() == before


def test_how_often_last_is_written_may_change(tmp_path, tiny_module, fit):
    plugins = [AtomicCheckpointIO()]
    fit(tiny_module((0.5,)), _checkpoints(tmp_path), plugins=plugins, max_epochs=1)
    callbacks = [BestCheckpoint(tmp_path), LastCheckpoint(tmp_path, every_n_steps=2)]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*callbacks used to create the checkpoint.*")
        fit(tiny_module((0.4,)), callbacks, plugins=plugins, max_epochs=2, ckpt_path="last")
    assert _score_and_step(tmp_path) == (0.5, 4)


class Resumable:
    """A loader that keeps its position, as Lightning asks of one that is to be resumed in mid-epoch."""

    def __init__(self):
        self.position = 0
        self.start = 0

    def __len__(self):
        return 4

    def __iter__(self):
        start, self.start = self.start, 0
        for self.position in range(start + 1, 5):
            yield torch.full((1, 2), float(self.position))

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.start = state["position"] % 4


@pytest.mark.parametrize("validate_every", [2, 4])
@pytest.mark.parametrize("stop", [3, 4, 5, 6, 8, 10])
def test_run_stopped_anywhere_ends_with_the_same_weights(tmp_path, tiny_module, fit, stop, validate_every):
    def model():
        torch.manual_seed(3)
        return tiny_module([0.5] * 6)

    options = {"plugins": [AtomicCheckpointIO()], "val_check_interval": validate_every}
    full = fit(model(), [], data=Resumable(), **options).lightning_module
    fit(model(), _checkpoints(tmp_path), data=Resumable(), max_steps=stop, **options)
    resumed = fit(model(), _checkpoints(tmp_path), data=Resumable(), ckpt_path="last", **options)
    assert (resumed.global_step, full.trainer.global_step) == (12, 12)
    assert torch.equal(resumed.lightning_module.weight.weight, full.weight.weight)


def test_run_killed_anywhere_goes_on_from_the_last_write(tmp_path, tiny_module, fit):
    """The best score of a validation just before the kill is not forgotten."""

    def model(scores, die_at=None):
        torch.manual_seed(3)
        module = tiny_module(scores)
        step = module.training_step

        def training_step(batch, batch_idx):
            if module.global_step == die_at:
                raise RuntimeError("killed")
            return step(batch, batch_idx)

        module.training_step = training_step
        return module

    options = {"plugins": [AtomicCheckpointIO()], "val_check_interval": 2}
    full = fit(model([0.5] * 6), [], data=Resumable(), **options).lightning_module
    with pytest.raises(RuntimeError, match="killed"):
        fit(model([0.1, 0.2, 0.9], die_at=7), _checkpoints(tmp_path), data=Resumable(), **options)
    io = AtomicCheckpointIO()
    assert io.load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 6
    resumed = fit(model([0.3, 0.4, 0.5]), _checkpoints(tmp_path), data=Resumable(), ckpt_path="last", **options)
    assert torch.equal(resumed.lightning_module.weight.weight, full.weight.weight)
    assert io.load_checkpoint(tmp_path / "best.ckpt")["global_step"] == 6


def test_full_disk_leaves_the_previous_checkpoint(tmp_path, tiny_module, fit, monkeypatch):
    plugins = [AtomicCheckpointIO()]
    fit(tiny_module((0.5,)), _checkpoints(tmp_path), plugins=plugins, max_epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.ckpt")}
    assert set(before) == {"best.ckpt", "last.ckpt"}
    _fill_the_disk(monkeypatch)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: .*No space left.* previous .*intact.*ckpt_path=last"):
        fit(tiny_module(), _checkpoints(tmp_path), plugins=plugins, ckpt_path="last")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.ckpt*")} == before


def test_full_disk_at_the_first_checkpoint_leaves_nothing(tmp_path, monkeypatch):
    _fill_the_disk(monkeypatch)
    with pytest.raises(CheckpointError, match="there is no earlier one"):
        AtomicCheckpointIO().save_checkpoint({"a": 1}, tmp_path / "deep" / "last.ckpt")
    assert list((tmp_path / "deep").iterdir()) == []


def test_interrupt_while_writing_stays_an_interrupt(tmp_path, monkeypatch):
    def interrupted(checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)
    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"a": 2}, path)
    assert AtomicCheckpointIO().load_checkpoint(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_system_that_refuses_to_write_more(tmp_path):
    """The kernel itself ends the write: a file size limit acts as a full disk."""
    io = AtomicCheckpointIO()
    path = tmp_path / "last.ckpt"
    io.save_checkpoint({"weights": torch.ones(10)}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"last\.ckpt: .*File too large.*previous checkpoint is intact"):
            io.save_checkpoint({"weights": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(io.load_checkpoint(path)["weights"], torch.ones(10))
    assert list(tmp_path.iterdir()) == [path]


class UnsupportedModel:
    pass


@pytest.mark.parametrize("content", ["text", "half", "object", "empty"])
def test_file_that_is_no_plain_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "model.ckpt"
    if content == "object":
        torch.save({"payload": UnsupportedModel()}, path)
    else:
        torch.save({"weights": torch.ones(1000)}, path)
        full = path.read_bytes()
        path.write_bytes({"text": b"hello", "half": full[: len(full) // 2], "empty": b""}[content])
    with pytest.raises(CheckpointError, match=r"model\.ckpt: damaged"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_absent_file_and_unsafe_loading_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="weights_only=True"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "none.ckpt", weights_only=False)


@pytest.mark.parametrize(
    ("scores", "step"),
    [((nan, 0.5, 0.4), 8), ((inf, 0.5, 0.6), 12), ((-inf, nan, 0.1), 12), ((0.5, nan, inf), 4)],
)
def test_a_score_that_is_not_finite_is_never_the_best(tmp_path, tiny_module, fit, scores, step):
    trainer = fit(tiny_module(scores), _checkpoints(tmp_path), plugins=[AtomicCheckpointIO()])
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "best.ckpt")["global_step"] == step
    assert trainer.checkpoint_callback.best_model_score.isfinite()


def test_a_run_of_nothing_but_nan_does_not_end_as_if_all_were_well(tmp_path, tiny_module, fit):
    with pytest.raises(TrainingError, match="val/f1 was NaN or infinite in all 3 validations"):
        fit(tiny_module((nan, nan, inf)), _checkpoints(tmp_path), plugins=[AtomicCheckpointIO()])
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]
    # Killed after that validation, it has nothing to train when it is resumed, and must not end as if all were well.
    with pytest.raises(TrainingError, match="val/f1 was NaN or infinite in all 3 validations"):
        fit(tiny_module(()), _checkpoints(tmp_path), plugins=[AtomicCheckpointIO()], ckpt_path="last")


@pytest.mark.parametrize(
    ("bounds", "step"),
    [
        ({"max_steps": 3, "max_epochs": -1}, 3),
        ({"max_steps": -1, "max_epochs": 2}, 8),
        ({"max_steps": 2, "max_epochs": -1, "accumulate_grad_batches": 3}, 2),
    ],
)
def test_a_run_too_short_to_validate_does_so_at_its_end(tmp_path, tiny_module, fit, bounds, step):
    module = tiny_module((0.5,))  # a second validation would find no score
    settings = {"val_check_interval": 188, "check_val_every_n_epoch": None, **bounds}
    trainer = fit(module, _checkpoints(tmp_path), plugins=[AtomicCheckpointIO()], **settings)
    assert trainer.global_step == step
    for name in ("best.ckpt", "last.ckpt"):
        assert AtomicCheckpointIO().load_checkpoint(tmp_path / name)["global_step"] == step


def test_no_further_validation_where_there_has_been_one(tmp_path, tiny_module, fit):
    settings = {"val_check_interval": 2, "check_val_every_n_epoch": None, "max_steps": 3, "max_epochs": -1}
    fit(tiny_module((0.5,)), _checkpoints(tmp_path), plugins=[AtomicCheckpointIO()], **settings)
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "best.ckpt")["global_step"] == 2


@pytest.mark.parametrize(
    ("monitor", "mode", "direction"),
    [
        ("val/loss", "auto", "min"),
        ("train/loss_step", "auto", "min"),
        ("val/video_loss", "min", "min"),
        ("val/f1", "auto", "max"),
        ("val/answers/format_rate", "auto", "max"),
        ("val/answers/answer_entropy", "min", "min"),
    ],
)
def test_the_direction_follows_the_metric(monitor, mode, direction):
    assert direction_of(monitor, mode) == direction


@pytest.mark.parametrize(
    ("monitor", "mode", "message"),
    [
        ("val/loss", "max", "would keep the worst checkpoint: of val/loss less is better"),
        ("val/f1", "min", "would keep the worst checkpoint: of val/f1 more is better"),
        ("val/answers/distinct_words", "auto", "stage.mode=min or max"),
        ("val/f1", "up", "choose among auto, min, max"),
    ],
)
def test_a_direction_that_cannot_be_meant_is_refused(tmp_path, monitor, mode, message):
    with pytest.raises(ConfigError, match=message):
        BestCheckpoint(tmp_path, monitor, mode)


class KilledError(Exception):
    """Act as a process that ends in a validation."""


@pytest.mark.parametrize(("dies_at", "resumed_from"), [(4, None), (8, 6), (12, 11)])
def test_a_run_that_is_killed_in_a_validation_validates_again(tmp_path, tiny_module, fit, dies_at, resumed_from):
    """A checkpoint from just before the validation would be resumed after it: its score, and a best.ckpt, were lost."""
    plugins = [AtomicCheckpointIO()]
    module = tiny_module((0.5, 0.7, 0.9))
    validate = module.on_validation_epoch_end

    def die():
        if module.global_step == dies_at:
            raise KilledError
        validate()

    module.on_validation_epoch_end = die
    checkpoints = [BestCheckpoint(tmp_path), LastCheckpoint(tmp_path, every_n_steps=dies_at if dies_at == 4 else 1)]
    if dies_at == 8:
        checkpoints[1] = LastCheckpoint(tmp_path, every_n_steps=3)
    with pytest.raises(KilledError):
        fit(module, checkpoints, plugins=plugins)
    last = tmp_path / "last.ckpt"
    assert (AtomicCheckpointIO().load_checkpoint(last)["global_step"] if last.is_file() else None) == resumed_from
    later = {None: (0.5, 0.7, 0.9), 6: (0.7, 0.9), 11: (0.9,)}[resumed_from]
    fit(tiny_module(later), checkpoints, plugins=plugins, ckpt_path=None if resumed_from is None else str(last))
    assert _score_and_step(tmp_path) == (0.9, 12)


def test_a_checkpoint_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """Its file first, then its name, then the folder that holds the name; the temporary name has the process in it."""
    done = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append(Path(os.readlink(f"/proc/self/fd/{number}")).name))
    replace = os.replace

    def moved(source, target):
        done.append(f"{Path(source).name} -> {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "replace", moved)
    AtomicCheckpointIO().save_checkpoint({"a": 1}, tmp_path / "run" / "last.ckpt")
    partial = done[0]
    assert partial.startswith(f".{os.getpid()}-")
    assert done == [partial, f"{partial} -> last.ckpt", "run"]


def test_what_killed_processes_left_half_written_is_removed(tmp_path, tiny_module, fit):
    for name in (".12-ab.partial", "last.ckpt.partial", "notes"):
        (tmp_path / name).write_bytes(b"half")
    fit(tiny_module((0.5,)), _checkpoints(tmp_path), plugins=[AtomicCheckpointIO()], max_epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt", "notes"]


def test_a_damaged_best_is_not_compared_with(tmp_path, tiny_module, fit):
    plugins = [AtomicCheckpointIO()]
    fit(tiny_module((0.5,)), _checkpoints(tmp_path), plugins=plugins, max_epochs=1)
    weight = torch.load(tmp_path / "best.ckpt")["state_dict"]["weight.weight"]
    content = bytearray((tmp_path / "best.ckpt").read_bytes())
    content[content.index(weight.numpy().tobytes())] ^= 1
    (tmp_path / "best.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"best\.ckpt: damaged.*move it away"):
        fit(tiny_module((0.9,)), _checkpoints(tmp_path), plugins=plugins, ckpt_path="last")


def test_a_run_killed_between_its_best_and_its_last_checkpoint_continues_from_either(tmp_path, tiny_module, fit):
    """Both hold what there was after the validation, so either gives the weights of a run that never stopped."""

    def model(scores):
        torch.manual_seed(3)
        return tiny_module(scores)

    options = {"plugins": [AtomicCheckpointIO()], "val_check_interval": 2}
    scores = [0.5, 0.9, 0.3, 0.4, 0.6, 0.7]
    full = fit(model(scores), [], data=Resumable(), **options).lightning_module
    fit(model(scores), _checkpoints(tmp_path), data=Resumable(), max_steps=4, **options)
    (tmp_path / "last.ckpt").unlink()
    best = str(tmp_path / "best.ckpt")
    resumed = fit(model(scores[2:]), _checkpoints(tmp_path), data=Resumable(), ckpt_path=best, **options)
    assert torch.equal(resumed.lightning_module.weight.weight, full.weight.weight)
    assert _score_and_step(tmp_path) == (0.9, 4)
