"""The only door to transformers and peft: small models from configs, and LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.encoders import AudioTower, Towers, VideoTower, WaveformNormalization
from affectgpt_r1.policy.prompts import BOS_TOKEN, EOS_TOKEN, MEDIA_TOKENS


def build_towers(
    video: Mapping[str, Any], audio: Mapping[str, Any], waveform_normalization: WaveformNormalization
) -> Towers:
    """Towers with fresh weights.

    Args:
        video: Keywords of ``CLIPVisionConfig``.
        audio: Keywords of ``HubertConfig``.
        waveform_normalization: See :class:`~affectgpt_r1.policy.encoders.AudioTower`.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, HubertConfig, HubertModel

    return Towers(
        VideoTower(CLIPVisionModelWithProjection(CLIPVisionConfig(**video))),
        AudioTower(HubertModel(HubertConfig(**audio)), waveform_normalization),
    )


def build_language_model(vocab_size: int, config: Mapping[str, Any]) -> Any:
    """A ``Qwen2ForCausalLM`` with fresh weights.

    Args:
        vocab_size: Size of the tokenizer.
        config: Keywords of ``Qwen2Config``.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(vocab_size=vocab_size, **config))


def add_lora(model: Any, *, r: int, alpha: int, dropout: float, target_modules: Sequence[str]) -> None:
    """Freeze a language model and inject trainable LoRA adapters in place (Hu et al. 2022).

    Injection keeps the module tree, so that the rest of the policy need not know whether LoRA is on.

    Args:
        model: A transformers language model.
        r: Rank.
        alpha: Scale; the update is multiplied by ``alpha / r``.
        dropout: Dropout on the adapters' input.
        target_modules: Names of the linear layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(target_modules))
    inject_adapter_in_model(config, model)


def load_tokenizer(path: str | Path) -> Any:
    """A ``PreTrainedTokenizerFast`` from ``tokenizer.json``.

    The tokenizer object is passed on as it is: rebuilding it from a model folder could choose another class.

    Raises:
        ConfigError: There is no such file, or it lacks a media token.
    """
    from transformers import PreTrainedTokenizerFast

    if not Path(path).is_file():
        raise ConfigError(f"No tokenizer at {path}: run `make demo-data`, or set model.tokenizer to a tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token=BOS_TOKEN, eos_token=EOS_TOKEN, pad_token=EOS_TOKEN
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(MEDIA_TOKENS)})
    return tokenizer


def new_cache(config: Any) -> Any:
    """An empty key-value cache for a language model."""
    from transformers import DynamicCache

    return DynamicCache(config=config)
