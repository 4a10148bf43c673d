"""Completion by Tab: in Python, and as bash asks for it."""

import os
import shutil
import subprocess
import sys

import pytest

from affectgpt_r1.cli.completion import SCRIPT, complete
from affectgpt_r1.cli.main import COMMANDS

PROGRAM = '#!/bin/sh\nexec {} -c "from affectgpt_r1.cli.main import main; main()" "$@"\n'


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("affectgpt-r1 pre", ["prepare ", "predict ", "prefer "]),
        ("affectgpt-r1 train exp", ["experiment=", "experiment_name="]),
        ("affectgpt-r1 train experiment=demo/s", ["experiment=demo/sft "]),
        ("affectgpt-r1 train seed=3 stage.bet", ["stage.beta="]),
        ("affectgpt-r1 train --m", ["--multirun "]),
        ("affectgpt-r1 score --pre", ["--predictions "]),
        ("affectgpt-r1 score --predictions ans", []),
        ("affectgpt-r1 trian stage", []),
    ],
)
def test_what_a_word_may_become(line, expected):
    assert complete(line, COMMANDS) == expected


def test_bash_replaces_only_what_follows_the_equals_sign(tmp_path):
    program = tmp_path / "affectgpt-r1"
    program.write_text(PROGRAM.format(sys.executable))
    program.chmod(0o755)
    line = "affectgpt-r1 train experiment=demo/g"
    asked = f'{SCRIPT}\nCOMP_LINE="{line}" COMP_POINT={len(line)}; _affectgpt_r1; printf "<%s>" "${{COMPREPLY[@]}}"'
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, env=env, check=True)
    assert (done.stdout, done.stderr) == ("<demo/grpo >", "")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_without_its_own_completion_takes_the_script():
    asked = f"{SCRIPT}\nprint -r -- $_comps[affectgpt-r1]"
    done = subprocess.run(["zsh", "-f", "-c", asked], capture_output=True, text=True, check=True)
    assert (done.stdout.split()[-2:], done.stderr) == (["-F", "_affectgpt_r1"], "")
