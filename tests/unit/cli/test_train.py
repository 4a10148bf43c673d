"""What `train` says before anything heavy is loaded, and when it has ended."""

import subprocess
import sys

from affectgpt_r1.cli.train import closing, opening
from helpers.configs import compose_config


def test_the_first_line_names_stage_length_folder_and_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = compose_config("train", "experiment=demo/grpo", "seed=2", f"paths.run={tmp_path}/outputs/grpo")
    assert opening(config) == (
        "grpo, seed 2: 300 steps, in outputs/grpo; watch it by `make mlflow` at http://127.0.0.1:5000"
    )
    config.match_wall_time, config.logger = "other/run.json", None
    assert opening(config) == "grpo, seed 2: the wall time of other/run.json, in outputs/grpo"
    config = compose_config("train", "experiment=demo/sft", "debug=fast", f"paths.outputs={tmp_path}")
    assert opening(config) == "sft, seed 1: one batch of training and validation, in debug/demo-no_think-seed1/sft"
    assert config.data.feature_store is None  # else one batch waits until every clip is encoded


def test_the_last_lines_name_the_files_that_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = compose_config("train", "experiment=demo/grpo", f"paths.run={tmp_path}/run")
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True)
    best.touch()
    assert closing(config, {"best": 0.8126, "train/loss": 0.1}) == [
        "grpo done  best 0.813",
        "  run/checkpoints/best.ckpt  (try it: affectgpt-r1 predict FILE --checkpoint run/checkpoints/best.ckpt)",
    ]
    config = compose_config("train", "experiment=demo/pretrain_encoders", f"paths.run={tmp_path}/run")
    assert closing(config, {})[1] == "  run/checkpoints/best.ckpt  (its best weights)"


def test_the_first_line_waits_for_neither_torch_nor_lightning():
    heavy = "('torch', 'lightning', 'mlflow')"
    code = f"import sys, affectgpt_r1.cli.train; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
