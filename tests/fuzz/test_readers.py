"""Readers of foreign files, fuzzed: briefly in every run of the tests, guided by coverage in the slow ones.

``AFFECTGPT_FUZZ_SECONDS=900 pytest -m slow tests/fuzz`` runs each reader for 15 minutes of CPU time.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import reader_targets

HELPERS = Path(reader_targets.__file__).parent
SECONDS = float(os.environ.get("AFFECTGPT_FUZZ_SECONDS", "20"))


@st.composite
def changed(draw, seeds):
    """Draw a seed with a few places overwritten, removed or added to."""
    content = bytearray(draw(st.sampled_from(seeds))[:4000])
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        content[place : place + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(content)


@pytest.mark.parametrize("target", reader_targets.TARGETS)
def test_changed_files_are_accepted_or_refused_in_one_line(tmp_path, monkeypatch, target):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    @settings(max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(changed(reader_targets.seeds(target)))
    def check(data):
        reader_targets.check(target, data, tmp_path)

    check()


@pytest.mark.parametrize("target", reader_targets.TARGETS)
def test_seeds_reach_the_readers(tmp_path, monkeypatch, target):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert reader_targets.check(target, reader_targets.seeds(target)[0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", reader_targets.TARGETS)
def test_fuzzing_guided_by_coverage_finds_nothing(tmp_path, target):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: `pip install atheris` (Linux, Python 3.11 to 3.13)")
    command = [sys.executable, str(HELPERS / "fuzz_readers.py"), target, str(SECONDS), str(tmp_path)]

    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False)

    report = json.loads((tmp_path / "report.json").read_text())
    assert report["executions"] > 100
    assert report["failures"] == {}
    assert report["extra_mib"] < 1024
