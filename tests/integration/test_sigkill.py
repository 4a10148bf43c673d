"""SIGKILL at any moment, and the same command again: weights, record and MLflow are those of a run never cut.

``make test-slow`` runs it. Each kill has its line, with where it fell and how the run ended.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from affectgpt_r1.cli.train import train
from affectgpt_r1.data.feature_store import FEATURES, INDEX
from affectgpt_r1.rewards.format import FormatReward
from helpers.configs import compose_config
from helpers.killed_runs import TARGETS, Kill, calls_of, run_killed
from helpers.processes import TWO, become_rank, held_port
from helpers.recorded import letters

pytestmark = pytest.mark.slow

SEED = 13
NUM_KILLS = {("sft", 1): 20, ("grpo", 1): 20, ("sft", 2): 10, ("grpo", 2): 10}
"""Kills by experiment and number of processes; some runs are killed once more when they continue."""

LORA = "model.lora={r: 4, alpha: 8, dropout: 0.2, target_modules: [q_proj, v_proj]}"
COMMON = (
    *("logger=mlflow", "experiment_name=killed", "data.batch_size=1", "trainer.log_every_n_steps=1"),
    *("trainer.accumulate_grad_batches=2", "callbacks.last_checkpoint.every_n_steps=2", "evaluate_after=true"),
    *("prompt.max_completion_length=8", LORA),
)
OPTIONS = {
    "sft": ("trainer.val_check_interval=3", "data.modality_dropout=0.3", "stage.monitor=val/loss"),
    "grpo": (
        *("stage.monitor=train/entropy", "stage.mode=max"),  # better and worse, where no answer is well formed
        *("trainer.val_check_interval=5", "stage.num_iterations=2", "stage.steps_per_generation=2"),
        *("stage.num_generations=2", "stage.beta=0.04", "stage.loss_type=dapo", "stage.entropy_coef=0.01"),
    ),
}
STEPS = 8
WALL_CLOCK = re.compile(r"(^|/)(time|step_time|epoch_time)|seconds|per_second|memory|_ms$|throughput")
"""Names of metrics that no two runs share."""


class Outcome(NamedTuple):
    """What a run leaves, wall-clock values aside; equal in a run that was cut and one that was not."""

    last: dict[str, Any]
    best: dict[str, Any]
    record: dict[str, Any]
    status: str
    metrics: dict[str, list[tuple[int, float]]]
    answers: str
    features: dict[str, Any]


def outcome_of(outputs: Path, experiment: str) -> Outcome:
    run = outputs / "killed" / experiment
    last, best = (checkpoint_of(run / "checkpoints" / f"{name}.ckpt") for name in ("last", "best"))
    record = json.loads((run / "run.json").read_text())
    for name in [name for name in record if WALL_CLOCK.search(name) or name in ("resumed_at", "digest")]:
        del record[name]
    record["metrics"] = {name: value for name, value in record["metrics"].items() if not WALL_CLOCK.search(name)}
    status, metrics = tracked(outputs, (run / "mlflow_run_id").read_text().strip())
    answers = (run / "test" / "answers.jsonl").read_text()
    features = stored_features(outputs / "features")
    return Outcome(last, best, record, status, metrics, answers, features)


def stored_features(folder: Path) -> dict[str, Any]:
    """Return the newest features of every clip, by the hash of its name."""
    features = {}
    for pack in sorted(folder.glob("*/*.pack")):
        records = np.fromfile(pack / INDEX, np.uint64).reshape(-1, 4)
        values = np.fromfile(pack / FEATURES, np.float16).reshape(len(records), -1)
        features |= {
            f"{key:x}": torch.from_numpy(row) for (key, *_, done), row in zip(records, values, strict=True) if done
        }
    return features


def checkpoint_of(path: Path) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    (states,) = (one["state"] for one in content["optimizer_states"])
    moments = {f"{key}.{name}": value for key, state in states.items() for name, value in state.items()}
    (score,) = (
        float(one["best_model_score"]) for key, one in content["callbacks"].items() if key.startswith("BestCheckpoint")
    )
    return {"step": content["global_step"], "position": content["position"], "score": score, **content["state_dict"],
            **moments}  # fmt: skip


def tracked(outputs: Path, run_id: str) -> tuple[str, dict[str, list[tuple[int, float]]]]:
    """Return status and metrics of a run, steps that were repeated once; others than this one must not be RUNNING."""
    with closing(sqlite3.connect(outputs / "mlflow.db")) as database:
        statuses = dict(database.execute("select run_uuid, status from runs"))
        rows = database.execute("select distinct key, step, value, is_nan from metrics where run_uuid = ?", (run_id,))
        metrics: dict[str, list[tuple[int, float]]] = {}
        for key, step, value, is_nan in sorted(rows):
            if not WALL_CLOCK.search(key):
                metrics.setdefault(key, []).append((step, "nan" if is_nan else value))
    return statuses[run_id], metrics


def temporary_files(folder: Path) -> list[str]:
    """List what killed processes left half-written."""
    temporary = re.compile(r"partial|\.safetensors\.|-journal$")
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if temporary.search(path.name)]


def left_over(outputs: Path, experiment: str) -> list[str]:
    """List temporary files in the run's folder, and MLflow runs of dead processes that pass for running."""
    with closing(sqlite3.connect(outputs / "mlflow.db")) as database:
        running = database.execute("select run_uuid from runs where status = 'RUNNING'").fetchall()
    return [*temporary_files(outputs / "killed" / experiment), *(f"MLflow run {one}" for (one,) in running)]


