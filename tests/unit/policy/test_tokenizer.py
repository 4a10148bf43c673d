"""The local tokenizer: no loss, one token a phrase, and reloading."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.backbone import check_vocabulary, load_tokenizer
from affectgpt_r1.policy.prompts import MEDIA_TOKENS, TURN, PromptTemplate
from affectgpt_r1.policy.tokenizer import BOS_TOKEN, EOS_TOKEN, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file):
    return load_tokenizer(tokenizer_file)


@given(text=st.text(max_size=60))
def test_round_trip_of_any_text(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text", ["<answer> happy , sad </answer>", " a . b ? it 's n't", "  two  spaces ", "你好\n\t", "###", "a###b", ""]
)
def test_round_trip_of_text_that_clean_ups_would_change(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=False) == text


def test_every_phrase_is_one_token(tokenizer, tiny_policy):
    phrases = tiny_policy.template.phrases()
    assert len(phrases) >= 15
    for phrase in (TURN, *phrases):
        assert len(tokenizer.encode(phrase, add_special_tokens=False)) == 1, phrase


def test_a_full_prompt_is_short_and_lossless(tokenizer, tiny_policy, make_batch):
    for prompt in tiny_policy.prompts(make_batch()):
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        assert tokenizer.decode(ids, skip_special_tokens=False) == prompt
    empty = tokenizer.encode(tiny_policy.prompts(make_batch())[1], add_special_tokens=False)
    assert len(empty) <= 32


def test_media_tokens_and_stops_have_ids_of_their_own(tokenizer):
    ids = [tokenizer.convert_tokens_to_ids(token) for token in (*MEDIA_TOKENS, BOS_TOKEN, EOS_TOKEN, TURN)]
    assert len(set(ids)) == len(ids)
    assert None not in ids
    assert max(ids) < len(tokenizer)
    assert tokenizer.bos_token == BOS_TOKEN
    assert tokenizer.eos_token == tokenizer.pad_token == EOS_TOKEN


def test_same_texts_same_file(tmp_path):
    paths = [tmp_path / name / "tokenizer.json" for name in ("one", "two")]
    for path in paths:
        build_tokenizer(["happy and sad", "sad and happy"], PromptTemplate("Which?").phrases(), 300, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json.*make demo-data"):
        load_tokenizer(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, "{}", '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": [["a"]]}}'],
)
def test_a_damaged_file_is_one_error(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be loaded"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_file_over_which_the_library_panics_is_one_error(tmp_path, tokenizer_file):
    """Found by fuzzing: merges that are shorter than the prefix of a continued word."""
    content = json.loads(tokenizer_file.read_text())
    content["model"] |= {"continuing_subword_prefix": "##", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be loaded \((range|slice)"):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("text", ["", "[]", '{"bos_token": [], "eos_token": {"content": {}}}', "[" * 100_000])
def test_a_damaged_configuration_is_one_error(tmp_path, tokenizer_file, text):
    (tmp_path / "tokenizer.json").write_text(tokenizer_file.read_text().replace("im_start", "start"))
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be loaded"):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.fixture
def llama_folder(tmp_path):
    """``llama_folder(**ends)``: a tokenizer with <s> and </s>, and a model that has a row for each of its tokens."""
    import transformers as hf
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    def write(**ends):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(["happy sad"] * 3, trainer)
        tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=backend, **ends)
        tokenizer.save_pretrained(tmp_path / "llama")
        return tmp_path / "llama", len(tokenizer)

    return write


def test_a_tokenizer_with_ends_of_its_own_keeps_them(llama_folder, make_policy, tiny_config, make_batch):
    from affectgpt_r1.types import Sampling

    folder, size = llama_folder(bos_token="<s>", eos_token="</s>")
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "</s>")
    assert "<|im_start|>" not in tokenizer.get_vocab()
    alone = load_tokenizer(folder / "tokenizer.json")  # as an exported folder names it
    assert (alone.bos_token, alone.eos_token) == ("<s>", "</s>")
    language_model = {**tiny_config["language_model"], "vocab_size": size}  # no rows for media placeholders
    language_model["max_position_embeddings"] = 1024  # its prompts are one token per byte
    policy, batch = make_policy(tokenizer=str(folder), language_model=language_model), make_batch()
    assert policy.embed_prompts(batch).mask.sum() > 0
    assert policy.per_token_logps(batch, policy.encode_targets(batch)).isfinite().all()
    assert len(policy.generate(batch, 1, Sampling(temperature=1.0, max_completion_length=4)).texts) == 4


def test_a_tokenizer_without_ends_is_refused(llama_folder):
    folder, _ = llama_folder()
    with pytest.raises(ConfigError, match=r"llama has neither <\|im_start\|>.*nor a BOS and an EOS token"):
        load_tokenizer(folder)
    with pytest.raises(ConfigError, match=r"tokenizer\.json has neither"):
        load_tokenizer(folder / "tokenizer.json")


def test_a_token_without_a_row_in_the_weights_is_refused(tokenizer_file, make_policy, tiny_config, tmp_path):
    """As where tokens were added to a tokenizer, and the embeddings were not resized."""
    tokenizer = load_tokenizer(tokenizer_file)
    size = len(tokenizer)
    tokenizer.add_tokens(["<cheerful>"])
    tokenizer.save_pretrained(tmp_path)
    language_model = {**tiny_config["language_model"], "vocab_size": size}
    with pytest.raises(ConfigError, match=rf"'<cheerful>' is number {size}, but .* has {size} rows"):
        make_policy(tokenizer=str(tmp_path / "tokenizer.json"), language_model=language_model)
    check_vocabulary(load_tokenizer(tokenizer_file), make_policy(language_model=language_model).language_model)
