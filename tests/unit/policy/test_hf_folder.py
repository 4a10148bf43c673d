"""An exported folder may come from anyone: what leads out of it, runs code or is too large is refused unbuilt."""

from __future__ import annotations

import json
import os
import shutil
import struct

import pytest
import torch
from safetensors.torch import save_file

from affectgpt_r1.config.library_errors import explain_library_error
from affectgpt_r1.errors import AffectGPTError, CheckpointError
from affectgpt_r1.inference.load_policy import _exported
from affectgpt_r1.policy import pretrained
from affectgpt_r1.policy.hf_export import export_policy, load_exported
from affectgpt_r1.policy.hf_folder import file_digest

PROCESSOR = {
    **{"modalities": ["video", "audio", "text"], "visual": "face", "num_frames": 4, "image_size": 48},
    **{"channel_order": "bgr", "num_windows": 2, "window_seconds": 2.0},
}


@pytest.fixture(scope="module")
def exported(make_policy, tiny_config, tokenizer_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "merged"
    model = {**tiny_config, "tokenizer": str(tokenizer_file)}
    export_policy(make_policy(), model, folder, kind="merged", processor=PROCESSOR, max_completion_length=8, card="")
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "folder", copy_function=os.link)


def put(path, content):
    """Write a file in place of a hard link."""
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def change(file, key, value):
    def write(folder):
        content = json.loads((folder / file).read_text())
        *parents, last = key.split("/")
        node = content
        for name in parents:
            node = node[name]
        node[last] = value
        put(folder / file, content)

    return write


def whole(file, content):
    return lambda folder: put(folder / file, content)


def link(file, target):
    def write(folder):
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(target)

    return write


def fifo(folder):
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


def index(name):
    return whole("model.safetensors.index.json", {"metadata": {}, "weight_map": {"lm_head.weight": name}})


