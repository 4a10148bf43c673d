"""A GGUF file, written here as llama.cpp's converter would, becomes the folder of the model that it was made of."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from affectgpt_r1.cli.convert import main
from affectgpt_r1.policy import convert_weights
from affectgpt_r1.policy.backbone import build_language_model
from affectgpt_r1.policy.pretrained import file_digest

gguf = pytest.importorskip("gguf", reason="GGUF files need the gguf package (extra `smol`)")

HEADS, KV_HEADS = 4, 2
CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "rms_norm_eps": 2.0**-17,  # GGUF keeps it in float32
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = ["I did not expect that.", "Ça va, 42 Grüße!", "她很高兴。", "<|im_start|>user\nhappy and  sad<|im_end|>\n"]
GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}


def gguf_name(name: str) -> str:
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name.replace("model.layers.", "blk.")


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a head in llama.cpp's rotary order: first and second half of the head by turns."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return build_language_model(tokenizer.get_vocab_size(), CONFIG)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory, model, tokenizer):
    path = tmp_path_factory.mktemp("gguf") / "toy.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(CONFIG["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_vocab_size(tokenizer.get_vocab_size())
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    content = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(content["vocab"], key=content["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if one in SPECIAL else gguf.TokenType.NORMAL for one in tokens])
    writer.add_token_merges([" ".join(pair) for pair in content["merges"]])
    for add, token in (("bos", 1), ("eos", 2), ("unk", 0), ("pad", 2)):
        getattr(writer, f"add_{add}_token_id")(token)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":  # tied
            heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
            array = tensor.numpy()
            writer.add_tensor(gguf_name(name), array if heads is None else interleaved(array, heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def folder(gguf_file):
    return convert_weights.convert_weights(str(gguf_file))


def test_tensors_are_the_same(folder, model):
    loaded = build_language_model(
        None, {**CONFIG, "vocab_size": model.config.vocab_size, "pretrained": str(folder), "dtype": "float32"}
    )
    expected, found = model.state_dict(), loaded.state_dict()
    assert set(found) == set(expected)
    assert [name for name in expected if not found[name].equal(expected[name])] == []
    tokens = torch.arange(10).unsqueeze(0)
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, rtol=0, atol=0)


def test_the_tokenizer_encodes_the_same(folder, tokenizer):
    from transformers import AutoTokenizer

    converted = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        tokens = converted(text, add_special_tokens=False)["input_ids"]
        assert tokens == tokenizer.encode(text, add_special_tokens=False).ids
        assert converted.decode(tokens) == text
    assert (converted.bos_token, converted.eos_token) == ("<|im_start|>", "<|im_end|>")


def test_source_and_result_are_recorded(folder, gguf_file, tmp_path, capsys):
    record = json.loads((folder / "provenance.json").read_text())
    assert record == {
        "source": "toy.gguf",
        "source_sha256": file_digest(gguf_file),
        "weights_sha256": file_digest(folder / "model.safetensors"),
    }
    main([str(gguf_file), "--output", str(tmp_path / "again")])
    assert capsys.readouterr().out.strip().endswith(f"again, made of toy.gguf with sha256 {record['source_sha256']}")
    assert file_digest(tmp_path / "again" / "model.safetensors") == record["weights_sha256"]


def test_smol_is_the_file_of_the_wheel(gguf_file, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_weights, "smol_file", lambda: gguf_file)
    monkeypatch.setattr(convert_weights, "SMOL_SHA256", file_digest(gguf_file))
    monkeypatch.setattr(convert_weights, "SMOL_FOLDER", tmp_path / "smol")
    assert convert_weights.convert_weights("smol") == tmp_path / "smol"
    assert (tmp_path / "smol" / "config.json").is_file()
