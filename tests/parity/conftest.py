"""TRL's GRPOTrainer on a tiny Qwen2, and this package's stage on the same weights and the same rollouts."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.engine.reference import entropy_from_logits, selective_log_softmax
from affectgpt_r1.policy.base import LogpsAndEntropies
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.training.grpo import GRPOStage
from affectgpt_r1.types import ClipBatch, Completion, Rollout, Sampling, TokenBatch

NUM_CLIPS, NUM_GENERATIONS, MAX_LENGTH, TEMPERATURE = 4, 4, 10, 0.9
WORDS = [f"word{number}" for number in range(40)]
PROMPTS = ["word1 word2 word3 word4", "word5 word6", "word7 word8 word9", "word10"]
SAMPLING = Sampling(temperature=TEMPERATURE, max_completion_length=MAX_LENGTH)
EOS = 1
TRL_DEFAULTS = {
    "loss_type": "dapo",
    "importance_sampling_level": "token",
    "beta": 0.0,
    "delta": None,
    "use_bias_correction_kl": False,
    "entropy_coef": 0.0,
    "top_entropy_quantile": 1.0,
}
WEIGHTS = {"first": 1.0, "second": 0.5}


def recorded_rewards() -> Tensor:
    """``(B * G, 2)``: the second reward applies to some completions only, and to one completion none does."""
    rewards = torch.rand(NUM_CLIPS * NUM_GENERATIONS, 2, generator=torch.Generator().manual_seed(5))
    rewards[2, 1] = rewards[9, 1] = torch.nan
    rewards[6] = torch.nan
    rewards[12:] = 0.25  # a group of equal rewards
    return rewards


@dataclass
class RecordedReward:
    """Yields a column of :func:`recorded_rewards`."""

    column: int
    name: str = "recorded"

    def __call__(self, *, completions: list[Completion], targets: Any) -> list[float | None]:
        values = recorded_rewards()[:, self.column].tolist()
        return [None if value != value else value for value in values]


@dataclass
class RecordedPolicy:
    """A policy that draws TRL's completions and scores them with its weights."""

    model: Any
    inputs: dict[str, Any]
    ref_model: Any
    enable_thinking: bool = False
    _scores_reference: bool = field(default=False, init=False)

    @property
    def samples_elsewhere(self) -> bool:
        return "importance_sampling_ratio" in self.inputs

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def with_features(self, batch: ClipBatch) -> ClipBatch:
        return batch

    def prompts(self, batch: ClipBatch) -> list[str]:
        return [PROMPTS[int(name)] for name in batch.names]

    def generate(self, batch: ClipBatch, num_generations: int, sampling: Sampling, generator: Any = None) -> Rollout:
        shape = (NUM_CLIPS, NUM_GENERATIONS, -1)
        mask = self.inputs["sampled_mask"].float()
        logps = self.inputs["sampling_logps"] * mask
        truncated = self.inputs["truncated"].view(NUM_CLIPS, NUM_GENERATIONS)
        texts = [[f"answer {row}" for row in range(NUM_GENERATIONS)] for _ in range(NUM_CLIPS)]
        tokens = TokenBatch(self.inputs["completion_ids"].view(shape), mask.view(shape))
        return Rollout(tokens, logps.view(shape), texts, truncated)

    def logps_and_entropies(
        self, batch: ClipBatch, completions: TokenBatch, temperature: float = 1.0, **options: Any
    ) -> LogpsAndEntropies:
        rows = torch.tensor([int(name) for name in batch.names]) * NUM_GENERATIONS
        prompts = self.inputs["prompt_ids"][rows].repeat_interleave(NUM_GENERATIONS, 0)
        prompt_mask = self.inputs["prompt_mask"][rows].repeat_interleave(NUM_GENERATIONS, 0)
        ids, mask = completions.ids.flatten(0, 1), completions.mask.flatten(0, 1)
        logps, entropies = logps_and_entropies(
            self.ref_model if self._scores_reference else self.model, prompts, prompt_mask, ids, mask, temperature
        )
        shape = completions.ids.shape
        return LogpsAndEntropies((logps * mask).view(shape), (entropies * mask).view(shape))

    def per_token_logps(
        self, batch: ClipBatch, completions: TokenBatch, temperature: float = 1.0, **options: Any
    ) -> Tensor:
        return self.logps_and_entropies(batch, completions, temperature).per_token_logps

    def snapshot_reference(self) -> None:
        """The reference is recorded."""

    @contextmanager
    def reference(self) -> Iterator[None]:
        self._scores_reference = True
        yield
        self._scores_reference = False


