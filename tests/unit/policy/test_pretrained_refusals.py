"""Weights that cannot be had or trusted: missing, pickled, incomplete, of another architecture, or with code."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import shutil
import socket
import ssl
import urllib.error

import pytest

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy import pretrained
from helpers.toy_folders import FOLDERS, build


@pytest.fixture
def requests_to_hub(monkeypatch):
    """Requests that transformers makes of a hub that does not answer."""
    from huggingface_hub import file_download

    made = []

    def refuse(*arguments, **_):
        made.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(pretrained, "hub_answers", lambda endpoint: False)
    monkeypatch.setattr(file_download, "get_hf_file_metadata", refuse)
    return made


def test_without_weights_the_folder_to_fill_is_named(toy_config, tmp_path, requests_to_hub, weights):
    elsewhere = {**toy_config, "weights": str(tmp_path), "tokenizer": str(weights / FOLDERS["language_model"])}
    with pytest.raises(ConfigError, match=rf"video_encoder: openai/\S+ cannot.*Fill {tmp_path}/clip-vit-large-patch14"):
        build(elsewhere)
    for part in ("tokenizer", "language_model"):
        folder = shutil.copytree(weights, tmp_path / part, ignore=shutil.ignore_patterns("Qwen*"))
        named = {"tokenizer": elsewhere["tokenizer"]} if part == "language_model" else {}
        with pytest.raises(ConfigError, match=rf"{part}: Qwen/\S+ cannot.*Fill {folder}/Qwen2\.5-7B-Instruct with"):
            build({**toy_config, "weights": str(folder), **named})
    assert requests_to_hub == []


def test_the_wheels_model_is_made_by_its_command(toy_config, tmp_path, requests_to_hub):
    with pytest.raises(ConfigError, match=r"Fill \S+/SmolLM2-135M-Instruct by `affectgpt-r1 convert smol`"):
        build({**toy_config, "weights": str(tmp_path), "tokenizer": "SmolLM2-135M-Instruct"})


@pytest.mark.parametrize(
    ("outcome", "answers"),
    [
        (None, True),
        (urllib.error.HTTPError("", 401, "", {}, None), True),
        (urllib.error.URLError(ssl.SSLCertVerificationError("unknown issuer")), True),
        (urllib.error.URLError(socket.gaierror("no such name")), False),
        (TimeoutError(), False),
    ],
)
def test_any_answer_of_the_hub_counts(monkeypatch, outcome, answers):
    asked = []

    @contextlib.contextmanager
    def urlopen(request, timeout):
        asked.append((request.full_url, request.get_method(), timeout))
        if outcome is not None:
            raise outcome
        yield

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    pretrained.hub_answers.cache_clear()
    try:
        assert [pretrained.hub_answers("https://hub.test") for _ in range(2)] == [answers] * 2
    finally:
        pretrained.hub_answers.cache_clear()
    assert asked == [("https://hub.test", "HEAD", 5.0)]


def test_pickled_weights_are_not_loaded(toy_config, weights, tmp_path):
    folder = shutil.copytree(weights, tmp_path / "pretrained")
    hubert = folder / FOLDERS["audio_encoder"]
    (hubert / "model.safetensors").unlink()
    (hubert / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ConfigError, match=r"audio_encoder: .*affectgpt-r1 convert"):
        build({**toy_config, "weights": str(folder)})


def test_incomplete_weights_are_refused(toy_config, weights, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(weights, tmp_path / "pretrained")
    file = folder / FOLDERS["language_model"] / "model.safetensors"
    state = load_file(file)
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 weights, such as model\.layers\.1\.mlp\.up_proj"):
        build({**toy_config, "weights": str(folder)})


def test_weights_of_another_architecture_are_refused(toy_config):
    other = copy.deepcopy(toy_config)
    other["language_model"]["num_key_value_heads"] = 4
    with pytest.raises(ConfigError, match=r"language_model\.num_key_value_heads=4, but .* 2"):
        build(other)


def test_code_that_comes_with_weights_does_not_run(toy_config, weights, tmp_path):
    folder = shutil.copytree(weights, tmp_path / "pretrained")
    file = folder / FOLDERS["language_model"] / "config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoModelForCausalLM": "evil.Model"}}), "utf-8"
    )
    (file.parent / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nModel = None\n", "utf-8")
    build({**toy_config, "weights": str(folder)})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"source_sha256": 1}', "[" * 100_000])
def test_a_damaged_record_of_conversion_is_one_error(tmp_path, text):
    (tmp_path / pretrained.PROVENANCE).write_text(text)
    with pytest.raises(ConfigError, match=r"damaged .*; make it with `affectgpt-r1 convert`"):
        pretrained.check_provenance("language_model", str(tmp_path), "0" * 64)
