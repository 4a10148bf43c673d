"""Synthetic MLflow runs as the sweep writes them."""

import json
import math
import random
import shutil
import struct
import zlib

import pytest

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1, score_table
from affectgpt_r1.tracking.database import ensure_experiment
from helpers.mlflow_fixtures import database_template, outputs

__all__ = ["database_template", "outputs"]

collect_ignore = ["conftest.py"]

WORDS = ("happy", "joyful", "sad", "lonely", "angry", "annoyed", "afraid", "nervous", "surprised", "disgusted", "proud")
SKILL = {
    "reward": {"none": 0.3, "format": 0.32, "accuracy": 0.5, "accuracy_format": 0.7, "all": 0.45},
    "reasoning": {"think": 0.6, "no_think": 0.7, "no_think_untrained": 0.3},
    "penalty": {"none": 0.7, "inverse_gap": 0.66, "ratio": 0.68, "log_ratio": 0.69},
}  # fmt: skip
BASELINES = {"reward": "accuracy_format", "reasoning": "think", "penalty": "none"}
SHARED = {("reasoning", "think"): ("reward", "accuracy_format"), ("penalty", "none"): ("reasoning", "no_think")}
UNTRAINED = {("reward", "none"), ("reasoning", "no_think_untrained")}
PROMPTS = {"reward": "think", "penalty": "no_think"}
SEEDS = (1, 2, 3)
SCRIPT = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"


