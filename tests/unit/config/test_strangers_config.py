"""A configuration that comes with a run folder is data: small, shallow, and without calls, whoever reads it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from affectgpt_r1.config.compose import resolved
from affectgpt_r1.config.initial_policy import check_initial_policy
from affectgpt_r1.config.policy_config import lay_over, settings_of_checkpoint
from affectgpt_r1.config.resume import read_resumed
from affectgpt_r1.config.run_folder import UNREADABLE as REMEDY
from affectgpt_r1.config.run_folder import look_up
from affectgpt_r1.config.untrusted_config import check_interpolations, read_yaml
from affectgpt_r1.errors import AffectGPTError, CheckpointError
from affectgpt_r1.evaluation.compared_runs import describe_run
from affectgpt_r1.policy.convert_weights import _convert_pickle
from affectgpt_r1.tracking.provenance import git_tags
from helpers.configs import compose_config

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DOUBLED = "k0: xxxxxxxxxx\n" + "".join(f"k{n + 1}: ${{k{n}}}${{k{n}}}\n" for n in range(60))
UNREADABLE = {
    "laughs": (LAUGHS, "an alias"),
    "deep": ("a: " + "[" * 5000 + "]" * 5000, "deeper than 32 levels"),
    "large": ("a: " + "x" * 200_000, "larger than 131072 bytes"),
    "twice": ("model: {}\nmodel: {}\n", "duplicate key"),
    "python": ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
    "no YAML": ("a: [", "did not find"),
    "binary": ("a: \x01", "not allowed"),
}
UNRESOLVED = {
    "environment": "a: ${oc.env:HOME}\n",
    "nested": "a: ${oc.create:${oc.env:HOME}}\n",
    "hydra": "a: ${hydra:runtime.cwd}\n",
    "relative": "a: {b: x, c: '${.b}${.b}'}\n",
    "doubled": DOUBLED,
    "loop": "a: ${b}\nb: ${a}\n",
    "mappings": "a0: {x: 1, y: 2}\n" + "".join(f"a{n + 1}: {{x: '${{a{n}}}', y: '${{a{n}}}'}}\n" for n in range(40)),
}


@pytest.fixture(scope="module")
def sft():
    return compose_config("train", "experiment=demo/sft")


@pytest.fixture
def config(sft, tmp_path):
    own = sft.copy()
    own.paths.run = str(tmp_path / "run")
    return own


def run_folder(tmp_path: Path, text: str, **content) -> Path:
    for name in ("checkpoints", ".hydra"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text(text, "utf-8")
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": {}, **content}, path)
    return path


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_grows_or_calls_is_refused_unparsed(case, tmp_path, config):
    text, message = UNREADABLE[case]
    file = run_folder(tmp_path, text).parent.parent / ".hydra" / "config.yaml"
    with pytest.raises(CheckpointError, match=message) as caught:
        read_yaml(file)
    assert len(str(caught.value)) < 500
    assert str(file) in str(caught.value)
    assert look_up(config).differing == (f"a configuration that cannot be read ({file}); {REMEDY}",)


@pytest.mark.parametrize("case", UNRESOLVED)
def test_a_configuration_that_would_call_or_grow_is_not_resolved(case, tmp_path, config, monkeypatch):
    file = run_folder(tmp_path, UNRESOLVED[case]).parent.parent / ".hydra" / "config.yaml"
    with pytest.raises(CheckpointError, match=r"config\.yaml: "):
        check_interpolations(read_yaml(file), (), file)
    monkeypatch.setattr("affectgpt_r1.config.run_folder.resolved", None)  # which would be next
    assert look_up(config).differing == (f"a configuration that cannot be read ({file}); {REMEDY}",)


def test_a_runs_own_configuration_is_compared_as_before(tmp_path, config, monkeypatch):
    monkeypatch.setenv("WHERE", "x")
    config.experiment_name = "${oc.env:WHERE}"
    run_folder(tmp_path, OmegaConf.to_yaml(config))
    assert look_up(config).differing == ()
    config.data.batch_size = 99
    assert [one.partition("=")[0] for one in look_up(config).differing] == ["data.batch_size"]


HOSTILE = {
    "model.language_model.evil": {"_target_": "affectgpt_r1.tracking.provenance._git", "_args_": ["/", "x"]},
    "model.language_model.attn_implementation": "evil/kernel",
    "prompt.question": "${oc.env:HOME}",
    "data.num_frames": 10**9,
}


@pytest.mark.parametrize("key", HOSTILE)
def test_every_reader_of_a_checkpoint_refuses_what_is_not_a_setting(key, tmp_path, config):
    stored = resolved(config)
    *parents, last = key.split(".")
    node = stored
    for name in parents:
        node = node[name]
    node[last] = HOSTILE[key]
    path = run_folder(tmp_path, "a: 1\n", config=stored)
    config.init_from = str(path)
    for read in (
        lambda: lay_over(config, settings_of_checkpoint(path), []),  # evaluate, export, predict, answer
        lambda: describe_run(str(path), tmp_path),  # the tables of evaluate
        lambda: check_initial_policy(config),
    ):
        with pytest.raises(AffectGPTError, match=key.replace(".", r"\.")):
            read()


@pytest.mark.parametrize("config", ["text", ["a"], 3])
def test_a_configuration_that_is_not_a_mapping_is_one_line(config, tmp_path):
    path = run_folder(tmp_path, "", config=config, global_step=1, epoch=0)
    for read in (settings_of_checkpoint, lambda one: read_resumed(one, {}), lambda one: describe_run(str(one), "x")):
        with pytest.raises(CheckpointError, match=r"best\.ckpt"):
            read(path)


def test_git_starts_nothing_that_a_repository_names(tmp_path):
    def git(*arguments: str) -> None:
        done = subprocess.run(["git", "-C", str(tmp_path), *arguments], capture_output=True, check=False, env=env)
        assert done.returncode == 0, done.stderr

    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    git("init", "-q")
    (tmp_path / "venv").mkdir()
    (tmp_path / "file").write_text("x")
    git("add", "file")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a")
    ran = tmp_path / "ran"
    for key in ("core.fsmonitor", "filter.evil.clean", "core.pager"):
        git("config", key, f"touch {ran}; cat")
    (tmp_path / ".gitattributes").write_text("* filter=evil\n")
    (tmp_path / "file").write_text("yy")
    assert git_tags(tmp_path / "venv")["git_commit"] == "unknown"
    assert not ran.exists()


def test_converted_weights_replace_a_link_and_never_outgrow_the_file(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "model.safetensors"
    victim.write_text("mine")
    link.symlink_to(victim)
    torch.save({"a": torch.zeros(2)}, tmp_path / "small.bin")
    _convert_pickle(tmp_path / "small.bin", link)
    assert victim.read_text() == "mine"
    assert link.is_file()
    assert not link.is_symlink()
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "large.bin")
    with pytest.raises(CheckpointError, match="a is larger than what the file holds"):
        _convert_pickle(tmp_path / "large.bin", link)
