"""Group relative policy optimisation (Shao et al. 2024) on the emotion-wheel reward."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from affectgpt_r1.data.samplers import GenerationSchedule
from affectgpt_r1.distributed.collectives import all_reduce_sum, world_size
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.engine.sampler import check_sampling
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.base import Policy
from affectgpt_r1.rewards.weighting import RewardScores, WeightedRewards
from affectgpt_r1.training.advantages import group_advantages, objective_advantages, zero_std_groups
from affectgpt_r1.training.chord import MuSchedule, mix_supervised
from affectgpt_r1.training.completions import (
    answer_logs,
    answer_statistics,
    completion_logs,
    completion_records,
    parse_rollout,
    reward_logs,
    sampling_logs,
    tokens_per_second,
)
from affectgpt_r1.training.dynamic_sampling import ScoredRollout, resample_zero_std_groups
from affectgpt_r1.training.grpo_config import GRPOConfig
from affectgpt_r1.training.losses import (
    PolicyLoss,
    faithfulness_loss,
    grpo_loss,
    precompute_policy_grads,
    sampling_correction,
    token_mean,
)
from affectgpt_r1.training.masked_modality import mask_one_each
from affectgpt_r1.training.rollout_buffer import RolloutBuffer
from affectgpt_r1.types import ClipBatch, LogValue, Phase, Sampling, StageOutput

log = logging.getLogger(__name__)


class GRPOStage:
    """Sample a group of completions for each clip, and reinforce those above the group's mean.

    A batch of clips is a generation batch: it is sampled at once and fills the rollout buffer. The empty batches that
    follow it visit the buffer's other steps, ``num_iterations`` times each.

    Args:
        rewards: The weighted rewards.
        lexicon: For the statistics of the answers.
        sampling: How completions are drawn; log-probs are taken at its temperature.
        mu: Weight of a supervised loss that is mixed in (CHORD); None, or a peak of 0, trains by GRPO alone.
        supervised_batch_size: Labelled clips of each training batch, per process, where a loss is mixed in.
        token_weighting: See :func:`~affectgpt_r1.training.chord.mix_supervised`.
        **options: See :class:`~affectgpt_r1.training.grpo_config.GRPOConfig`.

    Raises:
        ConfigError: An option is unknown or contradicts another, no token could be drawn, or decoding is greedy: equal
            completions have no advantage.
    """

    answers = True
    validation_logs = ()

    def __init__(
        self,
        rewards: WeightedRewards,
        lexicon: Lexicon,
        sampling: Sampling,
        *,
        mu: MuSchedule | None = None,
        supervised_batch_size: int = 1,
        token_weighting: str = "none",
        **options: Any,
    ) -> None:
        if sampling.temperature <= 0:
            raise ConfigError("stage.sampling.temperature must be above 0: equal completions have no advantage")
        check_sampling(sampling)
        self.rewards = rewards
        self.lexicon = lexicon
        self.sampling = sampling
        self.config = GRPOConfig(**options)
        if token_weighting not in ("none", "phi"):
            raise ConfigError(f"stage.token_weighting={token_weighting} is unknown; choose none or phi")
        if supervised_batch_size < 1:
            raise ConfigError(f"stage.supervised_batch_size={supervised_batch_size} must be at least 1")
        self.mu = mu if mu is not None and mu.peak > 0 else None
        if self.mu is not None and self.config.loss_normalizer != "micro_batch":  # else the mix depends on the split
            raise ConfigError(
                "stage.loss_normalizer=accumulated_batch counts one loss's items; take micro_batch, or stage.mu.peak=0"
            )
        self.token_weighting = token_weighting
        self.supervised_batch_size = 0 if self.mu is None else supervised_batch_size
        self.global_step = 0  # optimizer step; the module sets it
        self.schedule = GenerationSchedule(self.config.steps_per_generation, self.config.num_iterations)
        self._num_visits = self.schedule.steps
        self.accumulate_grad_batches = 1  # of the Trainer; the module sets it
        self.phase: Phase = nullcontext
        self._buffer: RolloutBuffer | None = None
        self._visits = 0  # training steps that have used the buffer
        self._has_warned = False

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
        if self.config.beta != 0.0:
            policy.snapshot_reference()

    def training_step(self, policy: Policy, batch: ClipBatch, *, seed: int) -> StageOutput:
        """Return the loss of one step, on a new rollout of the clips or, of an empty batch, on the buffer's next part.

        Raises:
            ConfigError: An empty batch comes when the buffer has been visited to its end, or no labelled clips come
                where a supervised loss is mixed in.
        """
        config = self.config
        supervised, batch = batch.supervised, dataclasses.replace(batch, supervised=None)
        if len(batch):
            self._buffer, self._visits = self._generate_and_score(policy, batch, seed), 0
        step = self._next_step(policy)
        corrects = config.vllm_importance_sampling_correction and policy.samples_elsewhere

        with self.phase("forward"):
            per_token_logps, entropies = policy.logps_and_entropies(
                step.batch,
                step.completions,
                self.sampling.temperature,
                entropy_gradient=config.entropy_coef != 0.0,
                precomputed_grads=precompute_policy_grads(config, step, corrects=corrects),
                prefix_cache=step.prefix_cache,
            )
            # pi_old is the policy that sampled. Where no update lies between, that is the present policy: the ratio
            # exp(logp - old) is exactly 1, and only its gradient, that of logp, counts.
            old_per_token_logps = step.old_per_token_logps
            if old_per_token_logps is None:
                old_per_token_logps = per_token_logps.detach()
            correction = None
            if corrects:
                sampled = step.sampling_per_token_logps
                correction = sampling_correction(old_per_token_logps, sampled, step.completion_mask, config)
            loss = grpo_loss(
                per_token_logps,
                old_per_token_logps,
                step.ref_per_token_logps,
                step.advantages,
                step.completion_mask,
                config,
                entropies=entropies,
                importance_sampling_ratio=correction,
                max_completion_length=self.sampling.max_completion_length,
                tokens_per_step=step.tokens_per_step,
            )
        if config.faithfulness_coef != 0.0:
            with self.phase("masked"):
                loss = self._with_faithfulness(policy, step, per_token_logps, loss, seed)

        # Gradient accumulation: TRL averages the losses of micro-batches, whatever their tokens. By their num_items,
        # they add up to the loss of one large batch.
        num_items = loss.num_items if config.loss_normalizer == "accumulated_batch" else 1.0
        is_zero = float(not (step.advantages.unsqueeze(-1) * step.completion_mask).any())
        logs: dict[str, LogValue | Tensor | float] = {
            "loss": LogValue("mean", loss.loss.detach(), num_items),
            **loss.logs,
            **sampling_logs(per_token_logps, step.sampling_per_token_logps, step.completions.mask),
            **step.logs,
            "step_without_advantage": LogValue("min", is_zero),  # 1 only if no micro-batch has any
        }
        if "policy_loss" in loss.logs:
            logs["policy_loss"] = dataclasses.replace(loss.logs["policy_loss"], weight=num_items)
        output = StageOutput(loss.loss, logs, step.records, num_items, generation_logs=step.logs.keys())
        if self.mu is None:
            return output
        mu = self.mu(self.global_step)
        return mix_supervised(output, policy, supervised, mu, token_weighting=self.token_weighting, phase=self.phase)

    def _with_faithfulness(
        self, policy: Policy, step: RolloutBuffer, per_token_logps: Tensor, loss: PolicyLoss, seed: int
    ) -> PolicyLoss:
        """Add the penalty on completions that do not need a modality, drawn for each clip."""
        config = self.config
        batch, changed = mask_one_each(step.batch, seed)
        masked = policy.per_token_logps(batch, step.completions, self.sampling.temperature)
        counted = step.completion_mask * torch.tensor(changed, device=masked.device).view(-1, 1, 1)
        penalty, kl = faithfulness_loss(per_token_logps, masked, counted, config.faithfulness_margin)
        logs = {
            "policy_loss": LogValue("mean", loss.loss.detach()),
            **loss.logs,
            "faithfulness/loss": LogValue("mean", penalty.detach()),
            "faithfulness/kl": token_mean(kl, counted),
        }
        return loss._replace(loss=loss.loss + config.faithfulness_coef * penalty, logs=logs)

    def _generate_and_score(self, policy: Policy, batch: ClipBatch, seed: int) -> RolloutBuffer:
        """Sample completions of ``B`` clips, and reward and score them: all that needs no gradient."""
        config = self.config
        with self.phase("encoders"):
            batch = policy.with_features(batch)  # the frozen encoders run once per clip, not once per pass

        # What generation computed of the prompts stays in the autograd graph for an update of these very clips. An
        # update of some of them cannot use it, and it would only take room.
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.steps_per_generation == 1):
            scored = self._sample(policy, batch, seed)
        if config.max_resamples:
            scored, num_resampled = resample_zero_std_groups(
                scored, lambda clips, seed: self._sample(policy, clips, seed), batch, seed, config.max_resamples
            )
        rollout, completions = scored.rollout, scored.completions
        rewards_per_func, rewards = scored.rewards_per_func, scored.rewards  # (B, G, R), (B, G); NaN: does not apply

        # (B, G), the same for all tokens of a completion: there is no value function, the group's mean is the baseline.
        if config.multi_objective_aggregation == "normalize_then_sum":  # GDPO
            weights = [self.rewards.weights[name] for name in scored.scores.rewards_per_func]
            advantages = objective_advantages(rewards_per_func, torch.tensor(weights, device=policy.device))
        else:
            advantages = group_advantages(rewards, config.scale_rewards)

        # The completion mask of the loss. Masked tokens count neither in it nor in what it is divided by.
        completion_mask = rollout.completions.mask  # (B, G, C)
        if config.mask_truncated_completions:
            completion_mask = completion_mask * (~rollout.truncated).unsqueeze(-1)
        if config.max_resamples:  # groups that resampling did not help
            completion_mask = completion_mask * (~scored.is_zero_std).view(-1, 1, 1)
        if not self._has_warned and not (advantages.unsqueeze(-1) * completion_mask).any():
            self._has_warned = True  # step_without_advantage tells of the others
            names = ", ".join(batch.names)
            log.warning("Every group earned equal rewards: this rollout has no advantage (%s)", names)

        logs = {"tokens_per_second": tokens_per_second(rollout, scored.seconds)}
        if config.max_resamples:
            logs["groups/resampled"] = LogValue("sum", float(num_resampled))
            logs["groups/filtered"] = LogValue("sum", float(scored.is_zero_std.sum()))
        statistics = answer_statistics(completions, scored.targets, self.lexicon)
        tokens = all_reduce_sum(completion_mask.sum()) / world_size()  # averaged gradients then weigh all tokens alike
        buffer = RolloutBuffer(
            batch=dataclasses.replace(batch, unreadable=()),
            completions=rollout.completions,
            completion_mask=completion_mask,
            sampling_per_token_logps=rollout.per_token_logps,
            ref_per_token_logps=None,
            advantages=advantages,
            prefix_cache=rollout.prefix_cache,
            tokens_per_step=tokens.item() / config.steps_per_generation,
            records=completion_records(policy.prompts(batch), batch, completions, scored.scores, advantages),
            logs={
                **logs,
                **reward_logs(scored.scores, config.num_generations),
                **completion_logs(rollout),
                **answer_logs(statistics, len(completions)),
            },
        )
        with self.phase("reference"):
            if config.beta != 0.0:
                buffer = self._with_reference(policy, buffer)
        if not self._is_on_policy:
            # Not the sampler's own log-probs: in bfloat16 those differ from the update's by 0.04 nats per token, so
            # that one token in a hundred would be clipped before anything was learned.
            with self.phase("old_logps"):
                buffer = dataclasses.replace(buffer, old_per_token_logps=self._logps_by_step(policy, buffer))
        return buffer

    def _sample(self, policy: Policy, batch: ClipBatch, seed: int) -> ScoredRollout:
        """Draw ``G`` completions of each of ``B`` clips, and reward them."""
        num_generations = self.config.num_generations
        generator = torch.Generator().manual_seed(seed)
        started = time.perf_counter()
        rollout = policy.generate(batch, num_generations, self.sampling, generator)
        seconds = time.perf_counter() - started  # it ends with texts, so an accelerator has been waited for
        with self.phase("reward"):
            thinks = policy.enable_thinking
            completions = parse_rollout(rollout, batch.names, enable_thinking=thinks, subtitles=batch.subtitles)
            targets = [target for target in batch.labels for _ in range(num_generations)]
            scores = self.rewards(completions=completions, targets=targets)
        rewards_per_func, rewards = self._grouped(scores, rollout.truncated)
        if self.config.multi_objective_aggregation == "normalize_then_sum":  # each function by itself makes advantages
            is_zero_std = zero_std_groups(rewards_per_func).all(-1)
        else:
            is_zero_std = zero_std_groups(rewards)
        return ScoredRollout(rollout, completions, targets, scores, rewards_per_func, rewards, is_zero_std, seconds)

    def _grouped(self, scores: RewardScores, truncated: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``rewards_per_func (B, G, R)`` and their weighted sum ``rewards (B, G)``, NaN where none applies."""
        # To the policy's device: processes on accelerators cannot gather other tensors.
        rewards_per_func = torch.stack(list(scores.rewards_per_func.values()), -1).to(truncated.device)
        rewards_per_func = rewards_per_func.view(*truncated.shape, -1)
        rewards = scores.total.view(truncated.shape).to(truncated.device)
        if self.config.truncated_leave_baseline:  # NaN stays out of the group's mean and deviation
            rewards_per_func = rewards_per_func.masked_fill(truncated.unsqueeze(-1), torch.nan)
            rewards = rewards.masked_fill(truncated, torch.nan)
        return rewards_per_func, rewards

    def _with_reference(self, policy: Policy, buffer: RolloutBuffer) -> RolloutBuffer:
        """Score a buffer under the reference: the frozen copy of the trained weights at the start of GRPO."""
        with policy.reference():
            return dataclasses.replace(buffer, ref_per_token_logps=self._logps_by_step(policy, buffer))

    @torch.no_grad()
    def _logps_by_step(self, policy: Policy, buffer: RolloutBuffer) -> Tensor:
        """Return ``(B, G, C)`` log-probs by the same passes as the updates make, so that equal weights agree."""
        num_steps, length = self.config.steps_per_generation, buffer.completions.ids.shape[-1]
        logps_of_steps = []
        for index in range(num_steps):
            step = buffer.step(index, num_steps)
            logps = policy.per_token_logps(
                step.batch, step.completions, self.sampling.temperature, prefix_cache=step.prefix_cache
            )
            logps_of_steps.append(F.pad(logps, (0, length - logps.shape[-1])))
        return torch.cat(logps_of_steps)

    def _next_step(self, policy: Policy) -> RolloutBuffer:
        """Return the part of the buffer that comes next."""
        if self._buffer is None or self._visits == self._num_visits:
            raise ConfigError("The rollout buffer is used up and no clips came: use the data module's own sampler")
        if self._buffer.advantages.device != policy.device:  # resumed
            self._buffer = RolloutBuffer.from_state(self._buffer.state(), policy.device)
        if self.config.beta != 0.0 and self._buffer.ref_per_token_logps is None:  # resumed, with beta=0 until then
            self._buffer = self._with_reference(policy, self._buffer)
        if self._buffer.old_per_token_logps is None and not self._is_on_policy:  # resumed
            log.warning("The checkpoint is older than scored old log-probs: its rollout uses the sampler's")
            sampled = self._buffer.sampling_per_token_logps
            self._buffer = dataclasses.replace(self._buffer, old_per_token_logps=sampled)
        num_steps = self.config.steps_per_generation
        step = self._buffer.step(self._visits % num_steps, num_steps)
        self._visits += 1
        return step

    @property
    def _is_on_policy(self) -> bool:
        """Say whether each rollout is used up before the optimizer changes the weights that sampled it, as TRL does."""
        return self.accumulate_grad_batches % self._num_visits == 0

    def validation_step(self, policy: Policy, batch: ClipBatch) -> Mapping[str, LogValue]:
        """Return nothing: the wheel scores of the greedy answers are all."""
        return {}

    def buffer_state(self) -> dict[str, Any]:
        """Return the rollout buffer and the position in it for a checkpoint; empty where it has been used up."""
        if self._buffer is None or self._visits == self._num_visits:
            return {}
        return {"visits": self._visits, "buffer": self._buffer.state()}

    def load_buffer_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`buffer_state`."""
        self._buffer, self._visits = None, 0
        if state:
            self._buffer = RolloutBuffer.from_state(state["buffer"], torch.device("cpu"))
            self._visits = state["visits"]
