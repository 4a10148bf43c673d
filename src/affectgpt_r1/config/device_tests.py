"""Run the tests that compare a device with the CPU, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

_ROOT = Path(__file__).resolve().parents[3]  # of a clone; a wheel brings no tests


class TestedSuite(NamedTuple):
    """What pytest ran."""

    tests: int
    skipped: int
    failed: tuple[str, ...]  # names, also of tests that could not begin


def device_test_files() -> list[Path]:
    """Return the files of these tests; none where the package was installed from a wheel."""
    return sorted(_ROOT.glob("tests/unit/*/test_*_on_device.py"))


def run_device_tests(files: Sequence[Path], device: str, seconds: float) -> TestedSuite:
    """Run the tests of some files.

    Args:
        files: Of :func:`device_test_files`.
        device: ``cuda``, or ``""`` for the simulated accelerator.
        seconds: After which they are ended.

    Raises:
        RuntimeError: pytest did not come to its report.
        subprocess.TimeoutExpired: They took longer.
    """
    environment = {**os.environ, "AFFECTGPT_TEST_DEVICE": device, "PYTEST_ADDOPTS": ""}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
        run = subprocess.run(
            [*command, *map(str, files)],
            cwd=_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        if not report.is_file():
            raise RuntimeError((run.stderr or run.stdout).strip().rpartition("\n")[2] or "pytest failed")
        (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    broken = (case for case in suite.iter("testcase") if {child.tag for child in case} & {"failure", "error"})
    return TestedSuite(
        int(suite.get("tests", 0)), int(suite.get("skipped", 0)), tuple(str(case.get("name")) for case in broken)
    )
