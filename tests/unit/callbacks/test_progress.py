import io
import re
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import Timer

from affectgpt_r1.callbacks import progress
from affectgpt_r1.callbacks.progress import (
    LiveProgress,
    PlainProgress,
    progress_bar,
    seconds_left,
    time_limit_left,
    total_steps,
)
from affectgpt_r1.io.console import PlainConsole as Console


def _trainer(**values):
    given = {"max_steps": -1, "max_epochs": None, "num_training_batches": 10, "accumulate_grad_batches": 1}
    return SimpleNamespace(**{**given, **values})


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({"max_steps": 300}, 300),
        ({"max_epochs": 3}, 30),
        ({"max_epochs": 3, "accumulate_grad_batches": 4}, 9),
        ({"max_epochs": 3, "max_steps": 25}, 25),
        ({"max_epochs": -1}, None),
        ({"max_epochs": 3, "num_training_batches": float("inf")}, None),
    ],
)
def test_total_steps(values, steps):
    assert total_steps(_trainer(**values)) == steps


def test_time_left_counts_from_where_the_run_went_on():
    assert seconds_left(done=10, elapsed=5.0, step=60, total=100) == 20.0
    assert seconds_left(done=0, elapsed=5.0, step=60, total=100) is None
    assert seconds_left(done=10, elapsed=5.0, step=60, total=None) is None


def test_plain_lines(tiny_module, fit, capsys):
    fit(tiny_module((0.5, 0.7, 0.625)), [PlainProgress("grpo", every_n_steps=5)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("grpo ")]
    times = r"  \d:\d\d:\d\d elapsed  \d:\d\d:\d\d left"
    expected = [
        r"grpo 4/12  reward 0\.250  F1 0\.500",
        r"grpo 5/12  reward 0\.250  F1 0\.500",
        r"grpo 8/12  reward 0\.250  F1 0\.700",
        r"grpo 10/12  reward 0\.250  F1 0\.700",
        r"grpo 12/12  reward 0\.250  F1 0\.700",
        r"grpo 12/12  reward 0\.250  F1 0\.625",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern + times, line), line


def test_disabled_bars_are_silent(tiny_module, fit, capsys):
    for bar in (PlainProgress("grpo", 1), LiveProgress("grpo")):
        bar.disable()
        fit(tiny_module(), [bar])
    assert "grpo" not in capsys.readouterr().out


def _terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    monkeypatch.setattr(progress, "get_console", lambda: console)
    return console


def test_live_bar_shows_steps_figures_and_time(tiny_module, fit, monkeypatch):
    console = _terminal(monkeypatch)
    bar = progress_bar("grpo")
    assert isinstance(bar, LiveProgress)
    fit(tiny_module((0.5, 0.7, 0.625)), [bar])
    shown = re.sub(r"\x1b\[[?\d]*[a-zA-Z]", "", console.file.getvalue())
    final = [line for line in shown.splitlines() if line.startswith("grpo")][-1]
    assert re.search(r"grpo .* 12/12 reward 0\.250  F1 0\.625 \d:\d\d:\d\d 0:00:00 left", final), final


def test_live_bar_gives_the_console_back_after_an_error(tiny_module, fit, monkeypatch):
    console = _terminal(monkeypatch)
    module = tiny_module()

    def fail(batch, batch_idx):
        raise ValueError("broken")

    monkeypatch.setattr(module, "training_step", fail)
    with pytest.raises(ValueError, match="broken"):
        fit(module, [progress_bar("sft")])
    assert console._live_stack == []


def test_no_terminal_gives_plain_lines(monkeypatch):
    monkeypatch.setattr(progress, "get_console", lambda: Console(file=io.StringIO()))
    assert isinstance(progress_bar("sft"), PlainProgress)


@pytest.mark.parametrize(("remaining", "shown"), [(12.5, 12.5), (-1.0, 0.0), (None, None)])
def test_a_wall_time_limit_bounds_the_time_left(remaining, shown):
    timer = Timer(duration={"seconds": 60})
    timer.time_remaining = lambda: remaining
    assert time_limit_left(SimpleNamespace(callbacks=[timer])) == shown
