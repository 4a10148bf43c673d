"""Every file that a run leaves, damaged in five ways, and the next command: one line, a repair, or no difference.

Each round runs in a fork of this process, which has imported everything. ``pytest -m slow -s`` prints the table.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from helpers.forked import run_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

BLOCK = 4096
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "random": lambda content: _replaced(content, np.random.default_rng(0).bytes(min(BLOCK, max(1, len(content) // 3)))),
    "bit": lambda content: _replaced(content, bytes([content[len(content) // 2] ^ 4])),
}

NOT_READ = ("train.log", ".lock", "overrides.yaml", "artifacts/", ".mlflow.db.lock", "test/answers.jsonl")
"""A record for people, or a file whose content nothing reads."""
UNPROTECTED = ("mlflow.db", "data/video", "data/audio", "data/openface_face", "README.md", "config.json")
"""A changed value can be taken for a right one: SQLite has no checksums, media are the user's, and the last two say
what a folder is; see ``.github/SECURITY.md``."""


class Outcome(NamedTuple):
    code: int
    said: str
    result: object

    @property
    def lines(self) -> list[str]:
        return [
            line for line in self.said.splitlines() if line.startswith(("error:", "affectgpt-r1", "usage", "report"))
        ]


def _replaced(content: bytes, block: bytes) -> bytes:
    middle = max(0, (len(content) - len(block)) // 2)
    return content[:middle] + block + content[middle + len(block) :]


def run(*arguments: str) -> tuple[int, str]:
    """Run a command; returns its exit code and what it printed, the errors last."""
    done = run_command(*arguments)
    return done.returncode, done.stdout + done.stderr


def paths(folder: Path) -> tuple[str, ...]:
    outputs = f"paths.outputs={folder}/outputs"
    return (f"paths.data={folder}/data", outputs, f"paths.features={folder}/features", "experiment_name=test")


def overrides(folder: Path) -> tuple[str, ...]:
    length = ("trainer.max_steps=2", "trainer.val_check_interval=2", "optim.scheduler.total_steps=20")
    return (
        *paths(folder),
        *length,
        "data.batch_size=2",
        "data.eval_batch_size=4",
        "callbacks.completions.console_rows=0",
    )


def train(folder: Path) -> Outcome:
    code, said = run("train", "experiment=demo/sft", *overrides(folder))
    sft = folder / "outputs" / "test" / "sft"
    result = None
    if code == 0:
        state = torch.load(sft / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        record = json.loads((sft / "run.json").read_text())
        result = ({name: float(tensor.double().sum()) for name, tensor in state.items()}, record["metrics"]["val/f1"])
    return Outcome(code, said, result)


def resume(folder: Path) -> Outcome:
    """Train on, as after a kill between the last checkpoint and the record."""
    (folder / "outputs" / "test" / "sft" / "run.json").unlink(missing_ok=True)
    return train(folder)


def evaluate(folder: Path) -> Outcome:
    code, said = run(
        "evaluate",
        *paths(folder),
        "data.eval_batch_size=4",
        f"paths.features={folder}/features",
    )
    predictions = folder / "outputs" / "test" / "evaluate" / "predictions" / "sft.jsonl"
    found = next(iter((folder / "outputs").rglob("predictions/sft.jsonl")), predictions)
    return Outcome(code, said, found.read_text() if code == 0 else None)


def predict_with(checkpoint: str) -> Callable[[Path], Outcome]:
    def predict(folder: Path) -> Outcome:
        video = next((folder / "data" / "video").glob("*.mp4"))
        output = folder / "rows.jsonl"
        code, said = run(
            "predict",
            *(str(video), "--checkpoint", str(folder / checkpoint), "--output", str(output), "--faces", "centre"),
            *("--no-contributions", "--subtitle", "So it is."),
        )
        return Outcome(code, said, output.read_text().replace(str(folder), "") if code == 0 else None)

    return predict


def report(folder: Path) -> Outcome:
    """There is no sweep, which is one line; so is damage."""
    code, said = run("report", "--outputs", str(folder / "outputs"))
    return Outcome(code, said, said if code == 0 else None)


MADE = ("outputs", "features", "exported")
RUN, EXPORTED = "outputs/test/sft", "exported"
STARTS = {
    "train": (train, (f"{RUN}/run.json", f"{RUN}/.hydra/config.yaml", f"{RUN}/.hydra/start.json", f"{RUN}/train.log")),
    "evaluate": (
        evaluate,
        (
            *(
                f"{RUN}/checkpoints/best.ckpt",
                f"{RUN}/run.json",
                "outputs/mlflow.db",
                "features/*/*/features.f16",
                "features/*/*/index.bin",
            ),
            *("outputs/artifacts/*/*/artifacts/config/resolved.yaml",),
        ),
    ),
    "predict": (predict_with(f"{RUN}/checkpoints/best.ckpt"), (f"{RUN}/checkpoints/best.ckpt", "data/video/*.mp4")),
    "predict exported": (predict_with(EXPORTED), (f"{EXPORTED}/*",)),
    "report": (report, ("outputs/mlflow.db",)),
    "resume": (
        resume,
        (
            *(f"{RUN}/checkpoints/last.ckpt", f"{RUN}/checkpoints/best.ckpt", f"{RUN}/mlflow_run_id"),
            *(f"{RUN}/.hydra/config.yaml", f"{RUN}/.hydra/start.json", f"{RUN}/.hydra/overrides.yaml", f"{RUN}/.lock"),
            *(
                "outputs/mlflow.db",
                "outputs/pretrain_encoders/checkpoints/best.ckpt",
                "features/*/*/features.f16",
                "features/*/*/index.bin",
            ),
            *("data/track2_train_mercaptionplus.csv", "data/tokenizer/tokenizer.json"),
        ),
    ),
}


@pytest.fixture(scope="module")
def base(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a finished SFT run, the evaluated policy's features, and an exported folder."""
    folder = tmp_path_factory.mktemp("base")
    shutil.copytree(workspace, folder, dirs_exist_ok=True)
    undamaged = train(folder)
    assert undamaged.code == 0, undamaged.said
    assert evaluate(folder).code == 0
    code, said = run(
        "export",
        *(f"init_from={folder}/{RUN}/checkpoints/best.ckpt", "--output", str(folder / EXPORTED), *paths(folder)),
    )
    assert code == 0, said
    return folder


