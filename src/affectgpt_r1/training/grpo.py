"""Group relative policy optimisation on the emotion-wheel reward."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from affectgpt_r1.data.samplers import GenerationSchedule
from affectgpt_r1.distributed.collectives import all_reduce_sum, num_processes
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.engine.sampler import check_sampling
from affectgpt_r1.engine.timing import now, phase
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.base import LogpsAndEntropies, Policy
from affectgpt_r1.rewards.weighting import RewardScores, WeightedRewards
from affectgpt_r1.training.advantages import group_advantages, objective_advantages, zero_variance_groups
from affectgpt_r1.training.completions import answer_statistics, parse_rollout
from affectgpt_r1.training.grpo_config import GRPOConfig
from affectgpt_r1.training.grpo_logs import (
    answer_logs,
    completion_logs,
    completion_records,
    reward_logs,
    sampling_logs,
    tokens_per_second,
)
from affectgpt_r1.training.losses import LossInputs, clipped_policy_loss
from affectgpt_r1.training.precomputed_grads import precompute_policy_grads
from affectgpt_r1.training.random_state import derive_seed
from affectgpt_r1.training.rollout_buffer import RolloutBuffer, ScoredRollout, select_clips
from affectgpt_r1.types import ClipBatch, LogValue, PrefixCache, Sampling, StageOutput, TokenBatch

log = logging.getLogger(__name__)


class GRPOStage:
    """Samples a group of completions for each clip and reinforces those above the group's mean.

    A batch of clips is a generation batch: it is sampled at once and fills the rollout buffer. The empty batches that
    follow it visit the buffer's other steps, ``num_iterations`` times each.

    Args:
        rewards: The weighted rewards.
        lexicon: For the statistics of the answers.
        sampling: How completions are drawn; log-probs are taken at its temperature.
        **options: See :class:`~affectgpt_r1.training.grpo_config.GRPOConfig`.

    Raises:
        ConfigError: An option is unknown or contradicts another, no token could be drawn, or decoding is greedy: equal
            completions teach nothing.
    """

    answers = True
    validation_logs = ()

    def __init__(self, rewards: WeightedRewards, lexicon: Lexicon, sampling: Sampling, **options: Any) -> None:
        if sampling.temperature <= 0:
            raise ConfigError("stage.sampling.temperature must be above 0: equal completions have no advantage")
        check_sampling(sampling)
        self.rewards = rewards
        self.lexicon = lexicon
        self.sampling = sampling
        self.options = GRPOConfig(**options)
        self._buffer: RolloutBuffer | None = None
        self._prefix_cache: PrefixCache | None = None
        self._visits = 0
        self._has_warned = False

    @property
    def schedule(self) -> GenerationSchedule:
        """How many training steps visit each generation batch."""
        return GenerationSchedule(self.options.steps_per_generation, self.options.num_iterations)

    def prepare(self, policy: Policy) -> None:
        """Switch dropout off, and freeze a copy of the weights that training starts from, if KL is measured against it.

        Raises:
            ConfigError: The policy samples from another prompt than it is scored on.
        """
        if not policy.samples_as_scored:
            raise ConfigError("prompt.bos_at_inference=false is for SFT as published: GRPO samples what it updates")
        if dropouts := policy.disable_dropout():
            log.info(
                "GRPO scores as it samples, without dropout: that of %d modules is off, such as %s",
                len(dropouts),
                dropouts[0],
            )
        if self.options.beta != 0.0:
            policy.snapshot_reference()

    def training_step(self, policy: Policy, batch: ClipBatch, *, seed: int) -> StageOutput:
        """See :class:`~affectgpt_r1.training.base.Stage`; an empty batch visits the buffer's next step.

        Raises:
            ConfigError: An empty batch comes when the buffer has been visited to its end.
        """
        if len(batch):
            self._buffer, self._visits = self._fill_buffer(policy, batch, seed), 0
        self._add_reference(policy)
        step = self._next_step(policy.device)
        with phase("forward"):
            scored = self._score(policy, step)
            loss = clipped_policy_loss(
                self._loss_inputs(step, scored),
                self.options,
                max_completion_length=self.sampling.max_completion_length,
                tokens_per_step=step.tokens_per_step,
            )
        mask = step.completions.mask
        is_silent = float(not (step.advantages.unsqueeze(-1) * step.loss_mask).any())
        # TRL averages the losses of micro-batches, whatever their tokens.
        num_items = loss.num_items if self.options.loss_normalizer == "accumulated_batch" else 1.0
        logs: dict[str, LogValue | Tensor | float] = {
            "loss": LogValue("mean", loss.loss.detach(), num_items),
            **loss.logs,
            **sampling_logs(scored.per_token_logps, step.sampling_per_token_logps, mask),
            **step.logs,
            "step_without_advantage": LogValue("min", is_silent),  # 1 only if no micro-batch has any
        }
        if "policy_loss" in loss.logs:
            logs["policy_loss"] = dataclasses.replace(loss.logs["policy_loss"], weight=num_items)
        return StageOutput(loss.loss, logs, step.records, num_items, generation_logs=step.logs.keys())

    def validation_step(self, policy: Policy, batch: ClipBatch) -> Mapping[str, LogValue]:
        """Nothing beside the wheel scores of the greedy answers."""
        return {}

    def buffer_state(self) -> dict[str, Any]:
        """The rollout buffer and the position in it, as tensors and plain values; empty where it has been used up."""
        if self._buffer is None or self._visits == self.schedule.steps:
            return {}
        return {"visits": self._visits, "buffer": self._buffer.state()}

    def load_buffer_state(self, state: Mapping[str, Any]) -> None:
        """Take up a buffer where :meth:`buffer_state` left it."""
        self._buffer, self._visits = None, 0
        if state:
            self._buffer = RolloutBuffer.from_state(state["buffer"], torch.device("cpu"))
            self._visits = state["visits"]
            if self._buffer.old_per_token_logps is None and not self._is_on_policy:
                log.warning("The checkpoint is older than scored old log-probs: its rollout uses the sampler's")
                self._buffer = dataclasses.replace(
                    self._buffer, old_per_token_logps=self._buffer.sampling_per_token_logps
                )

    def _add_reference(self, policy: Policy) -> None:
        """Score a buffer that was filled while ``beta`` was 0, in a run that was resumed with a larger one."""
        if self._buffer is None or self.options.beta == 0.0 or self._buffer.ref_per_token_logps is not None:
            return
        buffer = RolloutBuffer.from_state(self._buffer.state(), policy.device)
        reference = self._reference_logps(policy, buffer.batch, buffer.completions)
        self._buffer = dataclasses.replace(buffer, ref_per_token_logps=reference)

    def _next_step(self, device: torch.device) -> RolloutBuffer:
        if self._buffer is None or self._visits == self.schedule.steps:
            raise ConfigError("The rollout buffer is used up and no clips came: use the data module's own sampler")
        if self._buffer.advantages.device != device:
            self._buffer = RolloutBuffer.from_state(self._buffer.state(), device)
        num_steps = self.options.steps_per_generation
        step = self._buffer.step(self._visits % num_steps, num_steps)
        self._visits += 1
        return step

    def _fill_buffer(self, policy: Policy, batch: ClipBatch, seed: int) -> RolloutBuffer:
        """Sample, reward and score a generation batch."""
        with phase("encoders"):
            batch = policy.with_features(batch)
        drawn, logs = self._draw_groups(policy, batch, seed)
        rollout, completions, scores, _ = drawn
        self._prefix_cache = rollout.prefix_cache
        targets = [target for target in batch.labels for _ in range(self.options.num_generations)]
        statistics = answer_statistics(completions, targets, self.lexicon)
        advantages = self._advantages(scores, rollout.truncated)
        loss_mask = rollout.completions.mask
        if self.options.mask_truncated_completions:
            loss_mask = loss_mask * (~rollout.truncated).unsqueeze(-1)
        if self.options.max_resamples:
            silent = self._zero_std_groups(scores, rollout.truncated)
            loss_mask = loss_mask * (~silent).view(-1, 1, 1)
            logs["groups/skipped"] = LogValue("sum", float(silent.sum()))
        self._warn_of_silence(batch, advantages, loss_mask)
        tokens = all_reduce_sum(loss_mask.sum()) / num_processes()
        with phase("reference"):
            reference = self._reference_logps(policy, batch, rollout.completions)
        buffer = RolloutBuffer(
            batch=dataclasses.replace(batch, skipped=()),
            completions=rollout.completions,
            loss_mask=loss_mask,
            sampling_per_token_logps=rollout.per_token_logps,
            ref_per_token_logps=reference,
            advantages=advantages,
            tokens_per_step=tokens.item() / self.options.steps_per_generation,
            records=completion_records(policy.prompts(batch), batch, completions, scores, advantages),
            logs={
                **logs,
                **reward_logs(scores, self.options.num_generations),
                **completion_logs(rollout),
                **answer_logs(statistics, len(completions)),
            },
        )
        if self._is_on_policy:
            return buffer
        with phase("old_logps"):
            return dataclasses.replace(buffer, old_per_token_logps=self._old_logps(policy, buffer))

    def _warn_of_silence(self, batch: ClipBatch, advantages: Tensor, loss_mask: Tensor) -> None:
        """Say once that a rollout taught nothing; ``step_without_advantage`` tells of the others."""
        if self._has_warned or (advantages.unsqueeze(-1) * loss_mask).any():
            return
        self._has_warned = True
        log.warning("Every group earned equal rewards: this rollout teaches nothing (%s)", ", ".join(batch.names))

    def _draw_groups(self, policy: Policy, batch: ClipBatch, seed: int) -> tuple[ScoredRollout, dict[str, LogValue]]:
        """A rollout in which groups of equal rewards were drawn anew, up to ``max_resamples`` times."""
        # A prefill in the autograd graph serves an update of these very clips; drawn for more, it would only take room.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.options.steps_per_generation == 1):
            drawn = self._draw(policy, batch, seed)
        resampled = 0
        for attempt in range(1, self.options.max_resamples + 1):
            silent = self._zero_std_groups(drawn.scores, drawn.rollout.truncated).nonzero().flatten().tolist()
            if not silent:
                break
            resampled += len(silent)
            with torch.no_grad():
                again = self._draw(policy, select_clips(batch, silent), derive_seed(seed, attempt))
            drawn = drawn.replace_groups(silent, again)
        logs = {"tokens_per_second": tokens_per_second(drawn.rollout, drawn.seconds)}
        if self.options.max_resamples:
            logs["groups/resampled"] = LogValue("sum", float(resampled))
        return drawn, logs

    def _draw(self, policy: Policy, batch: ClipBatch, seed: int) -> ScoredRollout:
        generator = torch.Generator(device=policy.device).manual_seed(seed)
        started = now()
        rollout = policy.generate(batch, self.options.num_generations, self.sampling, generator)
        seconds = now() - started
        with phase("reward"):
            completions = parse_rollout(rollout, batch.names, enable_thinking=policy.enable_thinking)
            targets = [target for target in batch.labels for _ in range(self.options.num_generations)]
            scores = self.rewards(completions=completions, targets=targets)
        return ScoredRollout(rollout, completions, scores, seconds)

    def _advantages(self, scores: RewardScores, truncated: Tensor) -> Tensor:
        """``(B, G)``."""
        if self.options.multi_objective_aggregation == "normalize_then_sum":
            parts = self._parts(scores, truncated)
            weights = torch.tensor([self.rewards.weights[name] for name in scores.parts], device=parts.device)
            return objective_advantages(parts, weights)
        return group_advantages(self._baseline(scores.total, truncated), self.options.scale_rewards)

    def _zero_std_groups(self, scores: RewardScores, truncated: Tensor) -> Tensor:
        """``(B,)`` groups whose completions all earn the same: in total, or in each reward where each counts alone."""
        if self.options.multi_objective_aggregation == "normalize_then_sum":
            parts = self._parts(scores, truncated)
            return torch.stack([zero_variance_groups(part) for part in parts.unbind(-1)]).all(0)
        return zero_variance_groups(self._baseline(scores.total, truncated))

    def _parts(self, scores: RewardScores, truncated: Tensor) -> Tensor:
        return torch.stack([self._baseline(part, truncated) for part in scores.parts.values()], -1)

    def _baseline(self, rewards: Tensor, truncated: Tensor) -> Tensor:
        """``(B, G)`` rewards, NaN where they are left out of the group's baseline.

        They move to the policy's device: processes on accelerators cannot gather others.
        """
        grouped = rewards.view(-1, self.options.num_generations).to(truncated.device)
        return grouped.masked_fill(truncated, torch.nan) if self.options.truncated_leave_baseline else grouped

    @torch.no_grad()
    def _old_logps(self, policy: Policy, buffer: RolloutBuffer) -> Tensor:
        """``(B, G, C)`` of the weights that sampled, step by step by the pass that the updates make.

        The sampler's own are not those: in bfloat16 they differ by 0.04 nats a token, so that one token in a hundred
        would be clipped before anything was learned.
        """
        num_steps, length = self.options.steps_per_generation, buffer.completions.ids.shape[-1]
        scored = []
        for index in range(num_steps):
            step = buffer.step(index, num_steps)
            logps = policy.per_token_logps(
                step.batch, step.completions, self.sampling.temperature, prefix_cache=self._prefix_cache
            )
            scored.append(F.pad(logps, (0, length - logps.shape[-1])))
        return torch.cat(scored)

    @torch.no_grad()
    def _reference_logps(self, policy: Policy, batch: ClipBatch, completions: TokenBatch) -> Tensor | None:
        if self.options.beta == 0.0:
            return None
        size = len(batch) // self.options.steps_per_generation
        temperature = self.sampling.temperature
        if size == len(batch):
            with policy.reference():
                return policy.per_token_logps(batch, completions, temperature)
        scored = []
        with policy.reference():
            for first in range(0, len(batch), size):
                tokens = TokenBatch(completions.ids[first : first + size], completions.mask[first : first + size])
                clips = select_clips(batch, range(first, first + size))
                scored.append(policy.per_token_logps(clips, tokens, temperature))
        return torch.cat(scored)

    def _score(self, policy: Policy, step: RolloutBuffer) -> LogpsAndEntropies:
        entropy_gradient = self.options.entropy_coef != 0.0
        reference, old = step.ref_per_token_logps, step.old_per_token_logps
        precomputed_grads = precompute_policy_grads(
            self.options,
            scored=step.completions.mask.flatten(0, 1).bool(),
            mask=step.loss_mask.flatten(0, 1),
            advantages=step.advantages.flatten(),
            old_per_token_logps=None if old is None else old.flatten(0, 1),
            ref_per_token_logps=None if reference is None else reference.flatten(0, 1),
        )
        temperature = self.sampling.temperature
        prefix_cache, self._prefix_cache = self._prefix_cache, None
        return policy.logps_and_entropies(
            step.batch,
            step.completions,
            temperature,
            entropy_gradient=entropy_gradient,
            precomputed_grads=precomputed_grads,
            prefix_cache=prefix_cache,
        )

    @property
    def _is_on_policy(self) -> bool:
        """Where a rollout is used once, the sampling policy is the present one, exactly."""
        return self.schedule.steps == 1

    def _loss_inputs(self, step: RolloutBuffer, scored: LogpsAndEntropies) -> LossInputs:
        """Rows of the loss."""
        logps = scored.per_token_logps.flatten(0, 1)
        reference, old = step.ref_per_token_logps, step.old_per_token_logps
        return LossInputs(
            logps,
            logps.detach() if old is None else old.flatten(0, 1),
            step.advantages.flatten(),
            step.loss_mask.flatten(0, 1),
            scored.entropies.flatten(0, 1),
            None if reference is None else reference.flatten(0, 1),
        )
