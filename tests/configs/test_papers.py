"""Experiments that are named after papers hold the papers' metrics; what a paper does not print is marked as ours."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from affectgpt_r1.config.compose import CONFIGS, resolved
from affectgpt_r1.config.keys import choices_of
from helpers.configs import compose_config

ALL_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
AFFECTGPT = {
    "model.language_model.pretrained": "Qwen/Qwen2.5-7B-Instruct",
    "model.video_encoder.pretrained": "openai/clip-vit-large-patch14",
    "model.audio_encoder.pretrained": "TencentGameMate/chinese-hubert-large",
    "model.lora": {"r": 16, "alpha": 32, "dropout": 0.05, "target_modules": ALL_PROJECTIONS},
    "model.fusion": "attention",
    "data.num_frames": 8,
    "data.num_windows": 8,
    "data.window_seconds": 2.0,
    "synthetic": False,
    "encoders_from": None,
}
AFFECTGPT_SFT = {
    **AFFECTGPT,
    "stage.name": "sft",
    "data.train_labels": "track2_train_mercaptionplus.csv",
    "data.train_reasons": "track3_train_mercaptionplus.csv",
    "data.subtitles": "subtitle_chieng.csv",
    "data.visual": "face",
    "data.batch_size": 3,
    "data.num_workers": 4,
    "data.modality_dropout": 0.0,
    "data.questions": ["description", "ovlabel"],
    "optim.optimizer.lr": 1e-5,
    "optim.optimizer.betas": [0.9, 0.999],
    "optim.weight_decay": 0.05,
    "trainer.max_steps": 60 * 5000,
    "trainer.val_check_interval": 5000,
    "trainer.gradient_clip_val": None,
    "trainer.accumulate_grad_batches": 1,
}
CORRECTED = {
    "prompt.bos_at_inference": True,
    "prompt.sampling": "greedy",
    "data.channel_order": "bgr",
    "data.windows": "even",
    "data.frame_resize": "crop",
    "data.face_resize": "antialias",
    "data.empty_subtitle": "omit",
    "model.waveform_normalization": "clip",
}
R1_OMNI = {
    "synthetic": False,
    "encoders_from": None,
    "prompt.enable_thinking": True,
    "prompt.question": "As an emotional recognition expert; throughout the video, which emotion conveyed by the "
    "characters is the most obvious to you?\nOutput the thinking process in <think> </think> and final emotion in "
    "<answer> </answer> tags.",
    "prompt.max_completion_length": 512,
    "data.modalities": ["video", "audio"],
    "data.subtitles": None,
    "data.visual": "frame",
    "data.num_frames": 8,
    "optim.weight_decay": 0.0,
    "optim.scheduler.min_lr_ratio": 0.0,
}
R1_OMNI_COLD_START = {
    **R1_OMNI,
    "stage.name": "sft",
    "optim.optimizer.lr": 2e-5,
    "optim.scheduler._target_": "affectgpt_r1.training.optim.cosine_schedule",
}
R1_OMNI_RLVR = {
    **R1_OMNI,
    "stage.name": "grpo",
    "stage.num_generations": 8,
    "stage.num_iterations": 1,
    "stage.beta": 0.04,
    "stage.kl_estimator": "k3",
    "stage.loss_type": "grpo",
    "stage.scale_rewards": "group",
    "stage.sampling.temperature": 1.0,
    "stage.sampling.top_p": 1.0,
    "stage.rewards.weights": {"single_label": 1.0, "format": 1.0},
    "stage.monitor": "val/war",
    "data.sets": ["dfew", "mafw"],
    "optim.optimizer.lr": 1e-6,
    "optim.scheduler._target_": "affectgpt_r1.training.optim.linear_schedule",
    "optim.scheduler.warmup_steps": 0,
    "evaluate_after": True,
}
HUMANOMNI = {
    "model.family": "humanomni",
    "model.lora": None,
    "model.train_question_encoder": True,
    "data.frame_indices": "middle",
    "data.frame_resize": "pad",
    "data.num_windows": 1,
    "data.window_seconds": 30.0,
}
ON_AFFECTGPT = {"model.lora": AFFECTGPT["model.lora"], "data.frame_indices": "floor", "data.num_windows": 8}
PAPERS = {
    "affectgpt/mercaption": {**AFFECTGPT_SFT, **CORRECTED},
    "affectgpt/published": {
        **AFFECTGPT_SFT,
        "prompt.bos_at_inference": False,
        "data.channel_order": "rgb",
        "data.windows": "published",
        "data.frame_resize": "squash",
        "data.face_resize": "cv2",
        "data.empty_subtitle": "keep",
        "model.waveform_normalization": "joint",
        "data.feature_store": None,
        "prompt.sampling": "published",
        "optim.scheduler.warmup_steps": 5000,
        "optim.scheduler.warmup_start_ratio": 0.1,
        "optim.scheduler.min_lr_ratio": 1.0,
    },
    "affectgpt/ov_merd": {
        **AFFECTGPT_SFT,
        **CORRECTED,
        "data.train_labels": "track2_train_ovmerd.csv",
        "data.train_reasons": "track3_train_ovmerd.csv",
        "trainer.max_steps": 60 * 500,
        "trainer.val_check_interval": 500,
    },
    "affectgpt_r1/cold_start": {
        **AFFECTGPT_SFT,
        **CORRECTED,
        "prompt.enable_thinking": True,
        "prompt.question": "Please recognize emotional states of the character. Output the thinking process in <think> "
        "</think> and final answer in <answer> </answer> tags.",
        "data.questions": [],
        "trainer.val_check_interval": 15_000,
    },
    "affectgpt_r1/grpo": {
        **AFFECTGPT,
        **CORRECTED,
        "stage.name": "grpo",
        "stage.beta": 0.0,
        "stage.epsilon": 0.2,
        "stage.num_generations": 8,
        "stage.rewards.weights": {"accuracy": 1.0, "format": 0.2},
        "stage.scale_rewards": "group",
        "prompt.enable_thinking": True,
        "prompt.max_completion_length": 1024,
        "data.batch_size": 2,
        "optim.optimizer.lr": 1e-6,
        "trainer.accumulate_grad_batches": 8,
        "stage.steps_per_generation": 8,
        "trainer.gradient_clip_val": 1.0,
    },
    "affectgpt_rl/ablation": {
        **AFFECTGPT,
        **CORRECTED,
        "stage.name": "grpo",
        "experiment_name": "affectgpt-rl",
        "evaluate_after": True,
        "data.batch_size": 2,
        "optim.optimizer.lr": 1e-6,
        "optim.scheduler.warmup_steps": 10,
        "trainer.max_steps": 250,
        "trainer.val_check_interval": 200,
        "trainer.accumulate_grad_batches": 8,
        "stage.steps_per_generation": 8,
        "stage.rewards.weights": {"accuracy": 1.0, "format": 0.2},
    },
    "r1_omni/cold_start": {**R1_OMNI_COLD_START, **HUMANOMNI},
    "r1_omni/rlvr": {**R1_OMNI_RLVR, **HUMANOMNI},
    "r1_omni/on_affectgpt_cold_start": {**R1_OMNI_COLD_START, **ON_AFFECTGPT},
    "r1_omni/on_affectgpt_rlvr": {**R1_OMNI_RLVR, **ON_AFFECTGPT},
}


def composed(experiment, *overrides):
    return resolved(compose_config("train", f"experiment={experiment}", *overrides))


def at(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def test_every_experiment_of_a_paper_is_checked():
    assert {name for name in choices_of("experiment") if not name.startswith(("demo/", "smol/"))} == set(PAPERS)


@pytest.mark.parametrize("experiment", PAPERS)
def test_the_papers_figures(experiment):
    config = composed(experiment)
    assert {key: at(config, key) for key in PAPERS[experiment]} == PAPERS[experiment]


@pytest.mark.parametrize("experiment", sorted(set(PAPERS) - {"affectgpt/published", "affectgpt/ov_merd"}))
def test_what_no_paper_prints_is_marked(experiment):
    assert "ours" in (CONFIGS / "experiment" / f"{experiment}.yaml").read_text("utf-8").casefold()


@pytest.mark.parametrize(
    ("experiment", "clips", "passes", "clips_a_step"),
    [
        ("r1_omni/rlvr", 15_306, 2, 16),
        ("r1_omni/cold_start", 332 - 33, 5, 16),
        ("r1_omni/on_affectgpt_rlvr", 15_306, 2, 16),
        ("r1_omni/on_affectgpt_cold_start", 332 - 33, 5, 16),
        ("affectgpt_r1/grpo", 1000, 4, 16),
    ],
)
def test_steps_are_the_passes_over_the_clips(experiment, clips, passes, clips_a_step):
    config = composed(experiment)
    assert config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"] == clips_a_step
    assert config["trainer"]["max_steps"] == pytest.approx(clips * passes / clips_a_step, abs=1)
    validations = config["trainer"]["max_steps"] * config["trainer"]["accumulate_grad_batches"]
    assert 5 <= validations // config["trainer"]["val_check_interval"] <= 10
    eight = composed(experiment, "trainer=ddp", "trainer.devices=8", "trainer.accumulate_grad_batches=2")
    assert eight["trainer"]["max_steps"] == config["trainer"]["max_steps"]
    if config["stage"]["name"] == "grpo":  # all clips of a step are sampled at once
        assert eight["stage"]["steps_per_generation"] == 2


def test_a_reinforced_run_starts_from_its_cold_start():
    for cold, grpo in (
        ("affectgpt_r1/cold_start", "affectgpt_r1/grpo"),
        ("r1_omni/cold_start", "r1_omni/rlvr"),
        ("r1_omni/on_affectgpt_cold_start", "r1_omni/on_affectgpt_rlvr"),
    ):
        first, second = composed(cold), composed(grpo)
        assert second["init_from"] == f"{first['paths']['run']}/checkpoints/best.ckpt"
        for key in ("model.language_model", "model.lora", "prompt.question", "prompt.max_completion_length"):
            assert at(first, key) == at(second, key)
        no_think = [composed(one, "prompt=no_think") for one in (cold, grpo)]
        assert no_think[1]["init_from"] == f"{no_think[0]['paths']['run']}/checkpoints/best.ckpt" != second["init_from"]


@pytest.mark.parametrize("ablation", ["reward", "reasoning", "penalty"])
@pytest.mark.parametrize("prompt", ["think", "no_think"])
def test_a_sweep_at_the_papers_size_varies_the_reinforced_run(ablation, prompt):
    """Its trials differ from the paper's run in what the sweep varies, and start from the cold start of their mode."""
    given = [f"ablation={ablation}", f"prompt={prompt}"]
    trial, run = composed("affectgpt_rl/ablation", *given), composed("affectgpt_r1/grpo", f"prompt={prompt}")
    assert trial["sweep"]["name"] == ablation
    assert trial["init_from"] == run["init_from"]
    for key in ("data", "model", "prompt", "reward", "penalty", "optim"):
        assert trial[key] == run[key], key
    same_place = {**trial["trainer"], "default_root_dir": run["trainer"]["default_root_dir"]}
    assert same_place == run["trainer"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        hydra = compose("train", [given[0], "experiment=affectgpt_rl/ablation"], return_hydra_config=True).hydra
    assert hydra.sweeper.params.seed == "1,2,3"
    assert hydra.callbacks.sweep._target_.endswith("SweepCallback")


def test_warm_up_of_the_cold_start_is_three_hundredths():
    config = composed("r1_omni/cold_start")
    assert config["optim"]["scheduler"]["warmup_steps"] == round(0.03 * config["trainer"]["max_steps"])


@pytest.mark.parametrize("experiment", PAPERS)
def test_validation_and_checkpoints_cost_little_at_full_size(experiment):
    """Checkpoints of 0.65 GB once in minutes, and answers of a thousand clips at most a validation."""
    config = composed(experiment)
    steps = config["callbacks"]["last_checkpoint"]["every_n_steps"]
    assert steps <= 50 if config["stage"]["name"] == "grpo" or config["trainer"]["max_steps"] < 1000 else steps == 1000
    clips = {"affectgpt/mercaption": 31_327, "affectgpt/published": 31_327, "affectgpt_r1/cold_start": 31_327}.get(
        experiment, 332
    )
    fraction = config["data"].get("val_fraction", 0.1)
    assert 30 <= round(fraction * clips) <= 1010
    assert config["stage"]["monitor"] in ("val/f1", "val/war")
    assert config["data"]["num_workers"] == 4