def png(width=64, height=64, shade=120):
    """A grey PNG file with a gradient."""
    rows = b"".join(b"\x00" + bytes((shade + x + y) % 256 for x in range(width)) for y in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# What version 0.1 called them; written down here, so that the table of old names is held to it.
OLD_NAMES = {
    "test/answers/unmapped_rate": "test/answers/unmapped_share",
    "val/answers/clusters_named_fraction": "val/answers/clusters_named_share",
    "trial": "cell",
    "trials.json": "cells.json",
}


class SweepWriter:
    """Writes sweeps into the MLflow database of an outputs folder, under ``old_names`` where given."""

    def __init__(self, outputs, clips=40, old_names=()):
        from mlflow.tracking import MlflowClient

        uri = f"sqlite:///{outputs / 'mlflow.db'}"
        self.client = MlflowClient(uri)
        self.experiment = ensure_experiment(uri, "ablations", outputs / "artifacts")
        self.old_names = dict(old_names)
        rng = random.Random(0)
        self.targets = {f"clip{i:03d}": rng.sample(WORDS, rng.randint(1, 3)) for i in range(clips)}

    def parent(self, name, trials, **tags):
        given = {"affectgpt.kind": "sweep", "affectgpt.sweep": name, "affectgpt.synthetic": "true",
                 "affectgpt.baseline": BASELINES[name], **tags}  # fmt: skip
        run = self.client.create_run(self.experiment, run_name=name, tags=given)
        if trials is not None:
            self.client.log_text(run.info.run_id, json.dumps(trials), self._name("trials.json"))
        self.client.set_terminated(run.info.run_id)
        return run.info.run_id

    def clips(self, run_id, tmp_path, names):
        entries = []
        for place, name in enumerate(names):
            frames = [f"{name}-{k}.png" for k in range(3)]
            for k, frame in enumerate(frames):
                (tmp_path / frame).write_bytes(png(shade=30 * place + 20 * k))
                self.client.log_artifact(run_id, str(tmp_path / frame), "clips")
            subtitle = f"{SCRIPT} I said no!" if place == 0 else "What a lovely day!"
            entries.append({"name": name, "subtitle": subtitle, "target": self.targets[name], "frames": frames})
        self.client.log_text(run_id, json.dumps(entries), "clips/clips.json")

    def trial(self, sweep, choice, seed, parent=None, status="FINISHED", steps=30):
        """One run; returns its entry in trials.json."""
        rng = random.Random(f"{sweep}{choice}{seed}")
        tags = {"affectgpt.kind": self._name("trial"), "affectgpt.seed": str(seed), "affectgpt.synthetic": "true"}
        tags["affectgpt.prompt"] = choice.removesuffix("_untrained") if sweep == "reasoning" else PROMPTS[sweep]
        if parent:
            tags["mlflow.parentRunId"] = parent
        run_id = self.client.create_run(self.experiment, run_name=f"{sweep}-{choice}-seed{seed}", tags=tags).info.run_id
        if status == "FINISHED":
            rows = [self._answer(rng, sweep, choice, name) for name in self.targets]
            self._log_test(run_id, rows)
        if (sweep, choice) not in UNTRAINED:
            self._log_curves(run_id, rng, choice, SKILL[sweep][choice], steps)
        if (choice, seed) == ("accuracy", 2):
            self.client.set_tag(run_id, "affectgpt.reward_hacking", "30")
        if status != "RUNNING":
            self.client.set_terminated(run_id, status)
        return {"choice": choice, "seed": seed, "config_hash": f"{sweep}{choice}{seed}", "run_id": run_id}

    def _name(self, name):
        return self.old_names.get(name, name)

    def _answer(self, rng, sweep, choice, name):
        target = self.targets[name]
        words = [word if rng.random() < SKILL[sweep][choice] else rng.choice(WORDS) for word in target]
        if choice in ("accuracy_format", "none") and rng.random() < 0.6:
            words += rng.sample(WORDS, 3)
        if name == "clip000":
            words.append(SCRIPT)
        return {"name": name, "target": target, "openset": words, "completion": f"<answer>{', '.join(words)}</answer>"}

    def _log_test(self, run_id, rows):
        from mlflow.entities import Metric

        lexicon = load_lexicon("bundled")
        predictions, targets = ([tuple(row[key]) for row in rows] for key in ("openset", "target"))
        scores = score_table(predictions, targets, lexicon)["mean_level1"]
        for row, score in zip(rows, batch_mean_set_f1(predictions, targets, lexicon), strict=True):
            row["f1"] = score
        words = [word for prediction in predictions for word in prediction]
        distinct = sum(len(set(prediction)) for prediction in predictions)
        metrics = {f"test/{name}": value for name, value in scores.items()} | {
            "test/answers/distinct_words": distinct / len(rows),
            "test/answers/repeated_words": (len(words) - distinct) / len(rows),
            "test/answers/unmapped_rate": sum(word not in lexicon for word in words) / len(words),
            "test/answers/format_rate": 0.975,
            "test/answers/target_words": sum(len(set(target)) for target in targets) / len(rows),
        }
        self.client.log_batch(
            run_id, metrics=[Metric(self._name(name), value, 0, 0) for name, value in metrics.items()]
        )
        text = "\n".join(json.dumps(row) for row in rows) + "\n"
        self.client.log_text(run_id, text, "test/answers.jsonl")

    def _log_curves(self, run_id, rng, choice, skill, steps):
        from mlflow.entities import Metric

        points = []
        for step in range(1, steps + 1):
            gain = 1 - math.exp(-3 * step / steps)
            noise = rng.gauss(0, 0.03)
            values = {
                "train/reward": 0.3 + (skill - 0.3) * gain + noise,
                "train/rewards/accuracy/mean": 0.3 + (skill - 0.3) * gain + noise,
                "train/entropy": 1.2 - 0.7 * gain + noise,
                "train/frac_reward_zero_std": min(1.0, max(0.0, 0.1 + 0.4 * gain + noise)),
            }
            if choice in ("accuracy_format", "all"):
                values["train/rewards/format/mean"] = 0.9 + 0.09 * gain + noise / 10
            if step % 10 == 0:
                values["val/answers/clusters_named_fraction"] = 0.2 + 0.1 * gain
                values["val/f1"] = 0.35 + (skill - 0.3) * gain + noise
                values["val/answers/distinct_words"] = (
                    2 + (2 * gain if choice in ("accuracy_format", "none") else 0) + noise
                )
            points += [Metric(self._name(key), value, 1000 * step, step) for key, value in values.items()]
        for start in range(0, len(points), 900):
            self.client.log_batch(run_id, metrics=points[start : start + 900])


def write_all(writer, tmp_path):
    entries = {}
    for sweep, choices in SKILL.items():
        trials = []
        for choice in choices:
            if (sweep, choice) in SHARED:
                trials += [{**entry, "choice": choice} for entry in entries[SHARED[sweep, choice]]]
            elif (sweep, choice) in UNTRAINED:
                only = writer.trial(sweep, choice, 1)
                trials += [{**only, "seed": seed} for seed in SEEDS]
            else:
                entries[sweep, choice] = [writer.trial(sweep, choice, seed) for seed in SEEDS]
                trials += entries[sweep, choice]
        parent = writer.parent(sweep, trials)
        if sweep == "reward":
            writer.clips(parent, tmp_path, ["clip000", "clip001", "clip002"])


@pytest.fixture(scope="session")
def swept(tmp_path_factory, database_template):
    """An outputs folder with all three sweeps; read only."""
    folder = tmp_path_factory.mktemp("swept")
    shutil.copy(database_template, folder / "mlflow.db")
    write_all(SweepWriter(folder), folder)
    return folder


@pytest.fixture(scope="session")
def make_writer():
    return SweepWriter


@pytest.fixture(scope="session")
def old_names():
    return OLD_NAMES


@pytest.fixture
def writer(outputs):
    return SweepWriter(outputs, clips=6)
