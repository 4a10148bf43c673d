"""A step of TRL's GRPOTrainer on the benchmark's workloads, its weights and prompts those of our policy."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
import trl.trainer.utils as trl_utils
from datasets import Dataset
from grpo_workload import BETA, LEARNING_RATE, LENGTH, NUM_GENERATIONS, NUM_PROMPTS, fraction_of_even
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def reward(completions, **_) -> list[float]:
    return [fraction_of_even(text) for text in completions]


class StepClock(TrainerCallback):
    """CPU seconds of each trainer step, and what happens between steps."""

    def __init__(self, between: Callable[[float], None]) -> None:
        self.between = between

    def on_step_begin(self, *_, **__) -> None:
        self.started = time.process_time()

    def on_step_end(self, *_, **__) -> None:
        self.between(time.process_time() - self.started)


def score_completions_only(compact: bool) -> None:
    """Stock TRL scores prompt positions too on a CPU; compact is what it does on its own accelerator path."""
    trl_utils._use_triton = lambda device: compact


def build_trainer(policy, batch, folder: Path, num_steps: int, between: Callable[[float], None]) -> GRPOTrainer:
    policy.language_model.save_pretrained(folder / "model")
    prompts = [policy.tokenizer.bos_token + text for text in policy.prompts(batch)]
    arguments = GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=NUM_PROMPTS * NUM_GENERATIONS,
        num_generations=NUM_GENERATIONS,
        max_completion_length=LENGTH,
        generation_kwargs={"min_new_tokens": LENGTH},
        beta=BETA,
        loss_type="bnpo",
        use_bias_correction_kl=False,
        learning_rate=LEARNING_RATE,
        temperature=1.0,
        top_k=0,
        max_steps=num_steps,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        lr_scheduler_type="constant",
        shuffle_dataset=False,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        model_init_kwargs={"attn_implementation": "sdpa", "dtype": "float32"},
    )
    return GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts] * num_steps),
        processing_class=policy.tokenizer,
        callbacks=[StepClock(between)],
    )


def clock_phases(trainer: GRPOTrainer) -> dict[str, float]:
    """Let the trainer add its phases' CPU seconds to the mapping that is returned."""
    seconds: dict[str, float] = defaultdict(float)

    def clocked(function, name):
        def call(*arguments, **keywords):
            started = time.process_time()
            result = function(*arguments, **keywords)
            seconds[name()] += time.process_time() - started
            return result

        return call

    trainer._generate_single_turn = clocked(trainer._generate_single_turn, lambda: "generate")
    trainer._get_per_token_logps_and_entropies = clocked(
        trainer._get_per_token_logps_and_entropies, lambda: "forward" if torch.is_grad_enabled() else "reference"
    )
    trainer.accelerator.backward = clocked(trainer.accelerator.backward, lambda: "backward")
    return seconds
