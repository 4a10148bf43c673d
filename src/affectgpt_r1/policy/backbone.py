"""The only door to transformers and peft: models from configs or pretrained weights, tokenizers, and LoRA."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    GenerationConfig,
    HubertConfig,
    HubertModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
    WhisperForAudioClassification,
)
from transformers.audio_utils import mel_filter_bank

from affectgpt_r1.errors import AffectGPTError, ConfigError
from affectgpt_r1.io.untrusted_files import read_json
from affectgpt_r1.policy.encoders import AudioEncoder, Encoders, VideoEncoder, WaveformNormalization
from affectgpt_r1.policy.pretrained import build_part, local_weights, only_local, weights_missing
from affectgpt_r1.policy.prompts import BOS_TOKEN, EOS_TOKEN, MEDIA_TOKENS


def build_patch_encoders(
    video: Mapping[str, Any], audio: Mapping[str, Any], weights: str | Path | None = None
) -> tuple[Any, Any]:
    """Build SigLIP's image encoder and Whisper's encoder, below ``encoder`` of what is returned for it.

    Args:
        video: Keywords of ``SiglipVisionConfig`` and :func:`~affectgpt_r1.policy.pretrained.build_part`.
        audio: Keywords of ``WhisperConfig`` and ``build_part``.
        weights: Folder whose subfolders hold pretrained weights.
    """
    # The classifier above Whisper's encoder is never used; HumanOmni's released file has its weights.
    siglip = build_part("video_encoder", SiglipVisionModel, SiglipVisionConfig, video, weights)
    whisper = build_part("audio_encoder", WhisperForAudioClassification, WhisperConfig, audio, weights)
    if audio.get("pretrained") is not None:  # else drawn in each process, they would change the encoders' digest
        for layer in (whisper.projector, whisper.classifier):
            layer.requires_grad_(False).weight.zero_()
            layer.bias.zero_()
    return siglip, whisper


def build_question_encoder(config: Mapping[str, Any], weights: str | Path | None = None) -> Any:
    """Build BERT; ``config`` holds keywords of ``BertConfig`` and ``build_part``."""
    return build_part("question_encoder", BertModel, BertConfig, config, weights)


def mel_filters(num_mels: int, n_fft: int, rate: int) -> Tensor:
    """Return Whisper's triangular filters ``(n_fft / 2 + 1, num_mels)`` over the power spectrum up to 8 kHz."""
    filters = mel_filter_bank(n_fft // 2 + 1, num_mels, 0.0, 8000.0, rate, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters).float()


def load_question_tokenizer(path: str | Path, weights: str | Path | None = None) -> Any:
    """Load the tokenizer of a question encoder: a ``tokenizer.json``, a model folder or a hub id."""
    source = local_weights(str(path), weights)
    try:
        if Path(path).suffix == ".json":
            return PreTrainedTokenizerFast(tokenizer_file=str(path))
        return AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, use_fast=True, local_files_only=only_local(source)
        )
    except BaseException as error:
        if not _is_of_file(error):
            raise
        raise ConfigError(weights_missing("question_encoder.tokenizer", str(path), weights, error)) from error


def build_encoders(
    video: Mapping[str, Any],
    audio: Mapping[str, Any],
    waveform_normalization: WaveformNormalization,
    weights: str | Path | None = None,
) -> Encoders:
    """Build encoders with fresh or pretrained weights.

    Args:
        video: Keywords of ``CLIPVisionConfig`` and :func:`~affectgpt_r1.policy.pretrained.build_part`; ``image_mean``
            and ``image_std`` where they are not CLIP's.
        audio: Keywords of ``HubertConfig`` and ``build_part``.
        waveform_normalization: See :class:`~affectgpt_r1.policy.encoders.AudioEncoder`.
        weights: Folder whose subfolders hold pretrained weights.
    """
    clip = build_part("video_encoder", CLIPVisionModelWithProjection, CLIPVisionConfig, video, weights)
    hubert = build_part("audio_encoder", HubertModel, HubertConfig, audio, weights)
    scaling = {key: tuple(video[key]) for key in ("image_mean", "image_std") if key in video}
    return Encoders(VideoEncoder(clip, **scaling), AudioEncoder(hubert, waveform_normalization))


def build_language_model(
    vocab_size: int | None, config: Mapping[str, Any], weights: str | Path | None = None, *, checkpointing: bool = False
) -> Any:
    """Build a causal language model with fresh or pretrained weights.

    Args:
        vocab_size: Size of the tokenizer, where ``config`` names no ``vocab_size``.
        config: ``model_type`` (``qwen2`` by default), the keywords of its transformers configuration, and those of
            :func:`~affectgpt_r1.policy.pretrained.build_part`.
        weights: Folder whose subfolders hold pretrained weights.
        checkpointing: Compute activations again in the backward pass instead of keeping them.
    """
    settings = {"model_type": "qwen2", **config, "vocab_size": config.get("vocab_size") or vocab_size}
    model = build_part("language_model", AutoModelForCausalLM, AutoConfig.for_model, settings, weights)
    _check_family(model)
    if checkpointing:
        # transformers calls it activation checkpointing since 5.18 or later; the older name then warns.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model


