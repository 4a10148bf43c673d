"""R1-Omni's two stages by their experiment files: cold start, then GRPO on DFEW and MAFW in their native folders."""

from __future__ import annotations

import json
import shutil

import pytest

from affectgpt_r1.cli.train import train
from affectgpt_r1.errors import ConfigError
from helpers.configs import compose_config

SMALL = (
    "model=humanomni_tiny",
    "trainer=cpu",
    "trainer.accumulate_grad_batches=1",
    "trainer.val_check_interval=1",
    "prompt.max_completion_length=8",
)
ROWS = {"train": (("1", 1), ("2", 2), ("3", 4)), "test": (("4", 1), ("5", 2))}
CLASSES = {1: "happiness", 2: "sadness", 4: "anger"}


@pytest.fixture
def native(workspace, tmp_path):
    """Both sets with the clips of the synthetic set, under their own names and folders."""
    clips = iter(sorted((workspace / "data" / "video").glob("*.mp4")))
    for split, rows in ROWS.items():
        dfew = tmp_path / f"DFEW/EmoLabel_DataSplit/{split}(single-labeled)/set_1.csv"
        mafw = tmp_path / f"MAFW/Train & Test Set/single/no_caption/set_1/{split}.txt"
        for file in (dfew, mafw):
            file.parent.mkdir(parents=True, exist_ok=True)
        dfew.write_text("video_name,label\n" + "".join(f"{clip},{label}\n" for clip, label in rows))
        mafw.write_text("".join(f"{int(clip):05}.mp4 {CLASSES[label]}\n" for clip, label in rows))
        for clip, _ in rows:
            for place in (f"DFEW/Clip/original/part_1/{clip}.mp4", f"MAFW/data/clips/{int(clip):05}.mp4"):
                (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(next(clips), tmp_path / place)
    return tmp_path


@pytest.fixture
def metrics_of(stage_overrides, workspace):
    """Run a step of an experiment; returns its metrics."""

    def run(experiment, run_folder, *overrides):
        tokenizer = f"paths.tokenizer={workspace}/data/tokenizer/tokenizer.json"
        every = stage_overrides(experiment, run_folder, 1, *SMALL, tokenizer, *overrides)
        return train(compose_config("train", *every))

    return run


def test_cold_start_then_grpo(metrics_of, native, tmp_path):
    sft = metrics_of("r1_omni/cold_start", tmp_path / "sft", "data.validation_labels=track2_validation.csv")
    assert {"train/loss", "val/f1"} <= set(sft)
    grpo = metrics_of(
        "r1_omni/rlvr",
        tmp_path / "grpo",
        f"paths.data={native}",
        f"paths.outputs={tmp_path}/outputs",
        f"init_from={tmp_path}/sft/checkpoints/last.ckpt",
        "stage.num_generations=2",
    )
    recalls = {f"{where}/{name}" for where in ("val", "test/dfew", "test/mafw") for name in ("war", "uar")}
    assert {"train/kl", "train/rewards/single_label/mean", *recalls} <= set(grpo)
    assert all(0 <= grpo[name] <= 1 for name in recalls)
    answers = (tmp_path / "grpo/test/answers.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["name"] for line in answers] == ["dfew_00004", "dfew_00005", "mafw_00004", "mafw_00005"]
    linked = tmp_path / "outputs/recognition/dfew-mafw-fold1/video/mafw_00001.mp4"
    assert linked.resolve() == (native / "MAFW/data/clips/00001.mp4").resolve()


def test_no_test_clips_to_evaluate_ends_the_run_before_it_trains(run_stage, tmp_path):
    with pytest.raises(ConfigError, match="evaluate_after=true answers the test clips"):
        run_stage("sft", tmp_path / "sft", 1, "evaluate_after=true", "data.test_labels=null")
    assert not (tmp_path / "sft" / "checkpoints").exists()
