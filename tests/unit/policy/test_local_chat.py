"""A chat model from a folder: a toy of the same classes as the real ones, whose answers can be told in advance."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from affectgpt_r1.cli.score import main
from affectgpt_r1.emotion.chat_client import CachedChat, ChatError
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.local_chat import load_local_chat

WORDS = ("<unk>", "<end>", "<system>", "<user>", "<bot>", "[happy]", "calm", "smiles", "weeps")
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)
NEXT = {"<bot>": "[happy]", "[happy]": "calm", "calm": "<end>"}
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": len(WORDS) + 1,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": 640,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}


def save_toy(folder, model_class=Qwen2ForCausalLM, config_class=Qwen2Config, template=TEMPLATE, sampled=False):
    """A model without attention or feed-forward, whose head maps each word onto the one that follows it."""
    model = model_class(config_class(**SIZES))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.zero_()
        for row, word in enumerate(WORDS):
            model.model.embed_tokens.weight[row, row] = 1.0
            model.lm_head.weight[WORDS.index(NEXT.get(word, "weeps")), row] = 1.0
    if sampled:
        model.generation_config.update(do_sample=True, temperature=50.0)
    model.save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", unk_token="<unk>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return save_toy(tmp_path / "toy")


@pytest.mark.parametrize(
    ("model_class", "config_class"), [(Qwen2ForCausalLM, Qwen2Config), (LlamaForCausalLM, LlamaConfig)]
)
def test_answers_without_prompt_and_end(tmp_path, model_class, config_class):
    chat = load_local_chat(save_toy(tmp_path / "toy", model_class, config_class))
    assert chat("She smiles", "List the words") == "[happy] calm"
    assert chat("") == "[happy] calm"


def test_greedy_whatever_the_folder_asks_for(tmp_path):
    chat = load_local_chat(save_toy(tmp_path / "toy", sampled=True))
    assert {chat("She smiles") for _ in range(5)} == {"[happy] calm"}


def test_max_tokens_ends_an_answer(folder):
    assert load_local_chat(folder, max_tokens=1)("She smiles") == "[happy]"


def test_the_template_is_followed(tmp_path):
    template = TEMPLATE.replace("<bot>", "calm")
    assert load_local_chat(save_toy(tmp_path / "toy", template=template))("She smiles") == ""


def test_the_identity_is_that_of_the_files(folder):
    chat = load_local_chat(folder)
    assert chat.identity == load_local_chat(folder).identity
    assert str(folder.resolve()) in chat.identity
    assert chat.identity != load_local_chat(folder, max_tokens=2).identity
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("<bot>", "calm"))
    assert chat.identity != load_local_chat(folder).identity


def test_answers_are_kept(folder):
    chat = load_local_chat(folder)
    assert CachedChat(chat)("She smiles") == "[happy] calm"
    chat.model.lm_head.weight.data.zero_()
    assert CachedChat(chat)("She smiles") == "[happy] calm"
    assert CachedChat(chat)("She weeps") == ""


def test_a_question_that_is_too_long(folder):
    chat = load_local_chat(folder)
    assert chat("smiles " * 126) == "[happy] calm"  # <user>, 126 words, <bot>, 512 for the answer
    with pytest.raises(ChatError, match=r"takes 640 tokens, and the question that begins 'smiles .* has 129 before"):
        chat("smiles " * 127)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_a_missing_file(folder, file):
    (folder / file).unlink()
    with pytest.raises(ConfigError, match=rf"toy: has no {file}; give the folder of a transformers chat model"):
        load_local_chat(folder)


def test_a_missing_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere: has no config\.json"):
        load_local_chat(tmp_path / "nowhere")


def test_pickled_weights_are_refused(folder):
    model = load_local_chat(folder).model
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="toy: cannot be loaded as a chat model with safetensors weights"):
        load_local_chat(folder)


def test_damaged_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="toy: cannot be loaded as a chat model"):
        load_local_chat(folder)


def test_lacking_weights_are_never_drawn_at_random(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"toy: the weights lack 1 tensors, such as lm_head\.weight"):
        load_local_chat(folder)


def test_code_of_the_folder_is_not_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "unheard", "auto_map": {"AutoModelForCausalLM": "modelling.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modelling.py").write_text(f"open({str(folder / 'run')!r}, 'w')")
    with pytest.raises(ConfigError, match="toy: cannot be loaded as a chat model"):
        load_local_chat(folder)
    assert not (folder / "run").exists()


def test_no_chat_template(tmp_path):
    with pytest.raises(ConfigError, match="toy: the tokenizer has no chat template"):
        load_local_chat(save_toy(tmp_path / "toy", template=None))


def test_score_asks_the_folder_for_free_text(folder, tmp_path, capsys):
    (tmp_path / "p.csv").write_text("name,reason\na,She smiles\n")
    (tmp_path / "t.csv").write_text("name,openset\na,happy\n")
    files = ["--predictions", str(tmp_path / "p.csv"), "--targets", str(tmp_path / "t.csv")]
    main([*files, "--chat-model", str(folder)])
    assert "100.00 [100.00, 100.00]" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main([*files, "--chat-model", str(tmp_path / "nowhere")])
    assert stopped.value.code == 2
    assert "nowhere: has no config.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*files, "--chat-url", "http://127.0.0.1:1/v1"])
    assert "--chat-url needs the model's name there" in capsys.readouterr().err