SETTINGS, CONFIG, PROCESS, GENERATE = (
    *("affectgpt_r1.json", "config.json", "preprocessor_config.json", "generation_config.json"),
)
HEADER = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
HOSTILE = {
    "auto_map": (change(CONFIG, "auto_map", {"AutoConfig": "evil.C"}), "auto_map.AutoConfig=evil.C is text"),
    "attention kernel": (change(CONFIG, "_attn_implementation", "evil/kernel"), "_attn_implementation would load"),
    "nested kernel": (change(CONFIG, "text_config", {"attn_implementation": "evil/k"}), "attn_implementation would"),
    "experts kernel": (change(CONFIG, "experts_implementation", "evil/k"), "experts_implementation would load"),
    "other weights": (change(CONFIG, "transformers_weights", "../x.safetensors"), "transformers_weights would load"),
    "quantization": (change(CONFIG, "quantization_config", {"quant_method": "gptq"}), "quant_method=gptq is text"),
    "another family": (change(CONFIG, "model_type", "llama"), "model_type=llama, but"),
    "another size": (change(CONFIG, "hidden_size", 256), "hidden_size=256, but"),
    "vocabulary": (change(CONFIG, "vocab_size", 10**9), r"vocab_size=1000000000 is above"),
    "deep config": (whole(CONFIG, b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}"), "is deeper than 32 levels"),
    "large config": (whole(CONFIG, b" " * (1 << 21)), "more than 1,048,576 bytes"),
    "no config": (lambda folder: (folder / CONFIG).unlink(), "config.json cannot be read"),
    "an adapter": (whole("adapter_config.json", {"base_model_name_or_path": "evil/m"}), "names another base model"),
    "index out": (index("../../../../etc/passwd"), "names '../../../../etc/passwd', which is not a file"),
    "index absolute": (index("/etc/passwd"), "which is not a file of its folder"),
    "index of a number": (index(3), "which is not a file of its folder"),
    "index of nothing": (whole("model.safetensors.index.json", {}), "which is not a file of its folder"),
    "link of a file": (link("tokenizer.json", "/etc/passwd"), "tokenizer.json is a link out of the folder"),
    "link of weights": (link("multimodal.safetensors", "../../x"), "is a link out of the folder"),
    "link to a device": (link("model.safetensors", "/dev/zero"), "is a link out of the folder"),
    "link of a folder": (link("adapter", "/etc"), "adapter is a link out of the folder"),
    "pipe": (fifo, "tokenizer.json is not a file"),
    "kind": (change(SETTINGS, "kind", "other"), "kind='other' is neither"),
    "kind of a list": (change(SETTINGS, "kind", ["merged"]), "is neither merged nor adapter"),
    "settings {}": (whole(SETTINGS, {}), "lacks model"),
    "settings []": (whole(SETTINGS, []), "does not hold settings"),
    "settings cut": (whole(SETTINGS, b'{"ki'), "cannot be read as settings"),
    "settings deep": (whole(SETTINGS, b"[" * 10**6), "cannot be read as settings"),
    "settings binary": (whole(SETTINGS, b"\xff\xfe\x00"), "cannot be read as settings"),
    "extra key": (change(SETTINGS, "model/zzz", 1), "model.zzz is unknown"),
    "target": (change(SETTINGS, "model/fusion", {"_target_": "os.system"}), "model.fusion._target_ does not belong"),
    "interpolation": (change(SETTINGS, "model/fusion", "${oc.env:HOME}"), "model.fusion holds an interpolation"),
    "kernel": (change(SETTINGS, "model/video_encoder/attn_implementation", "evil/k"), "evil/k is text"),
    "dtype": (change(SETTINGS, "model/language_model/dtype", "load"), "dtype=load is unknown"),
    "layers": (change(SETTINGS, "model/audio_encoder/num_hidden_layers", 10**9), "num_hidden_layers=1000000000 is"),
    "no encoder": (change(SETTINGS, "model/audio_encoder", None), "lacks model.audio_encoder, a mapping"),
    "template key": (change(SETTINGS, "template/evil", "x"), "template.evil is unknown"),
    "template value": (
        change(SETTINGS, "template/enable_thinking", "yes"),
        "template.enable_thinking='yes' is not what",
    ),
    "no question": (change(SETTINGS, "template", {}), "lacks template.question"),
    "digests": (change(SETTINGS, "digests", [1]), "lacks digests"),
    "processor {}": (whole(PROCESS, {}), "modalities=null is not of type list"),
    "processor value": (change(PROCESS, "num_frames", "8"), 'num_frames="8" is not of type int'),
    "processor key": (change(PROCESS, "trust_remote_code", True), "data.trust_remote_code is unknown"),
    "frames": (change(PROCESS, "num_frames", 10**9), "data.num_frames=1000000000"),
    "generation {}": (whole(GENERATE, {}), "max_new_tokens=null is not of type int"),
    "generation long": (change(GENERATE, "max_new_tokens", 10**12), "max_new_tokens=1000000000000 is not from 1"),
    "generation drawn": (change(GENERATE, "do_sample", True), "temperature=null is not of type float"),
    "header 2^63": (whole("multimodal.safetensors", struct.pack("<Q", 2**63) + b"{}"), "cannot be read"),
    "header 1e8": (whole("multimodal.safetensors", struct.pack("<Q", 10**8) + b"{}"), "cannot be read"),
    "offsets 4 TB": (whole("multimodal.safetensors", struct.pack("<Q", len(HEADER)) + HEADER), "cannot be read"),
    "other tensors": (
        lambda folder: save_file({"a": torch.zeros(1)}, folder / "multimodal.safetensors"),
        "does not fit",
    ),
    "large encoder": (change(SETTINGS, "model/video_encoder/intermediate_size", 1 << 23), "does not fit the exported"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_export_does_not_write_is_refused_before_a_model_is_built(case, folder, monkeypatch):
    spoil, message = HOSTILE[case]
    if case == "other tensors":
        (folder / "multimodal.safetensors").unlink()
    spoil(folder)
    monkeypatch.setattr(pretrained, "local_weights", None)  # from here on weights are loaded
    with pytest.raises(CheckpointError) as caught:
        _exported(folder, [])
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_the_folder_as_it_was_written_loads(folder):
    policy, media, sampling, lexicon, is_synthetic = _exported(folder, [])
    assert (media.num_frames, sampling.max_completion_length, lexicon) == (4, 8, "bundled")
    assert not is_synthetic
    assert policy.tokenizer("happy").input_ids


def test_pickled_weights_are_not_loaded(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"x": 1}, folder / "pytorch_model.bin")
    with pytest.raises(AffectGPTError, match=r"cannot be loaded \(Error no file named model\.safetensors"):
        load_exported(folder)


def test_weights_of_another_size_than_the_config_says_are_one_line(folder):
    for file, key in ((CONFIG, "vocab_size"), (SETTINGS, "model/language_model/vocab_size")):
        change(file, key, 500)(folder)
    with pytest.raises(AffectGPTError, match="cannot be loaded"):
        load_exported(folder)


def test_a_pattern_that_takes_too_long_is_one_line(folder):
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    change("tokenizer.json", "pre_tokenizer", pattern)(folder)
    digests = json.loads((folder / SETTINGS).read_text())["digests"]
    change(SETTINGS, "digests", {**digests, "tokenizer.json": file_digest(folder / "tokenizer.json")})(folder)
    policy = load_exported(folder)
    with pytest.raises(BaseException, match="retry-limit-in-match") as caught:
        policy.tokenizer("a" * 40 + "!")
    assert explain_library_error(caught.value).startswith("the tokenizer failed (Onig: Regex search error")
