"""The multimodal policy: encoders, fusion and a causal language model behind one contract."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from affectgpt_r1.engine import prefix_attention as shared_attention
from affectgpt_r1.engine.fused_layers import fuse_layers
from affectgpt_r1.engine.fused_linear_logps import PrecomputedGrads, mean_loss_grads
from affectgpt_r1.engine.language_model import (
    Decoder,
    EmbeddedPrompts,
    Prefill,
    logps_and_entropies,
    prefill,
    repeated_states,
    shared_states,
)
from affectgpt_r1.engine.last_layer import trim_last_layer
from affectgpt_r1.engine.prefix_cache import PrefixCache, repeats_exactly
from affectgpt_r1.engine.sampler import cut_rows, decode, seeded_by_names, stop_string_test
from affectgpt_r1.engine.tied_embedding import InputEmbedding
from affectgpt_r1.engine.timing import phase
from affectgpt_r1.errors import ConfigError, DataError
from affectgpt_r1.policy.backbone import use_attention
from affectgpt_r1.policy.base import LogpsAndEntropies
from affectgpt_r1.policy.dropout import disable_dropout
from affectgpt_r1.policy.encoders import Encoders
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
from affectgpt_r1.types import ClipBatch, Rollout, Sampling, TokenBatch


class MultimodalPolicy(nn.Module):
    """AffectGPT's architecture: media tokens stand in the prompt of a causal language model.

    Args:
        language_model: A transformers causal language model with ``model`` and ``lm_head``.
        encoders: Frozen encoders.
        fusion: Projectors that yield the media tokens.
        tokenizer: A transformers fast tokenizer that knows the media placeholders.
        template: Question and target format.
        share_prefix: Run each prompt once and share its states among its completions, forward and backward; off, every
            completion repeats its prompt. Both ways work under gradient checkpointing.
    """

    def __init__(
        self,
        language_model: Any,
        encoders: Encoders,
        fusion: Fusion,
        tokenizer: Any,
        template: PromptTemplate,
        *,
        share_prefix: bool = True,
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.encoders = encoders
        self.fusion = fusion
        self.tokenizer = tokenizer
        self.template = template
        self.share_prefix = share_prefix
        self.media_ids: dict[str, int] = {token: tokenizer.convert_tokens_to_ids(token) for token in MEDIA_TOKENS}
        self.turn_ids: list[int] = tokenizer.encode(TURN, add_special_tokens=False)
        self.prefill_ids: list[int] = tokenizer.encode(template.prefill, add_special_tokens=False)
        self._reference: dict[str, Tensor] = {}
        self._prefix_cache: PrefixCache | None = None
        use_attention(language_model, shared_attention.NAME, shared_attention.attention)
        trim_last_layer(language_model)
        fuse_layers(language_model)

    @property
    def enable_thinking(self) -> bool:
        """Whether the prompt asks for reasoning before the answer."""
        return self.template.expects_reasoning

    @property
    def samples_as_scored(self) -> bool:
        """See :class:`~affectgpt_r1.policy.base.Policy`; the published quirk leaves BOS out of generation only."""
        return self.template.bos_at_inference

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
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

    def _placeholders(self) -> dict[str, str]:
        """The name of the media that each placeholder token stands for."""
        return {
            FACE_TOKEN: "video",
            FRAME_TOKEN: "frame" if self.template.visual == "both" else "video",
            IMAGE_TOKEN: "image",
            AUDIO_TOKEN: "audio",
            MULTI_TOKEN: "multi",
        }

    def prompt_ids(self, batch: ClipBatch, *, bos: bool = True) -> list[list[int]]:
        """Tokens of ``B`` prompts, with as many placeholders as the media have tokens."""
        texts = [(self.tokenizer.bos_token if bos else "") + text for text in self.prompts(batch)]
        for placeholder, name in self._placeholders().items():
            texts = [text.replace(placeholder, placeholder * self.fusion.num_tokens[name]) for text in texts]
        return [row + self.prefill_ids for row in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def too_long(self, batch: ClipBatch, completion_lengths: Sequence[int] | None = None) -> dict[int, str]:
        """Say which prompts, with what is to follow, have more tokens than the model has positions.

        Rotary embeddings accept any position, and answers degrade beyond those of pretraining without an error.

        Args:
            batch: ``B`` clips; their media are not needed.
            completion_lengths: Tokens that follow each prompt; None asks for room for one.

        Returns:
            By position in the batch, what is wrong and the remedy.
        """
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

        Args:
            batch: ``B`` clips.
            bos: Open every prompt with the BOS token.

        Raises:
            ConfigError: A prompt holds a placeholder whose media the batch lacks.
            DataError: A prompt has more tokens than the model has positions; see :meth:`too_long`.
        """
        names = self._placeholders()
        rows = self.prompt_ids(batch, bos=bos)
        length = max(len(row) for row in rows)
        if length >= self._num_positions and (reasons := self.too_long(batch)):
            raise DataError(next(iter(reasons.values())))
        padded = [[self.tokenizer.pad_token_id] * (length - len(row)) + row for row in rows]
        ids = torch.tensor(padded, device=self.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=self.device)
        placeholders = torch.isin(ids, torch.tensor(list(self.media_ids.values()), device=self.device))
        embedding = InputEmbedding(self.language_model)
        embeds = embedding(ids.masked_fill(placeholders, 0))
        tokens = self.fusion(self.encoders(batch, policy_trains=self.training))
        for placeholder, name in names.items():
            where = ids == self.media_ids[placeholder]
            if not where.any():
                continue
            if name not in tokens:
                raise ConfigError(f"The prompt holds {placeholder}, but {name} was not loaded: see data.modalities")
            clips, order = where.nonzero()[:, 0], (where.cumsum(1) - 1)[where]
            embeds = embeds.index_put((where,), tokens[name][clips, order].to(embeds.dtype))
        return EmbeddedPrompts(embeds, mask, embedding)

    def per_token_logps(self, batch: ClipBatch, completions: TokenBatch, temperature: float = 1.0) -> Tensor:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        return self._score(batch, completions, temperature, entropy=False, precomputed_grads=mean_loss_grads)[0]

    def score(
        self,
        batch: ClipBatch,
        completions: TokenBatch,
        temperature: float = 1.0,
        *,
        entropy_gradient: bool = False,
        precomputed_grads: PrecomputedGrads | None = None,
    ) -> LogpsAndEntropies:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        logps, entropies = self._score(
            batch, completions, temperature, entropy=True, precomputed_grads=precomputed_grads
        )
        return LogpsAndEntropies(logps, entropies if entropy_gradient else entropies.detach())

    def _score(
        self, batch: ClipBatch, completions: TokenBatch, temperature: float, **options: Any
    ) -> tuple[Tensor, Tensor]:
        chosen = completions.mask.flatten(0, 1).bool()
        states, weight = self._states(batch, completions)
        ids = completions.ids.flatten(0, 1)[chosen]
        scores = logps_and_entropies(
            self.language_model, states, ids, temperature=temperature, weight=weight, **options
        )
        blank = scores.logps.new_zeros(chosen.shape)
        logps, entropies = (
            blank if one is None else blank.index_put((chosen,), one) for one in (scores.logps, scores.entropies)
        )
        return logps.view(completions.ids.shape), entropies.view(completions.ids.shape)

    def _states(self, batch: ClipBatch, completions: TokenBatch) -> tuple[Tensor, Tensor | None]:
        """States that predict the completions' tokens, and the head's weight if they hand it on."""
        if self.share_prefix:
            prompts = self._take_prefill(batch) or self.embed_prompts(batch)
            states = shared_states(self.language_model, prompts, completions)
        else:
            prompts = self.embed_prompts(batch)
            states = repeated_states(self.language_model, prompts, completions)
        return states, prompts.embedding.weight

    def _take_prefill(self, batch: ClipBatch) -> Prefill | None:
        """The rollout's pass over the prompts, where it is this batch's; a pass without gradient leaves it."""
        kept = self._prefix_cache
        if torch.is_grad_enabled():
            self._prefix_cache = None
        return kept.prefilled if kept is not None and kept.serves(batch, self.trainable_parameters().values()) else None

    def generate(
        self, batch: ClipBatch, num_generations: int, sampling: Sampling, generator: torch.Generator | None = None
    ) -> Rollout:
        """See :class:`~affectgpt_r1.policy.base.Policy`.

        While a group is drawn for an update, the prompts' pass stays in the autograd graph: the next :meth:`score` of
        the same clips with the same weights continues it instead of repeating it.
        """
        training = self.training
        if generator is None and sampling.seed is not None and sampling.temperature > 0:
            generator = seeded_by_names(sampling.seed, batch.names, self.device)
        repeats = self.encoders.frozen and repeats_exactly(self.language_model) and repeats_exactly(self.fusion)
        as_scored = self.share_prefix and self.samples_as_scored and repeats
        keep = as_scored and training and torch.is_grad_enabled() and num_generations > 1
        if keep:
            self._prefix_cache = None  # frees the last one before there is another
        self.eval()
        try:
            with phase("prefill"), torch.set_grad_enabled(keep):
                prompts = self.embed_prompts(batch, bos=self.template.bos_at_inference)
                prefilled = prefill(self.language_model, prompts)
            room = (self._num_positions - prompts.mask.sum(1)).repeat_interleave(num_generations)  # (B * G,)
            longest = min(sampling.max_completion_length, int(room.max()))
            if keep:
                self._prefix_cache = PrefixCache.of(prefilled, batch, self.trainable_parameters().values())
            with phase("decode"), torch.no_grad():
                decoder = Decoder(self.language_model, prefilled, num_generations, longest)
                decoded = decode(
                    decoder.first,
                    decoder.advance,
                    sampling=dataclasses.replace(sampling, max_completion_length=longest),
                    stop_ids=[self.turn_ids[0], self.tokenizer.eos_token_id],
                    banned_ids=list(self.media_ids.values()),
                    pad_id=self.tokenizer.pad_token_id,
                    generator=generator,
                    ends=stop_string_test(self.tokenizer, sampling.stop_strings),
                    head=decoder.head,
                )
        finally:
            self.train(training)
        if int(room.min()) < longest:
            decoded = cut_rows(decoded, room, self.tokenizer.pad_token_id)
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

    def disable_dropout(self) -> list[str]:
        """See :class:`~affectgpt_r1.policy.base.Policy`."""
        return disable_dropout(self.language_model) + disable_dropout(self.fusion)

    def snapshot_reference(self) -> None:
        """See :class:`~affectgpt_r1.policy.base.Policy`.

        With LoRA this copies the adapters, else the small model. Adapters switched off would be the base model instead.
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
        self._reference = {name: self._reference[name].to(one.device) for name, one in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self._reference[name]
            torch.clear_autocast_cache()  # it would go on to serve the weights that stood here before
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = kept[name]
            torch.clear_autocast_cache()
