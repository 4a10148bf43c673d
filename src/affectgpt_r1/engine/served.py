"""An engine that lets a vLLM server draw tokens, and runs everything else here.

The server holds the language model without what trains. Projections, fusion and media are in the prompt embeddings;
adapters are written as PEFT's files whenever they have changed, into a folder that both see.
"""

from __future__ import annotations

import base64
import io
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from affectgpt_r1.distributed.collectives import all_gather_objects, rank
from affectgpt_r1.engine.base import (
    Decoded,
    EmbeddedPrompts,
    Engine,
    LogpsAndEntropies,
    PrecomputedGrads,
    SpecialTokens,
)
from affectgpt_r1.engine.prefix_cache import fingerprints
from affectgpt_r1.engine.sampler import check_sampling
from affectgpt_r1.engine.vllm_client import ServedCompletion, VLLMClient
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.types import Sampling, TokenBatch

log = logging.getLogger(__name__)

ADAPTER = "rollout-policy"  # opens the names of adapters
SEEDS = 2**31
BAN = -100.0  # the lowest bias that the API takes


class ServedEngine:
    """See :class:`~affectgpt_r1.engine.base.Engine`.

    Args:
        local: Scores and embeds.
        model: The transformers causal language model that it runs.
        client: Of the server, which serves the same model without adapters.
        folder: Where adapters are written; the server must see it under the same path.

    Raises:
        ConfigError: More trains of the language model than adapters of its layers, or the server has another model.
        TrainingError: The server does not answer.
    """

    reuses_prefill = False
    samples_elsewhere = True

    def __init__(self, local: Engine, model: Any, client: VLLMClient, folder: Path) -> None:
        self.local, self.model, self.client, self.folder = local, model, client, folder.absolute()
        trained_adapters(model)
        self._positions = client.served_length()
        self._sent: Any = None  # fingerprints of the adapters that the server has
        self._name: str | None = None  # of these adapters
        self._run, self._count = uuid4().hex[:8], 0
        log.info("Completions are drawn by vLLM at %s (%s, %d positions)", client.url, client.model, self._positions)

    def token_embedding(self) -> Callable[[Tensor], Tensor]:
        """See :class:`~affectgpt_r1.engine.base.Engine`."""
        return self.local.token_embedding()

    def prefill(self, prompts: EmbeddedPrompts) -> EmbeddedPrompts:
        """Return the prompts, which the server runs."""
        return prompts

    def logps_and_entropies(
        self,
        prompts: Any,
        completions: TokenBatch,
        temperature: float,
        *,
        entropy: bool,
        precomputed_grads: PrecomputedGrads | None = None,
    ) -> LogpsAndEntropies:
        """See :class:`~affectgpt_r1.engine.base.Engine`."""
        return self.local.logps_and_entropies(
            prompts, completions, temperature, entropy=entropy, precomputed_grads=precomputed_grads
        )

    @torch.no_grad()
    def generate(
        self,
        prefill: EmbeddedPrompts,
        num_generations: int,
        sampling: Sampling,
        tokens: SpecialTokens,
        *,
        generator: torch.Generator | None = None,
        ends: Callable[[Tensor], Tensor] | None = None,
    ) -> Decoded:
        """See :class:`~affectgpt_r1.engine.base.Engine`; stop strings are looked for by the server, not by ``ends``.

        Log-probs are vLLM's processed ones: of what was drawn from, after temperature, bans and filters.
        """
        check_sampling(sampling)
        self._send_adapters()
        is_greedy = sampling.temperature == 0
        settings: dict[str, Any] = {
            "model": self._name or self.client.model,
            "n": 1 if is_greedy else num_generations,  # equal completions, of which vLLM draws one only
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "repetition_penalty": 1.0,  # whatever the model's folder has as default
            "stop": list(sampling.stop_strings),
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,  # in the text that stop strings are looked for in
            "stop_token_ids": list(tokens.stop_ids),
            "ignore_eos": True,  # what ends a completion is said by stop_token_ids alone
            "logit_bias": {str(token): BAN for token in tokens.banned_ids if token < self.model.config.vocab_size},
            "logprobs": 0,  # of the drawn token alone
            "return_token_ids": True,
        }
        # vLLM gives the n-th completion of a request the n-th seed from that of the request.
        seeds = torch.randint(SEEDS - num_generations, (len(prefill.embeds),), generator=generator).tolist()
        dtype = self.model.get_input_embeddings().weight.dtype
        bodies = []
        for embeds, mask, seed in zip(prefill.embeds, prefill.mask.bool(), seeds, strict=True):
            prompt = embeds[mask].to("cpu", dtype)
            limit = self._limit(len(prompt), sampling.max_completion_length)
            bodies.append({**settings, "prompt_embeds": _encoded(prompt), "seed": seed, "max_tokens": limit})
        drawn = self.client.complete_all(bodies)
        repeats = num_generations if is_greedy else 1
        return _padded([one for group in drawn for one in group * repeats], tokens.pad_id, prefill.embeds.device)

    def _limit(self, prompt: int, wanted: int) -> int:
        """Return the most tokens that may follow a prompt: the model's positions may leave fewer than are wanted."""
        positions: int = self.model.config.max_position_embeddings
        limit = min(wanted, positions - prompt)
        if prompt + limit > self._positions:
            raise ConfigError(
                f"rollout=vllm: a prompt of {prompt} tokens and {limit} to follow exceed the {self._positions} "
                f"positions of the server at {self.client.url}: start it with a higher --max-model-len"
            )
        return limit

    def _send_adapters(self) -> None:
        """Let the server have the adapters as they are now; every rank calls this, and the first one does it."""
        adapters = trained_adapters(self.model)
        if not adapters:
            return
        current = fingerprints(adapters.values())
        if current == self._sent:
            return
        name = self._write_and_load(adapters) if rank() == 0 else None
        self._name, self._sent = all_gather_objects(name)[0], current

    def _write_and_load(self, adapters: dict[str, nn.Parameter]) -> str:
        self._count += 1
        name = f"{ADAPTER}-{self._run}-{self._count}"  # vLLM would keep the weights that it knows by a name
        write_adapters(self.model, adapters, self.folder / name)
        self.client.load_adapter(name, str(self.folder / name), self._name)
        for old in self.folder.glob(f"{ADAPTER}-*"):  # of a killed process, too
            if old.name != name:
                shutil.rmtree(old)
        return name


