"""The local tokenizer: no loss, one token a phrase, and reloading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.backbone import load_tokenizer
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