def damaged_files(base: Path, patterns: tuple[str, ...]) -> Iterator[str]:
    for pattern in patterns:
        files = sorted(path for path in base.glob(pattern) if path.is_file())
        files = [path for path in files if path.stat().st_size]
        some = files[:1] if pattern.startswith(("features", "data/video", "outputs/artifacts")) else files
        assert some or pattern.endswith(".lock"), pattern
        yield from (str(path.relative_to(base)) for path in some)


def judge(file: str, damage: str, outcome: Outcome, undamaged: Outcome) -> str:
    """Say what became of the damage; a fault begins with ``FAULT``."""
    last = next((line for line in reversed(outcome.said.splitlines()) if line.strip()), "")
    if "Traceback" in outcome.said:
        return f"FAULT traceback: {last[:160]}"
    if outcome.code != undamaged.code:
        named = len(last) < 1500 and Path(file).name.split(".")[0] in last
        return f"one line: {last[:160]}" if outcome.code == 2 and named else f"FAULT {outcome.code}: {last[:160]}"
    if outcome.code:
        return f"one line: {last[:160]}" if last != undamaged.said.splitlines()[-1] else "same line as without damage"
    if outcome.result == undamaged.result:
        repaired = [line for line in outcome.said.splitlines() if "damaged" in line or "was empty" in line]
        return f"repaired: {repaired[0][-160:]}" if repaired else "no difference"
    unprotected = any(name in file for name in (*NOT_READ, *UNPROTECTED))
    return "not protected" if unprotected else "FAULT silent use"


@pytest.mark.parametrize("start", STARTS)
def test_no_damage_is_used_in_silence_or_ends_in_a_traceback(base, tmp_path_factory, start):
    command, patterns = STARTS[start]
    snapshot = tmp_path_factory.mktemp("snapshot")
    for part in MADE:
        shutil.copytree(base / part, snapshot / part, symlinks=True)

    def outcome(file: str = "", damage: str = "") -> Outcome:
        for part in MADE:
            shutil.rmtree(base / part)
            shutil.copytree(snapshot / part, base / part, symlinks=True)
        if not file:
            return command(base)
        path = base / file
        content, status = path.read_bytes(), path.stat()
        path.write_bytes(DAMAGES[damage](content))
        try:
            return command(base)
        finally:
            if file.startswith("data"):  # in place: features know their media by inode and date
                path.write_bytes(content)
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    undamaged = outcome()
    assert "Traceback" not in undamaged.said, undamaged.said
    assert undamaged.code == (2 if start == "report" else 0), undamaged.said
    faults = []
    for file in list(damaged_files(base, patterns)):
        for damage in DAMAGES:
            verdict = judge(file, damage, outcome(file, damage), undamaged).replace(str(base), "")
            print(f"| {start} | {file} | {damage} | {verdict} |", flush=True)
            if verdict.startswith("FAULT"):
                faults.append((file, damage, verdict))
    assert not faults
