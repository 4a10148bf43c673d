"""The workloads of the GRPO benchmark, and a step of this package's own policy, stage and loss on them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import OmegaConf

from affectgpt_r1.callbacks.step_timer import PhaseTimer
from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.engine.fast import FastEngine
from affectgpt_r1.policy.backbone import build_language_model
from affectgpt_r1.policy.build_policy import build_policy
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.policy.tokenizer import build_tokenizer
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.types import ClipBatch, Sampling

NUM_PROMPTS, NUM_GENERATIONS, LENGTH, BETA, LEARNING_RATE = 4, 8, 48, 0.04, 1e-6
HIDDEN, LAYERS, HEADS, INTERMEDIATE = 256, 4, 4, 1024
WORDS = ("happy", "sad", "angry", "calm")


class Workload(NamedTuple):
    """Prompt tokens ``P`` and vocabulary ``V``."""

    prompt_tokens: int
    vocabulary: int


WORKLOADS = {
    "i": Workload(160, 2048),
    "ii": Workload(400, 2048),
    "iii": Workload(160, 49152),
    "short": Workload(32, 2048),
    "large_vocabulary": Workload(160, 151936),
}


class EvenTokens:
    """A cheap reward that differs inside a group: the fraction of even characters."""

    name = "even"

    def __call__(self, *, completions, targets) -> list[float | None]:
        return [fraction_of_even(completion.text) for completion in completions]


def fraction_of_even(text: str) -> float:
    return sum(ord(character) % 2 == 0 for character in text) / max(len(text), 1)


def build(workload: Workload, folder: Path) -> tuple[MultimodalPolicy, ClipBatch]:
    """A policy, and text-only prompts of exactly ``P`` tokens."""
    torch.manual_seed(0)
    template = PromptTemplate("Please recognize emotional states of the character.")
    build_tokenizer([" ".join(WORDS)] * 8, template.phrases(), 400, folder / "tokenizer.json")
    config = OmegaConf.load(CONFIGS / "model" / "tiny.yaml")
    config.tokenizer, config.video_encoder.image_size = str(folder / "tokenizer.json"), 48
    config.language_model.hidden_size = HIDDEN
    arguments = OmegaConf.to_container(config, resolve=True)
    del arguments["_target_"]
    parts = build_policy(**arguments, template=template)
    model = build_language_model(workload.vocabulary, language_model_config(workload))
    policy = MultimodalPolicy(model, parts.encoders, parts.fusion, parts.tokenizer, parts.template, FastEngine(model))
    ban_stops(policy)
    return policy, text_batch(policy, workload.prompt_tokens)


def language_model_config(workload: Workload) -> dict[str, object]:
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    }


def ban_stops(policy: MultimodalPolicy) -> None:
    """Force the completion length, as TRL does by ``min_new_tokens``: tokens that end a completion are never drawn."""
    special = policy.special_tokens
    banned = [*special.banned_ids, policy.turn_ids[0], policy.tokenizer.eos_token_id]
    policy.special_tokens = special._replace(banned_ids=banned)


def text_batch(policy: MultimodalPolicy, prompt_tokens: int) -> ClipBatch:
    def batch(digits: Sequence[int]) -> ClipBatch:
        return ClipBatch(
            names=WORDS,
            subtitles=tuple(word + "7" * count for word, count in zip(WORDS, digits, strict=True)),
            labels=(("happy",),) * NUM_PROMPTS,
            reasons=("",) * NUM_PROMPTS,
            modalities=(("text",),) * NUM_PROMPTS,
        )

    short = policy.embed_prompts(batch([1] * NUM_PROMPTS)).mask.sum(1).tolist()
    prompts = batch([prompt_tokens - length + 1 for length in short])  # the tokenizer has no merge of digits
    lengths = policy.embed_prompts(prompts).mask.sum(1).tolist()
    assert lengths == [prompt_tokens] * NUM_PROMPTS, lengths
    return prompts


class OurSystem:
    """GRPO steps by this package's own policy and stage."""

    def __init__(self, policy: MultimodalPolicy, batch: ClipBatch) -> None:
        self.policy, self.batch = policy, batch
        self.stage = GRPOStage(
            WeightedRewards({"even": EvenTokens()}, {"even": 1.0}),
            load_lexicon("bundled"),
            Sampling(max_completion_length=LENGTH),
            num_generations=NUM_GENERATIONS,
            beta=BETA,
            loss_type="bnpo",
        )
        self.parameters = list(policy.language_model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        self.stage.prepare(policy)
        policy.train()
        self.timer = PhaseTimer(clock=time.process_time)
        policy.phase = self.stage.phase = self.timer.phase
        self.steps = 0

    def step(self) -> dict[str, float]:
        """CPU seconds of a step, in all and by phase."""
        self.timer.take()
        started = time.process_time()
        output = self.stage.training_step(self.policy, self.batch, seed=self.steps)
        with self.timer.phase("backward"):
            output.loss.backward()
        with self.timer.phase("optimizer"):
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        seconds = time.process_time() - started
        self.steps += 1
        assert float(output.logs["completions/min_length"]) == LENGTH
        return {"step": seconds, **self.timer.take()}


def necessary_flops(workload: Workload) -> float:
    """Multiplications and additions that no exact GRPO step can leave out, each prompt and completion computed once.

    Sampling runs every token through the body forward, the reference does so once more, the update needs the backward
    pass of every token (twice the forward) and the forward pass of the completions (the prompts' was sampling's).
    Of a prompt the last layer owes its keys and values alone. The head runs forward three times over completion tokens
    and twice backward.
    """
    completions = NUM_PROMPTS * NUM_GENERATIONS
    prompt_tokens, own_tokens = NUM_PROMPTS * workload.prompt_tokens, completions * (LENGTH - 1)
    layer = 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE)
    keys_and_values = 2 * 2 * HIDDEN * HIDDEN
    prompt_pairs = NUM_PROMPTS * workload.prompt_tokens * (workload.prompt_tokens + 1) / 2
    own_pairs = completions * ((LENGTH - 1) * workload.prompt_tokens + (LENGTH - 1) * LENGTH / 2)
    prompt_pass = ((LAYERS - 1) * layer + keys_and_values) * prompt_tokens + 4 * HIDDEN * (LAYERS - 1) * prompt_pairs
    own_pass = LAYERS * (layer * own_tokens + 4 * HIDDEN * own_pairs)
    head = 2 * HIDDEN * workload.vocabulary * completions * LENGTH
    return 4 * prompt_pass + 5 * own_pass + 5 * head


def matmul_rate() -> float:
    """Floating-point operations per CPU second in a matrix product of the layers' shape."""
    first, second = torch.randn(2048, HIDDEN), torch.randn(HIDDEN, INTERMEDIATE)
    rates = []
    for _ in range(20):
        started = time.process_time()
        for _ in range(4):
            first @ second
        rates.append(4 * 2 * first.numel() * INTERMEDIATE / (time.process_time() - started))
    return sorted(rates)[-3]
