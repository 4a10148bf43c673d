"""Train and evaluate on a few rendered clips with one seed, and print every value that the code computed.

``python tests/tools/fixed_seed_run.py FOLDER > values.txt``. Equal files of two commits on one machine show that a
change of the code left scores, rewards, losses and generated tokens bit-equal. ``--rename OLD=NEW`` renames options and
logged names, to compare with a commit that still had other ones.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

SIZES = ("num_caption=24", "num_exact=12", "num_validation=6", "num_test=6", "workers=1", "vocab_size=400")
COMMON = ("logger=csv", "trainer.log_every_n_steps=1", "data.eval_batch_size=4", "experiment_name=fixed")
GRPO = ("stage.num_generations=4", "data.batch_size=3", "callbacks.completions.every_n_steps=1")
RUNS = {
    "encoders": ("experiment=demo/pretrain_encoders", "trainer.max_steps=20", "trainer.val_check_interval=10"),
    "sft": ("experiment=demo/sft", "trainer.max_steps=160", "trainer.val_check_interval=80", "data.batch_size=4"),
    "grpo": (
        *("experiment=demo/grpo", "trainer.max_steps=10", "trainer.val_check_interval=5", *GRPO),
        *("stage.beta=0.04", "reward=accuracy_format", "penalty=ratio", "evaluate_after=true"),
    ),
    "grpo-reused": (
        *("experiment=demo/grpo", "trainer.max_steps=8", "trainer.val_check_interval=4", *GRPO),
        *("stage.num_iterations=2", "stage.steps_per_generation=2", "stage.loss_type=dapo", "stage.entropy_coef=0.01"),
        *("stage.max_resamples=1", "trainer.accumulate_grad_batches=2"),
    ),
    "grpo-lora": (
        *("experiment=demo/grpo", "trainer.max_steps=4", "trainer.val_check_interval=2", *GRPO, "init_from=null"),
        "model.lora={r: 4, alpha: 8, dropout: 0.0, target_modules: [q_proj, v_proj]}",
    ),
}
WALL_CLOCK = re.compile(r"time|seconds|memory|throughput|per_second")


def main() -> None:
    """Run every stage and print its values."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW")
    parser.add_argument("--prefix", default="affectgpt_r1.cli.", help="package of the commands' modules")
    options = parser.parse_args()
    names = [tuple(pair.split("=")) for pair in options.rename]

    def run(command: str, *overrides: str) -> None:
        for old, new in names:
            overrides = tuple(re.sub(rf"(?<![\w]){new}(?![\w])", old, override) for override in overrides)
        module = f"{options.prefix}{command}"
        subprocess.run([sys.executable, "-m", module, *overrides], check=True, stdout=sys.stderr)

    def renamed(name: str) -> str:
        for old, new in names:
            name = re.sub(rf"(?<![A-Za-z0-9]){old}(?![A-Za-z0-9])", new, name)
        return name

    folder = options.folder.resolve()
    paths = (f"paths.data={folder}/data", f"paths.outputs={folder}/outputs")
    run("render", *SIZES, *paths)
    for path in sorted((folder / "data").rglob("*")):
        if path.is_file() and path.suffix in (".mp4", ".wav", ".csv", ".npy", ".jsonl"):
            print("data", path.relative_to(folder), hashlib.sha256(path.read_bytes()).hexdigest()[:16])
    for name, overrides in RUNS.items():
        sft = (
            ()
            if name in ("encoders", "sft", "grpo-lora")
            else (f"init_from={folder}/outputs/sft/checkpoints/best.ckpt",)
        )
        encoders = () if name == "encoders" else (f"encoders_from={folder}/outputs/encoders/checkpoints/best.ckpt",)
        run("train", *overrides, *COMMON, *paths, *sft, *encoders, f"paths.run={folder}/outputs/{name}")
        print_run(name, folder / "outputs" / name, renamed)


def print_run(name: str, folder: Path, renamed) -> None:
    """Print logged values, completions and digests of the trained weights."""
    import torch

    with (folder / "csv" / "version_0" / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for key, value in sorted((renamed(key), value) for key, value in row.items()):
                if value and key not in ("step", "epoch") and not WALL_CLOCK.search(key):
                    print(name, row["step"], key, value)
    for path in sorted(folder.rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            values = {renamed(key): value for key, value in json.loads(line).items()}
            print(name, path.name, json.dumps(dict(sorted(values.items()))))
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for key, tensor in sorted((renamed(key), tensor) for key, tensor in state.items()):
        digest = hashlib.sha256(tensor.detach().float().contiguous().numpy().tobytes()).hexdigest()[:16]
        print(name, "weights", key, digest)


if __name__ == "__main__":
    main()