# What some families do to logits or attention scores apart from layers and head, and the value that means nothing done.
NEUTRAL: Mapping[str, float | None] = {
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "logits_scaling": 1.0,
    "logit_scale": 1.0,
    "lm_head_multiplier": 1.0,
}
LAYER_TYPES = {"full_attention", "sliding_attention"}


def _check_family(model: Any) -> None:
    """Refuse a family whose tokens are not joined by plain attention, or whose logits are not its head's product."""
    config = model.config
    unsupported = [
        f"{key}={value}" for key in NEUTRAL if (value := getattr(config, key, None)) not in (None, NEUTRAL[key])
    ]
    unsupported += sorted(set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES)
    if not hasattr(getattr(model, "model", None), "layers") or not hasattr(model, "lm_head"):
        unsupported.append(f"the layout of {type(model).__name__}")
    if unsupported:
        raise ConfigError(
            f"model.language_model: model_type={config.model_type} has {', '.join(unsupported)}, which the engines "
            "do not compute; choose a family such as qwen2, llama or mistral"
        )


LORA_EXAMPLE = (
    "give all four keys, as in model.lora={r: 16, alpha: 32, dropout: 0.0, target_modules: [q_proj, v_proj]}, or null"
)


def check_lora(lora: Mapping[str, Any]) -> None:
    """Raise a :class:`ConfigError` for settings of :func:`add_lora` that lack a key or have another."""
    wanted = set(signature(add_lora).parameters) - {"model"}
    lacking, unknown = sorted(wanted - set(lora)), sorted(set(lora) - wanted)
    if lacking or unknown:
        wrong = f"lacks {', '.join(lacking)}" if lacking else f"knows no {', '.join(unknown)}"
        raise ConfigError(f"model.lora {wrong}; {LORA_EXAMPLE}")


def add_lora(model: Any, *, r: int, alpha: int, dropout: float, target_modules: Sequence[str]) -> None:
    """Freeze a language model and inject trainable LoRA adapters in place (Hu et al. 2022).

    Args:
        model: A transformers language model.
        r: Rank.
        alpha: Scale; the update is multiplied by ``alpha / r``.
        dropout: Dropout on the adapters' input.
        target_modules: Names of the linear layers.
    """
    from peft import LoraConfig, inject_adapter_in_model  # here: it costs a policy without adapters 2 s to import

    # Injection keeps the module tree: the rest of the policy need not know whether LoRA is on.
    model.requires_grad_(False)
    try:
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(target_modules))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*tie_word_embeddings.*")  # merge_lora unties what it merges
            inject_adapter_in_model(config, model)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.lora: {error}; {LORA_EXAMPLE}") from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # small updates would be lost in a frozen model's bfloat16


def merge_lora(model: Any) -> None:
    """Add the adapters to the layers that they adapt, and remove them."""
    from peft.tuners.lora import LoraLayer

    # An adapter on one of two tied layers belongs to that layer alone: they are untied first.
    inputs, head = model.get_input_embeddings(), model.lm_head
    bases = [layer.get_base_layer() if isinstance(layer, LoraLayer) else layer for layer in (inputs, head)]
    if bases[0].weight is bases[1].weight and bases != [inputs, head]:
        bases[1].weight = type(bases[1].weight)(bases[1].weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())


def load_tokenizer(path: str | Path, weights: str | Path | None = None) -> Any:
    """Load a fast tokenizer that knows the media placeholders, with AffectGPT's BOS, EOS and padding tokens.

    One that lacks them (Llama's, Mistral's) keeps its own BOS and EOS, and pads with EOS. None is ever added: the
    weights would have no row for it.

    Args:
        path: A ``tokenizer.json``, a model folder or a hub id.
        weights: Folder whose subfolders hold pretrained weights.

    Raises:
        ConfigError: The tokenizer is missing, or it lacks a BOS or EOS token.
    """

    def load(**ends: str) -> Any:
        if Path(path).suffix == ".json":  # as it is: rebuilt from a model folder it could become another class
            return PreTrainedTokenizerFast(tokenizer_file=str(path), **ends)
        return AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, use_fast=True, local_files_only=only_local(source), **ends
        )

    if Path(path).suffix == ".json" and not Path(path).is_file():
        raise ConfigError(f"No tokenizer at {path}: run `make demo-data`, or set model.tokenizer to a tokenizer.json")
    source = local_weights(str(path), weights)
    try:
        tokenizer = load()
        bos, eos = _ends(tokenizer, path)
        # A second time: only tokens named on loading become special, and one that is unknown would be added.
        tokenizer = load(bos_token=bos, eos_token=eos, pad_token=eos)
    except BaseException as error:
        if not _is_of_file(error):
            raise
        raise ConfigError(weights_missing("tokenizer", str(path), weights, error)) from error
    tokenizer.add_special_tokens({"additional_special_tokens": list(MEDIA_TOKENS)})
    return tokenizer