def logps_and_entropies(
    model: Any, prompts: Tensor, prompt_mask: Tensor, ids: Tensor, mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies ``(N, C)`` of the completions, by one plain forward pass."""
    logits = model(
        input_ids=torch.cat([prompts, ids], 1), attention_mask=torch.cat([prompt_mask, mask.long()], 1)
    ).logits[:, -ids.shape[1] - 1 : -1]
    logits = logits / temperature
    return selective_log_softmax(logits, ids), entropy_from_logits(logits)


def small_model() -> tuple[Any, Any]:
    """A tokenizer of whole words, and the configuration of a Qwen2 for it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config

    vocabulary = {word: number for number, word in enumerate(["<pad>", "<eos>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    config = Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.4,
        eos_token_id=1,
        pad_token_id=0,
    )
    return tokenizer, config


@pytest.fixture(scope="session")
def trl_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A GRPOTrainer on a random Qwen2 of wide weights; each test sets the attributes that it needs."""
    pytest.importorskip("trl", reason="parity with TRL comes with the dev extra")
    os.environ["HF_HUB_OFFLINE"] = "1"
    from datasets import Dataset
    from transformers import Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    tokenizer, config = small_model()
    arguments = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        lr_scheduler_type="constant",
        shuffle_dataset=False,
        num_generations=NUM_GENERATIONS,
        per_device_train_batch_size=NUM_CLIPS * NUM_GENERATIONS,
        max_completion_length=MAX_LENGTH,
        temperature=TEMPERATURE,
        reward_weights=list(WEIGHTS.values()),
    )

    def first(completions: list[str], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    def second(completions: list[str], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    torch.manual_seed(0)
    trainer = GRPOTrainer(
        Qwen2ForCausalLM(config),
        [first, second],
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tokenizer,
    )
    torch.manual_seed(1)
    trainer.plain_models = (Qwen2ForCausalLM(config), Qwen2ForCausalLM(config))  # of which one is the reference
    trainer._calculate_rewards = lambda *_: recorded_rewards()
    for model in (trainer.model, *trainer.plain_models):
        model.double()  # single precision would blur gradients above 1
    trainer.model.train()
    return trainer


@dataclass
class Parity:
    """One captured generation, and a step of it by either side."""

    trainer: Any
    model: Any
    ref_model: Any
    start: dict[str, Tensor]

    def capture(self, **switches: Any) -> dict[str, Any]:
        """Let TRL draw and reward a generation batch from the initial weights.

        Args:
            **switches: Attributes of the trainer.
        """
        self.trainer.model.load_state_dict(self.start)
        self.trainer.beta = 0.0  # TRL would score a reference; ours is recorded below
        for name, value in switches.items():
            setattr(self.trainer, name, value)
        self.trainer._metrics["train"].clear()
        torch.manual_seed(3)
        rows = [{"prompt": prompt} for prompt in PROMPTS for _ in range(NUM_GENERATIONS)]
        inputs: dict[str, Any] = self.trainer._generate_and_score_completions(rows)
        ids = inputs["completion_ids"]
        ended = (ids == EOS).any(1)
        lengths = torch.where(ended, (ids == EOS).int().argmax(1) + 1, ids.shape[1])
        sampled = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        scored = (inputs["prompt_ids"], inputs["prompt_mask"], ids, sampled, TEMPERATURE)
        with torch.no_grad():
            inputs["sampling_logps"] = logps_and_entropies(self.trainer.model, *scored)[0] * sampled
            inputs["ref_per_token_logps"] = logps_and_entropies(self.ref_model, *scored)[0] * sampled
        return {**inputs, "sampled_mask": sampled, "truncated": ~ended}

    def move(self, number: int) -> None:
        """Take both models to the same weights, further from the initial ones with ``number``."""
        draw = torch.Generator().manual_seed(number)
        moved = {name: one + 0.02 * number * torch.randn(one.shape, generator=draw) for name, one in self.start.items()}
        self.trainer.model.load_state_dict(moved)
        self.model.load_state_dict(moved)

    def trl_step(
        self, inputs: dict[str, Any], rows: slice, steps: tuple[int, int], accumulated: int = 1, **options: Any
    ) -> Step:
        """TRL's loss of some completions; ``steps`` are steps_per_generation and num_iterations."""
        trainer = self.trainer
        for name, value in {**TRL_DEFAULTS, **options}.items():
            setattr(trainer.args if name in ("delta", "use_bias_correction_kl") else trainer, name, value)
        trainer.epsilon_low, trainer.epsilon_high = (
            options.get("epsilon", 0.2),
            options.get("epsilon_high") or options.get("epsilon", 0.2),
        )
        trainer._entropy_bonus_enabled = trainer.entropy_coef != 0
        trainer.args.steps_per_generation, trainer.current_gradient_accumulation_steps = steps[0], accumulated
        kept = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "ref_per_token_logps")
        chosen = {name: inputs[name][rows] for name in kept}
        if steps != (1, 1):
            chosen["old_per_token_logps"] = inputs.get("old_logps", inputs["sampling_logps"])[rows]
        trainer.use_vllm = "importance_sampling_ratio" in inputs
        if trainer.use_vllm:
            chosen["importance_sampling_ratio"] = inputs["importance_sampling_ratio"][rows]
        trainer._metrics["train"].clear()
        trainer.model.zero_grad()
        loss = trainer._compute_loss(trainer.model, {**chosen, "num_items_in_batch": inputs["num_items_in_batch"]})
        loss.backward()
        metrics = {name: values[0] for name, values in trainer._metrics["train"].items()}
        return Step(loss.item(), _gradients(trainer.model), metrics)

    def stage(self, inputs: dict[str, Any], **options: Any) -> tuple[GRPOStage, RecordedPolicy]:
        """This package's stage, on the recorded rollout."""
        rewards = WeightedRewards({"first": RecordedReward(0), "second": RecordedReward(1)}, WEIGHTS)
        stage = GRPOStage(
            rewards,
            load_lexicon("bundled"),
            SAMPLING,
            num_generations=NUM_GENERATIONS,
            **{"loss_type": "dapo", **options},
        )
        return stage, RecordedPolicy(self.model, inputs, self.ref_model)

    def our_step(self, stage: GRPOStage, policy: RecordedPolicy, batch: ClipBatch) -> Step:
        self.model.zero_grad()
        output = stage.training_step(policy, batch, seed=0)
        output.loss.backward()
        metrics = {name: float(value) for name, value in output.logs.items()}
        return Step(output.loss.item(), _gradients(self.model), metrics)


class Step(NamedTuple):
    loss: float
    gradients: dict[str, Tensor]
    metrics: dict[str, float]


def _gradients(model: Any) -> dict[str, Tensor]:
    return {name: one.grad.clone() for name, one in model.named_parameters()}


@pytest.fixture(scope="session")
def parity(trl_trainer: Any) -> Parity:
    return Parity(trl_trainer, *trl_trainer.plain_models, copy.deepcopy(trl_trainer.model.state_dict()))