def differences(expected: Outcome, found: Outcome) -> list[str]:
    """List where two outcomes differ, by name."""
    different = []
    for part, one, other in zip(Outcome._fields, expected, found, strict=True):
        if isinstance(one, dict):
            names = one.keys() | other.keys()
            different += [f"{part}: {name}" for name in sorted(names) if not same(one.get(name), other.get(name))]
        elif one != other:
            different.append(f"{part}: {one} {other}"[:200])
    return different


def same(one: Any, other: Any) -> bool:
    return (
        torch.equal(one, other) if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) else one == other
    )


def train_as(rank: int, port: int | None, overrides: tuple[str, ...], launches: bool) -> None:
    """Train in this process: alone, as one of two that a launcher started, or as the first, which starts the other."""
    if port is not None:
        become_rank(rank, port)
    elif launches:  # what Lightning starts: python -m affectgpt_r1.cli.train OVERRIDES
        sys.modules["__main__"].__spec__ = find_spec("affectgpt_r1.cli.train")
        sys.argv = ["train", *overrides]
    else:
        FormatReward.__call__ = letters
    train(compose_config("train", *overrides))


class Runs:
    """Runs of one command, each in an outputs folder of its own."""

    def __init__(self, workspace: Path, folder: Path, start: str, experiment: str, num_processes: int) -> None:
        self.folder, self.experiment, self.num_processes = folder, experiment, num_processes
        self.overrides = (
            *(f"experiment=demo/{experiment}", f"paths.data={workspace}/data", f"trainer.max_steps={STEPS}"),
            *(f"encoders_from={workspace}/outputs/pretrain_encoders/checkpoints/best.ckpt", "data.eval_batch_size=4"),
            *("optim.scheduler.total_steps=20", "callbacks.completions.console_rows=0"),
            *(("trainer=ddp", *TWO) if num_processes > 1 else ()),
            *COMMON,
            *OPTIONS[experiment],
            *((f"init_from={start}",) if experiment == "grpo" else ()),
        )

    def run(self, name: str, kill: Kill | None = None, *, launches: bool = False) -> list[int]:
        """Run the command; returns the processes' exit codes."""
        outputs = self.folder / name
        outputs.mkdir(exist_ok=True)
        overrides = (*self.overrides, f"paths.outputs={outputs}")
        num_processes = 1 if launches else self.num_processes
        start = partial(run_killed, train_as, num_processes, kill=kill, log=outputs / "output.txt")
        if num_processes == 1:
            return start(None, overrides, launches)
        with held_port() as port:
            return start(port, overrides, launches)


class Reference(NamedTuple):
    """A run that was never cut."""

    runs: Runs
    outcome: Outcome
    calls: dict[str, int]
    seconds: float


