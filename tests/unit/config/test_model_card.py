"""The model card of an exported policy says what the configuration says, and no more."""

from __future__ import annotations

import re

import pytest
from rich.markdown import Markdown

from affectgpt_r1.config.compose import resolved
from affectgpt_r1.config.export_checkpoint import model_card
from helpers.configs import compose_config


@pytest.fixture
def card():
    def build(experiment, *overrides, kind="adapter"):
        config = compose_config("train", f"experiment={experiment}", "init_from=a/best.ckpt", *overrides)
        return model_card(resolved(config), name="mine", kind=kind, trainable=54_412_548, total=8_289_433_988)

    return build


def test_a_card_of_the_7b_model(card):
    text = card("affectgpt/mercaption")
    head = text.split("---")[1]
    assert "base_model: Qwen/Qwen2.5-7B-Instruct\n" in head
    assert "license: other\n" in head
    assert "54,412,548 of 8,289,433,988 parameters trained" in text
    assert "openai/clip-vit-large-patch14; TencentGameMate/chinese-hubert-large" in text
    assert "Question: AffectGPT's `ovlabel`" in text
    assert "track2_train_mercaptionplus.csv" in text
    assert "synthetic" not in text
    assert not re.search(r"\b(F1|accuracy|score)\b", text)  # nothing was measured when it was written
    assert "{" not in text.replace("LoRA {", "")


def test_a_card_of_a_model_from_synthetic_clips(card):
    text = card("demo/grpo", kind="merged")
    assert "base_model" not in text  # the hub would look for it
    assert text.count("trained from scratch") == 3
    assert "synthetic clips: metrics say nothing about real people" in text
    assert 'Question: "Please recognize emotional states of the character.' in text
    assert "base_model" not in card("smol/grpo")  # a folder's name is no hub id


def test_no_setting_becomes_markup(card):
    payload = "a](http://h)<img src=x>`b`\n---\n# c\x1b"
    keys = ("model.language_model.pretrained", "model.video_encoder.pretrained", "model.fusion", "data.train_labels",
            "prompt.question", "stage.name")  # fmt: skip
    config = resolved(compose_config("train", "experiment=demo/grpo", "init_from=a/best.ckpt", "synthetic=false"))
    for key in keys:
        group, *path, last = key.split(".")
        holder = config[group]
        for name in path:
            holder = holder[name]
        holder[last] = payload
    text = model_card(config, name=payload, kind="merged", trainable=1, total=1)
    tokens = Markdown(text.split("---\n", 2)[2]).parsed
    kinds = {token.type for outer in tokens for token in (outer, *(outer.children or ()))}
    assert not {"link_open", "html_inline", "html_block", "image"} & kinds
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", "h2", "h2"]
    assert "\x1b" not in text
