"""The multimodal policy: towers, fusion and a causal language model behind one contract."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.functional.logprobs import entropy_from_logits, selective_log_softmax
from affectgpt_r1.policy.backbone import new_cache
from affectgpt_r1.policy.base import TokenScores
from affectgpt_r1.policy.encoders import Towers
from affectgpt_r1.policy.fusion import Fusion
from affectgpt_r1.policy.prompts import (
    AUDIO_TOKEN,
    FACE_TOKEN,
    FRAME_TOKEN,
    IMAGE_TOKEN,
    MEDIA_TOKENS,
    MULTI_TOKEN,
    TURN,
    PromptTemplate,
)
from affectgpt_r1.policy.sampler import decode
from affectgpt_r1.types import ClipBatch, Rollout, Sampling, TokenBatch


class EmbeddedPrompts(NamedTuple):
    """Prompts as embeddings, left-padded so that every prompt ends at the same place."""

    embeds: Tensor  # (B, P, D)
    mask: Tensor  # (B, P) int64


class MultimodalPolicy(nn.Module):
    """AffectGPT's architecture: media tokens stand in the prompt of a causal language model.

    Args:
        language_model: A transformers causal language model with ``model`` and ``lm_head``.
        towers: Frozen encoders.
        fusion: Projectors that yield the media tokens.
        tokenizer: A transformers fast tokenizer that knows the media placeholders.
        template: Question and target format.
        share_prompt: Run each prompt once and share its states among its completions, forward and backward; off, every
            completion repeats its prompt, as gradient checkpointing needs.
    """

    def __init__(
        self,
        language_model: Any,
        towers: Towers,
        fusion: Fusion,
        tokenizer: Any,
        template: PromptTemplate,
        *,
        share_prompt: bool = True,
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.towers = towers
        self.fusion = fusion
        self.tokenizer = tokenizer
        self.template = template
        self.share_prompt = share_prompt
        self.media_ids: dict[str, int] = {token: tokenizer.convert_tokens_to_ids(token) for token in MEDIA_TOKENS}
        self.turn_ids: list[int] = tokenizer.encode(TURN, add_special_tokens=False)
        self.prefill_ids: list[int] = tokenizer.encode(template.prefill, add_special_tokens=False)
        self._reference: dict[str, Tensor] = {}

    @property
    def thinks(self) -> bool:
        """Whether the prompt asks for reasoning before the answer."""
        return self.template.expects_reasoning

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        parameter: Tensor = next(self.language_model.parameters())
        return parameter.device

    def with_features(self, batch: ClipBatch) -> ClipBatch:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        if not self.towers.frozen:
            return batch
        return dataclasses.replace(batch, frames=None, waveforms=None, features=self.towers(batch))

    def prompts(self, batch: ClipBatch) -> list[str]:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        return [
            self.template.prompt(text, kinds) for text, kinds in zip(batch.subtitles, batch.modalities, strict=True)
        ]

    def encode_targets(self, batch: ClipBatch) -> TokenBatch:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        texts = [
            self.template.target(labels, reason) for labels, reason in zip(batch.labels, batch.reasons, strict=True)
        ]
        rows = [row + self.turn_ids for row in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        length = max(len(row) for row in rows)
        ids = torch.tensor([row + [self.tokenizer.pad_token_id] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1.0] * len(row) + [0.0] * (length - len(row)) for row in rows])
        return TokenBatch(ids.unsqueeze(1).to(self.device), mask.unsqueeze(1).to(self.device))

    def embed_prompts(self, batch: ClipBatch, *, bos: bool = True) -> EmbeddedPrompts:
        """Embed the prompts and put the media tokens in place of their placeholders.

        Args:
            batch: ``B`` clips.
            bos: Open every prompt with the BOS token.

        Raises:
            ConfigError: A prompt holds a placeholder whose media the batch lacks.
        """
        names = {
            FACE_TOKEN: "video",
            FRAME_TOKEN: "frame" if self.template.visual == "both" else "video",
            IMAGE_TOKEN: "image",
            AUDIO_TOKEN: "audio",
            MULTI_TOKEN: "multi",
        }
        texts = [(self.tokenizer.bos_token if bos else "") + text for text in self.prompts(batch)]
        for placeholder, name in names.items():
            texts = [text.replace(placeholder, placeholder * self.fusion.num_tokens[name]) for text in texts]
        rows = self.tokenizer(texts, add_special_tokens=False)
        rows = {"input_ids": [row + self.prefill_ids for row in rows["input_ids"]]}
        length = max(len(row) for row in rows["input_ids"])
        padded = [[self.tokenizer.pad_token_id] * (length - len(row)) + row for row in rows["input_ids"]]
        ids = torch.tensor(padded, device=self.device)
        mask = torch.tensor(
            [[0] * (length - len(row)) + [1] * len(row) for row in rows["input_ids"]], device=self.device
        )
        placeholders = torch.isin(ids, torch.tensor(list(self.media_ids.values()), device=self.device))
        embeds = self.language_model.get_input_embeddings()(ids.masked_fill(placeholders, 0))
        tokens = self.fusion(self.towers(batch))
        for placeholder, name in names.items():
            where = ids == self.media_ids[placeholder]
            if not where.any():
                continue
            if name not in tokens:
                raise ConfigError(f"The prompt holds {placeholder}, but {name} was not loaded: see data.modalities")
            clips, order = where.nonzero()[:, 0], (where.cumsum(1) - 1)[where]
            embeds = embeds.index_put((where,), tokens[name][clips, order].to(embeds.dtype))
        return EmbeddedPrompts(embeds, mask)

    def per_token_logps(self, batch: ClipBatch, completions: TokenBatch, temperature: float = 1.0) -> Tensor:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        return self.score(batch, completions, temperature).per_token_logps

    def score(self, batch: ClipBatch, completions: TokenBatch, temperature: float = 1.0) -> TokenScores:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        prompts = self.embed_prompts(batch)
        states = (self._shared_states if self.share_prompt else self._repeated_states)(prompts, completions)
        chosen = completions.mask.flatten(0, 1).bool()
        logits = self.language_model.lm_head(states[chosen]) / temperature
        logps = selective_log_softmax(logits, completions.ids.flatten(0, 1)[chosen])
        with torch.no_grad():
            entropies = entropy_from_logits(logits)
        blank = torch.zeros(chosen.shape, device=chosen.device)
        shape = completions.ids.shape
        return TokenScores(
            blank.index_put((chosen,), logps).view(shape), blank.index_put((chosen,), entropies).view(shape)
        )

    def _prefill(self, prompts: EmbeddedPrompts, num_generations: int) -> tuple[Tensor, Any]:
        """States ``(N, D)`` at each prompt's last position, and the cache, both repeated for ``N = B * G``."""
        cache = new_cache(self.language_model.config)
        states = self.language_model.model(
            inputs_embeds=prompts.embeds,
            attention_mask=prompts.mask,
            position_ids=_positions(prompts.mask),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        if num_generations > 1:
            cache.batch_repeat_interleave(num_generations)
        return states.repeat_interleave(num_generations, 0), cache

    def _continue(self, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """States ``(N, c, D)`` of the last ``c`` tokens, given the cache; ``mask`` covers prompt and tokens."""
        states: Tensor = self.language_model.model(
            inputs_embeds=self.language_model.get_input_embeddings()(ids),
            attention_mask=mask,
            position_ids=_positions(mask)[:, -ids.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return states

    def _shared_states(self, prompts: EmbeddedPrompts, completions: TokenBatch) -> Tensor:
        """States ``(N, C, D)`` that predict each completion token; each prompt runs once."""
        num_generations, length = completions.ids.shape[1:]
        last, cache = self._prefill(prompts, num_generations)
        if length == 1:
            return last.unsqueeze(1)
        ids, mask = completions.ids.flatten(0, 1)[:, :-1], completions.mask.flatten(0, 1)[:, :-1]
        full = torch.cat([prompts.mask.repeat_interleave(num_generations, 0), mask.long()], 1)
        return torch.cat([last.unsqueeze(1), self._continue(ids, full, cache)], 1)

    def _repeated_states(self, prompts: EmbeddedPrompts, completions: TokenBatch) -> Tensor:
        """The same states by one pass over prompt and completion, the prompt repeated for each completion."""
        num_generations, length = completions.ids.shape[1:]
        ids, mask = completions.ids.flatten(0, 1), completions.mask.flatten(0, 1).long()
        embeds = torch.cat(
            [prompts.embeds.repeat_interleave(num_generations, 0), self.language_model.get_input_embeddings()(ids)], 1
        )
        full = torch.cat([prompts.mask.repeat_interleave(num_generations, 0), mask], 1)
        states: Tensor = self.language_model.model(
            inputs_embeds=embeds, attention_mask=full, position_ids=_positions(full), use_cache=False
        ).last_hidden_state
        return states[:, -length - 1 : -1]

    @torch.no_grad()
    def generate(
        self, batch: ClipBatch, num_generations: int, sampling: Sampling, generator: torch.Generator | None = None
    ) -> Rollout:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        training = self.training
        self.eval()
        try:
            prompts = self.embed_prompts(batch, bos=self.template.bos_at_inference)
            last, cache = self._prefill(prompts, num_generations)
            prompt_mask = prompts.mask.repeat_interleave(num_generations, 0)

            def advance(drawn: Tensor, mask: Tensor) -> Tensor:
                full = torch.cat([prompt_mask, mask.long()], 1)
                logits: Tensor = self.language_model.lm_head(self._continue(drawn.unsqueeze(1), full, cache)[:, -1])
                return logits

            decoded = decode(
                self.language_model.lm_head(last),
                advance,
                sampling=sampling,
                stop_ids=[self.turn_ids[0], self.tokenizer.eos_token_id],
                banned_ids=list(self.media_ids.values()),
                pad_id=self.tokenizer.pad_token_id,
                generator=generator,
            )
        finally:
            self.train(training)
        shape = (len(batch), num_generations, -1)
        texts = self._decode_texts(decoded.ids, decoded.mask)
        grouped = [texts[row : row + num_generations] for row in range(0, len(texts), num_generations)]
        tokens = TokenBatch(decoded.ids.view(shape), decoded.mask.view(shape))
        return Rollout(tokens, decoded.per_token_logps.view(shape), grouped, decoded.truncated.view(shape[:2]))

    def _decode_texts(self, ids: Tensor, mask: Tensor) -> list[str]:
        stops = {self.turn_ids[0], self.tokenizer.eos_token_id}
        rows = [
            [token for token, kept in zip(row, keep, strict=True) if kept and token not in stops]
            for row, keep in zip(ids.tolist(), mask.tolist(), strict=True)
        ]
        return [self.template.prefill + self.tokenizer.decode(row, skip_special_tokens=False) for row in rows]

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that train, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def snapshot_reference(self) -> None:
        """See :class:`~affectgpt_r1.policy.base.Policy`.

        With LoRA this copies the adapters, else the small model: one mechanism. Switching adapters off instead would
        give the base model, not the SFT policy.
        """
        self._reference = {name: parameter.detach().clone() for name, parameter in self.trainable_parameters().items()}

    def reference_state(self) -> dict[str, Tensor]:
        """The reference's weights for a checkpoint; empty where none was taken."""
        return self._reference

    def load_reference_state(self, state: dict[str, Tensor]) -> None:
        """Restore the reference's weights."""
        self._reference = {name: tensor.to(self.device) for name, tensor in state.items()}

    @contextmanager
    def reference(self) -> Iterator[None]:
        """See :class:`~affectgpt_r1.policy.base.Policy`.

        Raises:
            ConfigError: No reference was taken.
        """
        if not self._reference:
            raise ConfigError("There is no reference policy: stage.beta must be set before training starts")
        parameters = self.trainable_parameters()
        kept = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self._reference[name].to(parameter.device)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = kept[name]


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)
