"""Sampling 16 clips of an optimizer step at once against two by two: CPU time of the rollouts, interleaved."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from omegaconf import OmegaConf

from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.policy.build_policy import build_policy
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.policy.tokenizer import build_tokenizer
from affectgpt_r1.training.rollout_buffer import select_clips
from affectgpt_r1.types import ClipBatch, Sampling

CLIPS, MICRO_BATCH, NUM_GENERATIONS, ROUNDS = 16, 2, 8, 5
SAMPLING = Sampling(max_completion_length=64)


def test_one_rollout_a_step(tmp_path: Path):
    torch.set_num_threads(1)
    template = PromptTemplate("Please recognize emotional states of the character.")
    build_tokenizer(["<answer> happy, sad </answer>"], template.phrases(), 400, tmp_path / "tokenizer.json")
    config = OmegaConf.load(CONFIGS / "model" / "tiny.yaml")
    config.tokenizer, config.video_encoder.image_size = str(tmp_path / "tokenizer.json"), 48
    arguments = OmegaConf.to_container(config, resolve=True)
    del arguments["_target_"]
    policy = build_policy(**arguments, template=template)
    batch = ClipBatch(
        names=tuple(f"clip{number}" for number in range(CLIPS)),
        subtitles=("That is good news.",) * CLIPS,
        labels=(("happy",),) * CLIPS,
        reasons=("",) * CLIPS,
        modalities=(("video", "audio", "text"),) * CLIPS,
        features={"video": torch.randn(CLIPS, 8, 64), "audio": torch.randn(CLIPS, 8, 64)},
    )

    def seconds(clips_at_once: int) -> float:
        started = time.process_time()
        for first in range(0, CLIPS, clips_at_once):
            part = select_clips(batch, range(first, first + clips_at_once))
            with torch.no_grad():
                policy.generate(part, NUM_GENERATIONS, SAMPLING, torch.Generator().manual_seed(first))
        return time.process_time() - started

    ratios = [seconds(CLIPS) / seconds(MICRO_BATCH) for _ in range(ROUNDS + 1)][1:]
    print(f"\nrollouts of {CLIPS} clips at once: {statistics.median(ratios):.2f} of the time of {MICRO_BATCH} at once")
    assert statistics.median(ratios) <= 0.6
