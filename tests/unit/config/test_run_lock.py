"""A folder has one owner, and a killed one is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from affectgpt_r1.config.run_lock import owned, owner_of
from affectgpt_r1.errors import ConfigError

HOLD = """
import sys
from pathlib import Path
from affectgpt_r1.config.run_lock import owned

with owned(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

HOLD_AND_FORK = HOLD.replace('    print("held"', '    import os\n    print(os.fork() or "held"')


@pytest.fixture
def hold():
    """``hold(folder)``: another process that holds it; it is ended with the test."""
    started = []

    def start(folder: Path, program: str = HOLD) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_second_process_is_told_who_has_the_folder(hold, tmp_path):
    process = hold(tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"run is in use by process {process.pid} on .* wait for it to end, or"):
        owned(tmp_path / "run").__enter__()
    assert f"process {process.pid}" in (owner_of(tmp_path / "run") or "")
    assert owner_of(tmp_path / "other") is None


def test_the_lock_goes_with_a_process_that_is_killed(hold, tmp_path):
    process = hold(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert owner_of(tmp_path) is None
    with owned(tmp_path):
        assert (tmp_path / ".owner.json").is_file()
    assert not (tmp_path / ".owner.json").exists()


def test_a_worker_that_outlives_a_killed_process_does_not_hold_its_lock(hold, tmp_path):
    """It ends when its input is closed, after the test."""
    process = hold(tmp_path, HOLD_AND_FORK)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with owned(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".owner.json").read_text()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/run: it cannot be written .* paths\.outputs="):
        owned(tmp_path / "file" / "run").__enter__()