@pytest.fixture(scope="module")
def start(run_stage, tmp_path_factory) -> str:
    """Train a policy to start from, here, which imports all that the forked processes need."""
    folder = tmp_path_factory.mktemp("start")
    options = (LORA, "logger=mlflow", "evaluate_after=true")
    return f"{run_stage('sft', folder / 'sft', 2, *options)}/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def reference(workspace, start, tmp_path_factory):
    """``reference(experiment, num_processes)``: the run that no kill cuts, once."""

    @cache
    def build(experiment: str, num_processes: int) -> Reference:
        runs = Runs(workspace, tmp_path_factory.mktemp("runs"), start, experiment, num_processes)
        began = time.monotonic()
        codes = runs.run("uncut")
        seconds = time.monotonic() - began
        outputs = runs.folder / "uncut"
        assert not any(codes), (outputs / "output.txt").read_text()[-3000:]
        assert left_over(outputs, experiment) == []
        outcome = outcome_of(outputs, experiment)
        assert outcome.status == "FINISHED"
        assert 1 < outcome.best["step"] < outcome.last["step"] == STEPS or experiment == "sft"
        assert outcome.record["best"] == outcome.best["score"]
        return Reference(runs, outcome, calls_of(outputs), seconds)

    return build


@pytest.fixture(scope="module")
def say(request) -> Iterator[Callable[[str], None]]:
    """Print a line, captured or not; and at the end, how many kills there were."""
    plugins = request.config.pluginmanager
    terminal, capture = (plugins.get_plugin(name) for name in ("terminalreporter", "capturemanager"))
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        with capture.global_and_fixture_disabled():
            terminal.write_line(f"\n{line}")

    yield write
    kills, equal = (sum(line.count(word) for line in lines) for word in (" killed ", ": equal"))
    with capture.global_and_fixture_disabled():
        terminal.write_line(f"\n{kills} kills of {len(lines)} runs, of which {equal} ended as if there had been none")


def planned(experiment: str, num_processes: int) -> Iterator[tuple[str, int, int]]:
    for number in range(NUM_KILLS[experiment, num_processes]):
        yield experiment, num_processes, number


def draw_kills(reference: Reference, number: int, *, launches: bool) -> list[Kill]:
    """Draw the kills of a run: the moments in turn, at a random call; every fourth run is killed once more."""
    experiment, num_processes = reference.runs.experiment, reference.runs.num_processes
    order = [*TARGETS, "time", "time", "time"]
    random.Random(f"{SEED} {experiment} {num_processes}").shuffle(order)
    draw = random.Random(f"{SEED} {experiment} {num_processes} {number}")
    moment = order[number % len(order)]
    if moment == "time":
        kills = [Kill(moment, round(draw.uniform(0.1, 0.9) * reference.seconds * 1000))]
    else:
        is_everywhere = moment in ("step", "validation begins", "validation ends") and not launches
        rank = draw.randrange(num_processes) if is_everywhere else 0
        kills = [Kill(moment, draw.randint(1, reference.calls[moment]), draw.choice(["before", "after"]), rank)]
    return kills + [Kill("move", draw.randint(1, 8))] * (number % 4 == 2)


@pytest.mark.parametrize(
    ("experiment", "num_processes", "number"), [one for which in NUM_KILLS for one in planned(*which)]
)
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(reference, say, experiment, num_processes, number):
    uncut = reference(experiment, num_processes)
    name, launches = f"kill_{number}", num_processes > 1 and number % 5 == 1
    told = []
    for kill in draw_kills(uncut, number, launches=launches):
        codes = uncut.runs.run(name, kill, launches=launches)
        told.append(f"{'killed' if -signal.SIGKILL in codes else 'ended'} {kill.describe()}")
        assert -signal.SIGKILL in codes or kill.moment == "time" or len(told) > 1, codes
    outputs = uncut.runs.folder / name
    had = sorted(path.name for path in outputs.glob("killed/*/checkpoints/*"))
    codes = uncut.runs.run(name, Kill("none", 0), launches=launches)
    found = [f"exit codes {codes}"] if any(codes) else left_over(outputs, experiment)
    found += [] if any(codes) else differences(uncut.outcome, outcome_of(outputs, experiment))
    how = "" if num_processes == 1 else " on 2, started by Lightning," if launches else " on 2"
    seen, elsewhere = ", ".join(had) or "no checkpoint", len(temporary_files(outputs))
    rest = f", {elsewhere} temporary files outside the run's folder" if elsewhere else ""
    say(f"{experiment}{how} {'; '.join(told)}; left {seen}: {'; '.join(found) or 'equal'}{rest}")
    assert not found, (outputs / "output.txt").read_text()[-3000:]
    shutil.rmtree(outputs)