def _is_of_file(error: BaseException) -> bool:
    """Return whether a damaged file may have caused an error: anything but our own may come of one."""
    # A panic in the Rust code of tokenizers is not an Exception.
    is_panic = type(error).__module__ == "pyo3_runtime"
    return is_panic or (isinstance(error, Exception) and not isinstance(error, AffectGPTError))


def _ends(tokenizer: Any, path: str | Path) -> tuple[str, str]:
    """Return BOS and EOS among the tokens that a tokenizer has."""
    own = (tokenizer.bos_token, tokenizer.eos_token)
    config = Path(path).with_name("tokenizer_config.json")
    if Path(path).suffix == ".json" and config.is_file():  # a tokenizer.json alone does not name them
        named = read_json(config)
        own = (_text(named.get("bos_token")), _text(named.get("eos_token")))
    for ends in ((BOS_TOKEN, EOS_TOKEN), own):
        if tokenizer.get_vocab().keys() >= set(ends):
            return ends
    raise ConfigError(
        f"model.tokenizer: {path} has neither {BOS_TOKEN} and {EOS_TOKEN}, which open and end AffectGPT's prompt, "
        "nor a BOS and an EOS token of its own; name them in its tokenizer_config.json, or take the tokenizer of an "
        "instruction-tuned model"
    )


def _text(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token


def check_vocabulary(tokenizer: Any, model: Any) -> None:
    """Raise a :class:`ConfigError` if a language model lacks the row of a token; placeholders need none."""
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = sorted(
        (number, token)
        for token, number in tokenizer.get_vocab().items()
        if number >= rows and token not in MEDIA_TOKENS
    )
    if beyond:
        raise ConfigError(
            f"model.tokenizer: its token {beyond[0][1]!r} is number {beyond[0][0]}, but the language model has {rows} "
            "rows of embeddings; take the tokenizer that the weights came with, or weights whose embeddings were "
            "resized for it"
        )


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as a model folder with float32 safetensors; needs ``gguf``."""
    # Dequantised once here, the model loads in a second, and in the same way as any other.
    source: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
    for attribute in ("quantization_config", "_name_or_path"):
        model.config.__dict__.pop(attribute, None)
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **source).save_pretrained(folder)


def load_chat_model(folder: Path) -> tuple[Any, Any]:
    """Load a tokenizer with a chat template and a causal language model, without code that comes with them.

    Args:
        folder: In the layout of ``save_pretrained``: ``config.json``, ``tokenizer.json``, safetensors weights.

    Raises:
        ConfigError: The folder or a file of it is missing, damaged or of an unknown kind, or lacks a chat template.
    """
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise ConfigError(f"{folder}: has no {file}; give the folder of a transformers chat model on this machine")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="auto",
            output_loading_info=True,
        )
    except BaseException as error:
        if not _is_of_file(error):
            raise
        raise ConfigError(f"{folder}: cannot be loaded as a chat model with safetensors weights ({error})") from error
    model, report = loaded
    if lacking := sorted(report["missing_keys"]):
        raise ConfigError(f"{folder}: the weights lack {len(lacking)} tensors, such as {lacking[0]}; fetch them again")
    if not tokenizer.chat_template:
        raise ConfigError(f"{folder}: the tokenizer has no chat template; take an instruction-tuned model")
    return tokenizer, model


def greedy_tokens(model: Any, inputs: Mapping[str, Any], max_tokens: int) -> list[int]:
    """Decode at most ``max_tokens`` tokens greedily, whatever the model's own generation settings are.

    Args:
        model: A transformers language model.
        inputs: ``input_ids`` and ``attention_mask``, ``(1, P)``.
        max_tokens: Most tokens to add.
    """
    ends = model.generation_config.eos_token_id
    ends = model.config.eos_token_id if ends is None else ends
    padding = ends[0] if isinstance(ends, list) else ends
    settings = GenerationConfig(do_sample=False, max_new_tokens=max_tokens, eos_token_id=ends, pad_token_id=padding)
    tokens = model.generate(**inputs, generation_config=settings)
    return list(tokens[0, inputs["input_ids"].shape[1] :].tolist())
