"""The multimodal policy: encoders, fusion and a causal language model behind one contract.

``clips -> encoders -> fusion -> media tokens in the embedded prompts -> engine -> completions or log-probs``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from affectgpt_r1.engine.base import Decoded, EmbeddedPrompts, Engine, PrecomputedGrads, SpecialTokens, mean_loss_grads
from affectgpt_r1.engine.decode_parts import decode_in_parts, prompts_at_once
from affectgpt_r1.engine.prefix_cache import keep_prefill, repeats_exactly, take_prefill
from affectgpt_r1.engine.sampler import cut_rows, seeded_by_names, stop_string_test
from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.policy.base import LogpsAndEntropies
from affectgpt_r1.policy.dropout import disable_dropout
from affectgpt_r1.policy.encoders import Encoders
from affectgpt_r1.policy.fusion import MediaFusion
from affectgpt_r1.policy.prompts import MEDIA_TOKENS, PromptTemplate
from affectgpt_r1.types import ClipBatch, Phase, PrefixCache, Rollout, Sampling, TokenBatch


class MultimodalPolicy(nn.Module):
    """A causal language model whose prompts hold media tokens, as AffectGPT's and HumanOmni's do.

    Args:
        language_model: A transformers causal language model.
        encoders: Frozen encoders.
        fusion: Projectors that yield the media tokens, of AffectGPT or of another model family.
        tokenizer: A transformers fast tokenizer that knows the media placeholders.
        template: Question and target format.
        engine: Runs the language model over prompts that hold the media already.
    """

    def __init__(
        self,
        language_model: Any,
        encoders: Encoders,
        fusion: MediaFusion,
        tokenizer: Any,
        template: PromptTemplate,
        engine: Engine,
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.encoders = encoders
        self.fusion = fusion
        self.tokenizer = tokenizer
        self.template = template
        self.engine = engine
        self.media_ids: dict[str, int] = {token: tokenizer.convert_tokens_to_ids(token) for token in MEDIA_TOKENS}
        self.turn_ids: list[int] = tokenizer.encode(template.closing, add_special_tokens=False)
        known = tokenizer.get_vocab()
        more = [known[token] for token in template.stop_tokens if token in known]
        stop_ids = list(dict.fromkeys([self.turn_ids[0], tokenizer.eos_token_id, *more]))
        # A drawn placeholder would be taken for media in the next pass over the text.
        self.special_tokens = SpecialTokens(stop_ids, list(self.media_ids.values()), tokenizer.pad_token_id)
        self.prefill_ids: list[int] = tokenizer.encode(template.prefill, add_special_tokens=False)
        self.phase: Phase = nullcontext
        self._reference: dict[str, Tensor] = {}

    @property
    def enable_thinking(self) -> bool:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        return self.template.expects_reasoning

    @property
    def samples_as_scored(self) -> bool:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        # As published, AffectGPT leaves BOS out of generation only.
        return self.template.bos_at_inference

    @property
    def samples_elsewhere(self) -> bool:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        return self.engine.samples_elsewhere

    @property
    def device(self) -> torch.device:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        parameter: Tensor = next(self.language_model.parameters())
        return parameter.device

    @property
    def _num_positions(self) -> int:
        positions: int = self.language_model.config.max_position_embeddings
        return positions

    def with_features(self, batch: ClipBatch) -> ClipBatch:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        if not self.encoders.frozen:
            return batch
        features = self.encoders(batch, policy_trains=self.training)
        return dataclasses.replace(batch, frames=None, context_frames=None, waveforms=None, features=features)

    def prompts(self, batch: ClipBatch) -> list[str]:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        return self.template.prompts(batch)

    def encode_targets(self, batch: ClipBatch) -> TokenBatch:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        texts = self.template.targets(batch)
        rows = [row + self.turn_ids for row in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        length = max(len(row) for row in rows)
        ids = torch.tensor([row + [self.tokenizer.pad_token_id] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1.0] * len(row) + [0.0] * (length - len(row)) for row in rows])
        return TokenBatch(ids.unsqueeze(1).to(self.device), mask.unsqueeze(1).to(self.device))

    def prompt_ids(self, batch: ClipBatch, *, bos: bool = True) -> list[list[int]]:
        """Return the tokens of ``B`` prompts, with as many placeholders as the media have tokens."""
        opening = self.tokenizer.bos_token if bos and self.template.opens_with_bos else ""
        texts = [opening + text for text in self.prompts(batch)]
        for placeholder, name in self.template.placeholders().items():
            texts = [text.replace(placeholder, placeholder * self.fusion.num_tokens[name]) for text in texts]
        return [row + self.prefill_ids for row in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def too_long(self, batch: ClipBatch, completion_lengths: Sequence[int] | None = None) -> dict[int, str]:
        """Say which prompts, with what is to follow, have more tokens than the model has positions.

        Args:
            batch: ``B`` clips; their media are not needed.
            completion_lengths: Tokens that follow each prompt; None means one.

        Returns:
            What is wrong and the remedy, by position in the batch.
        """
        # Rotary embeddings accept any position: beyond those of pretraining, answers degrade without an error.
        rows = self.prompt_ids(batch)
        return {
            index: (
                f"the prompt of {batch.names[index]} has {len(row)} tokens, of which its subtitle's "
                f"{len(batch.subtitles[index])} characters are a part, and {following} more are to follow, but the "
                f"language model has {self._num_positions} positions; shorten the subtitle, or raise "
                "model.language_model.max_position_embeddings of a model that is trained from scratch"
            )
            for index, (row, following) in enumerate(zip(rows, completion_lengths or [1] * len(rows), strict=True))
            if len(row) + following > self._num_positions
        }

    def embed_prompts(self, batch: ClipBatch, *, bos: bool = True) -> EmbeddedPrompts:
        """Embed the prompts and put the media tokens in place of their placeholders.

        Raises:
            ConfigError: A prompt holds a placeholder whose media the batch lacks.
            DataError: A prompt has more tokens than the model has positions.
        """
        rows = self.prompt_ids(batch, bos=bos)
        length = max(len(row) for row in rows)
        if length >= self._num_positions and (reasons := self.too_long(batch)):
            raise DataError(next(iter(reasons.values())))
        padded = [[self.tokenizer.pad_token_id] * (length - len(row)) + row for row in rows]
        ids = torch.tensor(padded, device=self.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=self.device)
        placeholders = torch.isin(ids, torch.tensor(list(self.media_ids.values()), device=self.device))
        embed_tokens = self.engine.token_embedding()
        embeds = embed_tokens(ids.masked_fill(placeholders, 0))  # their own rows are never read, and may not exist
        # The media enter here and nowhere else: generation and log-probs both start from what this returns.
        features = self.encoders(batch, policy_trains=self.training)
        media = self.fusion(features, self.template.instructions(batch))  # by name, (B, tokens, D)
        for placeholder, name in self.template.placeholders().items():
            where = ids == self.media_ids[placeholder]  # (B, P)
            if not where.any():
                continue
            if name not in media:
                raise ConfigError(f"The prompt holds {placeholder}, but {name} was not loaded: see data.modalities")
            # The n-th placeholder of a clip becomes the n-th media token of the same clip.
            clips, order = where.nonzero()[:, 0], (where.cumsum(1) - 1)[where]
            embeds = embeds.index_put((where,), media[name][clips, order].to(embeds.dtype))
        return EmbeddedPrompts(embeds, mask, embed_tokens)

    def per_token_logps(
        self,
        batch: ClipBatch,
        completions: TokenBatch,
        temperature: float = 1.0,
        *,
        prefix_cache: PrefixCache | None = None,
    ) -> Tensor:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        return self.engine.logps_and_entropies(
            self._prompts_or_prefill(batch, prefix_cache),
            completions,
            temperature,
            entropy=False,
            precomputed_grads=mean_loss_grads,
        ).per_token_logps

    def logps_and_entropies(
        self,
        batch: ClipBatch,
        completions: TokenBatch,
        temperature: float = 1.0,
        *,
        entropy_gradient: bool = False,
        precomputed_grads: PrecomputedGrads | None = None,
        prefix_cache: PrefixCache | None = None,
    ) -> LogpsAndEntropies:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        logps, entropies = self.engine.logps_and_entropies(
            self._prompts_or_prefill(batch, prefix_cache),
            completions,
            temperature,
            entropy=True,
            precomputed_grads=precomputed_grads,
        )
        return LogpsAndEntropies(logps, entropies if entropy_gradient else entropies.detach())

    def _prompts_or_prefill(self, batch: ClipBatch, prefix_cache: PrefixCache | None) -> Any:
        prefill = None
        if prefix_cache is not None:
            prefill = take_prefill(prefix_cache, batch, self.trainable_parameters().values())
        return self.embed_prompts(batch) if prefill is None else prefill

    def generate(
        self, batch: ClipBatch, num_generations: int, sampling: Sampling, generator: torch.Generator | None = None
    ) -> Rollout:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        training = self.training
        if generator is None and sampling.seed is not None and sampling.temperature > 0:
            generator = seeded_by_names(sampling.seed, batch.names)
        # A group that is drawn for an update leaves the prompts' pass, with its graph, in the rollout's prefix_cache:
        # the update continues it, if it would compute the same.
        keep = self.engine.reuses_prefill and self.samples_as_scored and self.encoders.frozen
        keep = keep and training and torch.is_grad_enabled() and num_generations > 1
        keep = keep and repeats_exactly(self.language_model) and repeats_exactly(self.fusion)
        self.eval()
        try:
            with self.phase("prefill"), torch.set_grad_enabled(keep):
                prompts = self.embed_prompts(batch, bos=self.template.bos_at_inference)
            # A completion may not outgrow the model's positions: those of a clip with a long prompt are cut below.
            room = (self._num_positions - prompts.mask.sum(1)).repeat_interleave(num_generations)  # (B * G,)
            longest = min(sampling.max_completion_length, int(room.max()))
            caches: list[PrefixCache | None] = []

            def decode(part: EmbeddedPrompts) -> Decoded:
                with self.phase("prefill"), torch.set_grad_enabled(keep):
                    prefill = self.engine.prefill(part)
                caches.append(keep_prefill(prefill, batch, self.trainable_parameters().values()) if keep else None)
                with self.phase("decode"), torch.no_grad():
                    return self.engine.generate(
                        prefill,
                        num_generations,
                        dataclasses.replace(sampling, max_completion_length=longest),
                        self.special_tokens,
                        generator=generator,
                        ends=stop_string_test(self.tokenizer, sampling.stop_strings),
                    )

            # Answers to several clips are independent of each other; what is drawn goes by the order of all rows.
            if num_generations == 1 and not sampling.temperature:
                at_once = prompts_at_once(self.language_model, prompts, longest)
                decoded = decode_in_parts(decode, prompts, at_once, self.special_tokens.pad_id)
            else:
                decoded = decode(prompts)
        finally:
            self.train(training)
        if int(room.min()) < longest:
            decoded = cut_rows(decoded, room, self.tokenizer.pad_token_id)
        shape = (len(batch), num_generations, -1)
        texts = self._decode_texts(decoded.ids, decoded.mask)
        return Rollout(
            TokenBatch(decoded.ids.view(shape), decoded.mask.view(shape)),
            decoded.per_token_logps.view(shape),
            [texts[row : row + num_generations] for row in range(0, len(texts), num_generations)],
            decoded.truncated.view(shape[:2]),
            caches[0],
        )

    def _decode_texts(self, ids: Tensor, mask: Tensor) -> list[str]:
        stops = self.special_tokens.stop_ids
        rows = [
            [token for token, kept in zip(row, keep, strict=True) if kept and token not in stops]
            for row, keep in zip(ids.tolist(), mask.tolist(), strict=True)
        ]
        return [self.template.prefill + self.tokenizer.decode(row, skip_special_tokens=False) for row in rows]

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that train, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def disable_dropout(self) -> list[str]:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        return disable_dropout(self.language_model) + disable_dropout(self.fusion)

    def snapshot_reference(self) -> None:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        # The reference is the policy as it is now, at the start of GRPO: the SFT weights. Only what trains is
        # copied, the rest is frozen. With LoRA, adapters switched off would be another model: that from before SFT.
        self._reference = {name: parameter.detach().clone() for name, parameter in self.trainable_parameters().items()}

    def reference_state(self) -> dict[str, Tensor]:
        """Return the reference's weights for a checkpoint; empty without one."""
        return self._reference

    def load_reference_state(self, state: dict[str, Tensor]) -> None:
        """Restore the reference's weights."""
        self._reference = {name: tensor.to(self.device) for name, tensor in state.items()}

    @contextmanager
    def reference(self) -> Iterator[None]:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        if not self._reference:
            raise ConfigError("No reference policy was kept: set stage.beta before training starts")
        parameters = self.trainable_parameters()
        kept = {name: parameter.data for name, parameter in parameters.items()}
        self._reference = {name: self._reference[name].to(param.device) for name, param in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self._reference[name]
            torch.clear_autocast_cache()  # which holds the policy's weights in half precision
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = kept[name]
            torch.clear_autocast_cache()
