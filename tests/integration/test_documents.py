"""Every command of README and docs runs, in a folder of its own that holds what the text before it has made.

Trainings are composed here and run in the slow test; both shorten them.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from affectgpt_r1.config.compose import check_composed
from helpers.configs import compose_config
from helpers.documents import DOCUMENTS, REPOSITORY, code_blocks
from helpers.forked import run_command

TRAINING = {"train", "evaluate", "render"}
SHORT = {
    "train": (
        *("trainer.max_steps=2", "trainer.val_check_interval=2", "optim.scheduler.total_steps=20"),
        *("data.batch_size=2", "data.eval_batch_size=4", "callbacks.completions.console_rows=0"),
        "overwrite=true",  # the policies that the text has trained so far are copies of other folders' runs
    ),
    "evaluate": ("data.eval_batch_size=4",),
    "render": (
        *("num_caption=6", "num_exact=4", "num_validation=3", "num_test=4", "workers=1", "vocab_size=400"),
        "paths.data=rendered",
    ),
}


def _commands(document, *, marked=False):
    blocks = [block for block in code_blocks(document) if block.language == "bash" and bool(block.mark) is marked]
    return [shlex.split(command, comments=True) for block in blocks for command in block.commands]


def _own_commands():
    """Return each document's commands of the package, without those that an earlier document has."""
    seen, own = [], {}
    for document in DOCUMENTS:
        if document == ".github/CONTRIBUTING.md":  # followed in test_contributing.py
            continue
        new = [command for command in _commands(document) if command[0] == "affectgpt-r1" and command not in seen]
        seen += new
        own[document] = [command[1:] for command in new]
    return own


COMMANDS = _own_commands()
TARGETS = sorted({tuple(command) for document in DOCUMENTS for command in _commands(document) if command[0] == "make"})


MARKED = [
    command[2:] for document in DOCUMENTS for command in _commands(document, marked=True) if command[1] == "train"
]


def _is_training(command):
    return command[0] in TRAINING and "--cfg" not in command


@pytest.fixture(scope="module")
def workplace(workspace, sft_run, tiny_data_root, write_mp4, tmp_path_factory):
    """Make the folder in which a reader would stand: rendered clips, trained policies, files of their own."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(workspace / "data", folder / "data" / "synthetic")
    shutil.copytree(workspace / "outputs", folder / "outputs")
    for run in ("demo-no_think-seed1/sft", "demo-no_think-seed1/grpo", "my-set-seed1/grpo"):
        shutil.copytree(sft_run, folder / "outputs" / run)
    tiny_data_root(folder / "my-data")
    write_mp4(folder / "clip.mp4")
    write_mp4(folder / "talks" / "first.mp4")
    for number in range(3):
        write_mp4(folder / "my-videos" / "day 1" / f"{number}.mp4", 4, first_gray=number)
    (folder / "my-videos" / "labels.csv").write_text("file,emotion\n0.mp4,happy\n1.mp4,sad\n2.mp4,calm\n")
    (folder / "labels.csv").write_text("name,openset\nfirst,happy\n")
    (folder / "preferences.csv").write_text("name,preference\nfirst,a1\nsecond,a2\n")
    (folder / "answers.csv").write_text('name,openset\nfirst,"joyful,proud"\n')
    for file in ("reasons.csv", "references.csv"):
        (folder / file).write_text("name,reason\nfirst,He smiles and is happy.\n")
    (folder / "answers.jsonl").write_text('{"name": "first", "openset": ["joyful"]}\n')
    judged = {"clip": "first", "system1": "grpo", "system2": "sft", "a1": "calm", "a2": "sad", "time": "2026-01-01"}
    people = folder / "outputs" / "judgements"
    people.mkdir()
    (people / "preferences.jsonl").write_text(json.dumps({"name": "x", **judged, "rater": "anna", "preference": "a1"}))
    for person in ("anna", "ben"):
        (people / f"labels-{person}.jsonl").write_text('{"name": "first", "openset": ["happy"]}\n')
    return folder


def _run(workplace: Path, command, *more: str) -> str:
    before = Path.cwd()
    os.chdir(workplace)
    try:
        done = run_command(*command, *more)
    finally:
        os.chdir(before)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr[-3000:]}"
    return done.stdout


def _absolute(workplace: Path, overrides):
    """Return the overrides of a command line, with ``--config-dir`` as Hydra takes it from a program."""
    if overrides[:1] != ["--config-dir"]:
        return overrides
    return [f"hydra.searchpath=[file://{workplace / overrides[1]}]", *overrides[2:]]


@pytest.mark.parametrize("document", [document for document, commands in COMMANDS.items() if commands])
def test_commands_run(workplace, document):
    for command in COMMANDS[document]:
        if not _is_training(command):
            _run(workplace, command)
        elif "-m" not in command:
            overrides = command[1:]
            config = compose_config(command[0], *_absolute(workplace, overrides))
            if command[0] == "train":
                check_composed(config)


@pytest.mark.parametrize("overrides", MARKED, ids=shlex.join)
def test_trainings_that_are_not_run_compose(overrides):
    check_composed(compose_config("train", *overrides))


@pytest.mark.parametrize("command", TARGETS, ids=shlex.join)
def test_make_targets_are_planned(command):
    done = subprocess.run(
        ["make", "--dry-run", *command[1:]], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_trainings_run(workplace):
    trainings = [command for commands in COMMANDS.values() for command in commands if _is_training(command)]
    for command in [command for command in trainings if "--config-dir" not in command]:  # which test_own_data.py runs
        shortened = [value.replace("seed=1,2,3", "seed=4,5") for value in command]
        without_limit = "experiment=demo/control" in command
        short = [key for key in SHORT[command[0]] if not (without_limit and key.startswith("trainer.max_steps"))]
        multirun = [key for key in shortened if key == "-m"]
        _run(workplace, [value for value in shortened if value != "-m"], *short, *multirun)