def trained_adapters(model: Any) -> dict[str, nn.Parameter]:
    """Return the parameters of a language model that train, by name.

    Raises:
        ConfigError: One of them is not an adapter of a layer, which is all that a running server can take.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = tuple(name for name in trained if ".layers." in name and "lora_" in name)
    if others := [name for name in trained if name not in layers]:
        raise ConfigError(
            f"rollout=vllm sends adapters of the layers to the server, and {len(others)} other weights of the language "
            f"model train, such as {others[0]}: set model.lora with projections of the layers as target_modules, or "
            "rollout=local"
        )
    return trained


def write_adapters(model: Any, adapters: dict[str, nn.Parameter], folder: Path) -> None:
    """Write adapters as PEFT does."""
    folder.mkdir(parents=True)
    save_file(
        {peft_name(name): weight.detach().to("cpu", copy=True).contiguous() for name, weight in adapters.items()},
        folder / "adapter_model.safetensors",
    )
    model.peft_config["default"].save_pretrained(folder)


def peft_name(name: str) -> str:
    """Return the name that PEFT's files give to a weight of an adapter."""
    return f"base_model.model.{name.replace('.default', '')}"


def _encoded(prompt: Tensor) -> str:
    file = io.BytesIO()
    torch.save(prompt.clone(), file)  # a slice would be saved with all that it is a slice of
    return base64.b64encode(file.getvalue()).decode()


def _padded(drawn: list[ServedCompletion], pad_id: int, device: torch.device) -> Decoded:
    length = max(len(one.ids) for one in drawn)
    ids = torch.tensor([one.ids + [pad_id] * (length - len(one.ids)) for one in drawn])
    logps = torch.tensor([one.logps + [0.0] * (length - len(one.logps)) for one in drawn])
    mask = torch.tensor([[1.0] * len(one.ids) + [0.0] * (length - len(one.ids)) for one in drawn])
    truncated = torch.tensor([one.truncated for one in drawn])
    return Decoded(*(value.to(device) for value in (ids, mask, logps, truncated)))
