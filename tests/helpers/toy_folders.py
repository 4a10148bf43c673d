"""CLIP, HuBERT and Qwen2 of toy width in folders as on the hub, and what ``model=affectgpt_7b`` makes of them."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import OmegaConf

from affectgpt_r1.config.compose import CONFIGS
from affectgpt_r1.policy.build_policy import build_policy
from affectgpt_r1.policy.prompts import PromptTemplate

TOY = {
    "language_model": {
        "vocab_size": 1024,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "video_encoder": {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 14,
        "projection_dim": 16,
    },
    "audio_encoder": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2},
}
FOLDERS = {
    "language_model": "Qwen2.5-7B-Instruct",
    "video_encoder": "clip-vit-large-patch14",
    "audio_encoder": "chinese-hubert-large",
}
CONVOLUTIONS = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}


def published_config(weights: Path) -> dict:
    config = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / "affectgpt_7b.yaml"), resolve=False)
    del config["_target_"]
    return {**config, "weights": str(weights)}


def write_toy_folders(folder: Path, tokenizer_file: Path) -> None:
    """CLIP, HuBERT and Qwen2 of toy width in folders named as on the hub, as ``save_pretrained`` writes them."""
    import transformers as hf

    published = published_config(folder)
    torch.manual_seed(3)
    hubert = {
        key: published["audio_encoder"][key] for key in ("conv_bias", "feat_extract_norm", "do_stable_layer_norm")
    }
    models = {
        "language_model": hf.Qwen2ForCausalLM(hf.Qwen2Config(**TOY["language_model"])),
        "video_encoder": hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**TOY["video_encoder"])),
        "audio_encoder": hf.HubertModel(hf.HubertConfig(**TOY["audio_encoder"], **hubert, **CONVOLUTIONS)),
    }
    for part, model in models.items():
        model.save_pretrained(folder / FOLDERS[part])
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    tokenizer.save_pretrained(folder / FOLDERS["language_model"])


def toy_config_of(weights: Path) -> dict:
    """``configs/model/affectgpt_7b.yaml`` with narrower parts, nothing else."""
    config = published_config(weights)
    for part, widths in TOY.items():
        config[part].update(widths)
    return config


def build(config, seed=0, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_policy(**{**config, **changes}, template=PromptTemplate("What does the character feel?"))
