"""Names of the weights in AffectGPT's released checkpoints, and of ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from affectgpt_r1.errors import CheckpointError

# PEFT's wrapper in front of the language model, which injection does without
LANGUAGE_MODEL = ("llama_model.base_model.model.", "language_model.")

LINEAR_LAYERS: Mapping[str, str] = {
    "video_attention_mlp": "fusion.video.attention",
    "affectgpt_proj": "fusion.video.projection",
    "audio_attention_mlp": "fusion.audio.attention",
    "audio_llama_proj": "fusion.audio.projection",
    "image_llama_proj": "fusion.image.projection",
    "multi_video_embs": "fusion.multi.video",
    "multi_audio_embs": "fusion.multi.audio",
    "attention_mlp": "fusion.multi.joint",
    "fc_att": "fusion.multi.scores",
    "multi_llama_proj": "fusion.multi.projection",
}

QUERY_FORMERS: Mapping[str, str] = {
    "video": "fusion.video.reader",
    "audio": "fusion.audio.reader",
    "multi": "fusion.multi.reader",
}
POSITION_TABLES: Mapping[str, str] = {
    "video": "video_frame_position_embedding",
    "audio": "audio_position_embedding",
    "multi": "multi_position_embedding",
}
ATTENTION_LAYERS: Mapping[str, str] = {
    "self.query": "query",
    "self.key": "key",
    "self.value": "value",
    "output.dense": "output",
    "output.LayerNorm": "norm",
}
QUERY_LAYERS: Mapping[str, str] = {
    **{f"attention.{theirs}": f"self_attention.{ours}" for theirs, ours in ATTENTION_LAYERS.items()},
    **{f"crossattention.{theirs}": f"cross_attention.{ours}" for theirs, ours in ATTENTION_LAYERS.items()},
    "intermediate_query.dense": "intermediate",
    "output_query.dense": "output",
    "output_query.LayerNorm": "norm",
}

# Encoders that a checkpoint may repeat, which come from their own folders; and what Light-MER's distillation alone used
FROZEN_PREFIXES = ("visual_encoder.", "acoustic_encoder.", "ot_hidden_proj.")
FROZEN_SUFFIXES = (".position_ids",)


def our_names(published: Mapping[str, Tensor], ours: Iterable[str]) -> dict[str, Tensor]:
    """Return a published checkpoint's tensors under our names, one for each of ``ours``.

    Parts of the fusion that are not built here are left out: a published file has every part, whatever its mode reads.

    Raises:
        CheckpointError: A tensor has no place here, or one is missing.
    """
    wanted, tensors = set(ours), {}
    built = {_part(name) for name in wanted}
    for name, tensor in published.items():
        place = our_name(name)
        if place in wanted:
            tensors[place] = tensor
        elif place is not None and (_part(place) in built or "lora_" in place) and _trains(place):
            raise CheckpointError(f"The checkpoint's {name} has no place here; choose its model.fusion and lora")
    if lacking := sorted(wanted - tensors.keys()):
        raise CheckpointError(
            f"The checkpoint lacks {len(lacking)} weights of this model, such as {lacking[0]}; choose its model.fusion"
        )
    return tensors


def _part(ours: str) -> str:
    return ".".join(ours.split(".")[:2])


def _trains(ours: str) -> bool:
    return "lora_" in ours or ours.startswith("fusion.")


def our_name(published: str) -> str | None:
    """Return our name of a published one; None for what stays frozen.

    >>> our_name("affectgpt_proj.weight")
    'fusion.video.projection.weight'
    >>> our_name("llama_model.base_model.model.model.layers.3.mlp.up_proj.lora_A.default.weight")
    'language_model.model.layers.3.mlp.up_proj.lora_A.default.weight'
    """
    name = published.removeprefix("module.")
    if name.startswith(FROZEN_PREFIXES) or name.endswith(FROZEN_SUFFIXES):
        return None
    if name.startswith(LANGUAGE_MODEL[0]):
        return LANGUAGE_MODEL[1] + name.removeprefix(LANGUAGE_MODEL[0])
    layer, _, weight = name.rpartition(".")
    if layer in LINEAR_LAYERS:
        return f"{LINEAR_LAYERS[layer]}.{weight}"
    place = _query_former_name(name)
    if place is None:
        raise CheckpointError(f"{published} is not a weight of AffectGPT; is this one of its released checkpoints?")
    return place


def _query_former_name(name: str) -> str | None:
    for part, reader in QUERY_FORMERS.items():
        if name == f"{POSITION_TABLES[part]}.weight":
            return f"{reader}.positions.weight"
        if name == f"{part}_query_tokens":
            return f"{reader}.queries"
        inner = name.removeprefix(f"{part}_Qformer.bert.")
        if inner == name:
            continue
        if inner.startswith("embeddings.LayerNorm."):
            return f"{reader}.norm.{inner.rpartition('.')[2]}"
        layer, _, weight = inner.removeprefix("encoder.layer.").rpartition(".")
        number, _, layer = layer.partition(".")
        if layer in QUERY_LAYERS:
            return f"{reader}.layers.{number}.{QUERY_LAYERS[layer]}.{weight}"
    return None
