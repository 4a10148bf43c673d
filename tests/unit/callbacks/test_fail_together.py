"""What the first process does when another ends, and when it fails or is stopped itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from affectgpt_r1.callbacks import fail_together as processes
from affectgpt_r1.callbacks.fail_together import FailTogether
from affectgpt_r1.tracking.mlflow_logger import Terminated

WAITING = """
import sys

print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def together(monkeypatch):
    """Two processes next to this one; with them the statuses that MLflow got and the codes that this one ended with."""
    waiting = [sys.executable, "-c", WAITING]
    others = [subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for process in others:
        assert process.stdout.readline() == b"ready\n"  # a signal during Python's start would end it with code 1
    statuses, codes, ended = [], [], threading.Event()

    def leave(code):
        codes.append(code)
        ended.set()

    monkeypatch.setattr(processes.os, "_exit", leave)
    monkeypatch.setattr(processes, "mlflow_loggers", lambda _: [SimpleNamespace(end=statuses.append)])
    monkeypatch.setattr(processes, "NOTICE_SECONDS", 0.05)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.2)
    launcher = SimpleNamespace(procs=others)
    trainer = SimpleNamespace(loggers=[], world_size=3, strategy=SimpleNamespace(launcher=launcher))
    callback = FailTogether()
    yield SimpleNamespace(
        callback=callback, others=others, trainer=trainer, statuses=statuses, codes=codes, ended=ended
    )
    callback.on_exception(trainer, None, ValueError())
    for thread in callback._threads:
        thread.join()  # before os._exit is put back
    for process in others:
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(signal.SIGKILL, "FAILED", 137), (signal.SIGTERM, "KILLED", 143), (signal.SIGINT, "KILLED", 130)],
)
def test_the_end_of_one_is_that_of_all(together, number, status, code):
    together.callback.setup(together.trainer, None, "fit")
    together.others[1].send_signal(number)
    assert together.ended.wait(30)
    assert together.others[0].wait(30) == -signal.SIGKILL
    assert (together.statuses, together.codes) == ([status], [code])


def test_a_process_that_ends_well_ends_nothing(together):
    together.callback.setup(together.trainer, None, "fit")
    together.others[0].communicate(timeout=30)
    assert not together.ended.wait(0.3)
    assert together.others[1].poll() is None


@pytest.mark.parametrize(
    "error", [Terminated(), KeyboardInterrupt(), ValueError("wrong"), RuntimeError("out of memory")]
)
def test_a_failure_of_this_process_ends_the_others_and_leaves_the_status_to_the_run(together, error):
    together.callback.setup(together.trainer, None, "fit")
    together.callback.on_exception(together.trainer, None, error)
    assert [process.wait(30) for process in together.others] == [-signal.SIGKILL] * 2
    assert not together.ended.wait(0.3)
    assert together.statuses == []


def test_a_failure_before_training_ends_the_others(together):
    """Such as a port that is taken: ``setup`` comes after it."""
    together.callback.on_exception(together.trainer, None, OSError("port"))
    assert [process.wait(30) for process in together.others] == [-signal.SIGKILL] * 2


def test_the_handler_of_sigterm_stays(together):
    before = signal.getsignal(signal.SIGTERM)

    def own(number, frame):
        pass

    def of_lightning(number, frame):
        pass

    try:
        signal.signal(signal.SIGTERM, own)
        together.callback.setup(together.trainer, None, "fit")
        signal.signal(signal.SIGTERM, of_lightning)
        together.callback.on_train_start(together.trainer, None)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
