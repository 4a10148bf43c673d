"""GRPO whose completions a server draws; the server dies, and the run continues from its checkpoint bit-equal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from affectgpt_r1.engine import served
from affectgpt_r1.engine.vllm_client import VLLMClient
from affectgpt_r1.errors import ConfigError, TrainingError
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.training.module import AffectModule
from helpers.processes import held_port
from helpers.recorded import letters
from helpers.runs import assert_equal_checkpoints, checkpoint_of, logged_steps
from helpers.vllm_stub import serving

STEPS = 4
SIZES = {  # heads of 32 dimensions: vLLM's attention on CPUs takes no smaller ones
    **{"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": False},
}
LORA = "model.lora={r: 4, alpha: 8, dropout: 0.0, target_modules: [q_proj, v_proj]}"
OPTIONS = (
    *("init_from=null", "stage.num_generations=3", "prompt.max_completion_length=8", "rollout=vllm"),
    *("callbacks.last_checkpoint.every_n_steps=1", "rollout.server.pause=0", "optim.optimizer.lr=1e-2"),
    *("callbacks.validation_kl.max_clips=0", "logger=csv"),
)


@pytest.fixture(scope="module", autouse=True)
def _reward_letters() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FormatReward, "__call__", letters)
        yield


@pytest.fixture(scope="module")
def language_model(workspace, tmp_path_factory):
    """A folder with a random Qwen2 of the tokenizer's size, and the model."""
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(workspace / "data/tokenizer/tokenizer.json"))
    torch.manual_seed(3)
    config = Qwen2Config(**SIZES, vocab_size=len(tokenizer))
    model = Qwen2ForCausalLM(config)
    folder = tmp_path_factory.mktemp("qwen2")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="module")
def run(run_stage, language_model):
    """``run(folder, url, number, *overrides)``: GRPO with completions of the server there."""
    folder, _ = language_model
    model = model_overrides(folder)

    def train(run_folder, url, number, *overrides):
        return run_stage("grpo", run_folder, number, *OPTIONS, *model, f"rollout.server.url={url}", *overrides)

    return train


def model_overrides(folder):
    sizes = (f"model.language_model.{name}={value}" for name, value in SIZES.items())
    return (*sizes, f"+model.language_model.pretrained={folder}", LORA)


def test_a_run_outlives_its_server(run, language_model, tmp_path):
    folder, model = language_model
    with serving(model, name=str(folder)) as server:
        uncut = checkpoint_of(run(tmp_path / "uncut", server.url, STEPS))
        loads = server.asked.count("/v1/load_lora_adapter")
    assert loads == STEPS + 1  # the last validation follows the last step
    rows = [row for row in logged_steps(tmp_path / "uncut") if row["train/loss"]]
    for row in rows:
        for kind in ("mean", "min", "max"):
            assert float(row[f"train/sampling/importance_sampling_ratio/{kind}"]) == pytest.approx(1.0, abs=1e-4)
        assert float(row["train/sampling/sampling_logp_difference/max"]) < 1e-4
    assert any(abs(float(row["train/loss"])) > 1e-3 for row in rows)

    with serving(model, name=str(folder)) as server:
        server.dies_after = 5  # in the third step: each asks for two clips
        with pytest.raises(TrainingError) as caught:
            run(tmp_path / "cut", server.url, STEPS)
    assert str(caught.value).startswith(f"rollout=vllm: the server at {server.url} cannot be reached (")
    assert str(caught.value).endswith(
        "asked 3 times. Start it again by `affectgpt-r1 rollout-server` with this run's overrides and give the same "
        "command again: training continues from its last checkpoint"
    )
    assert checkpoint_of(tmp_path / "cut")["global_step"] == 2
    torch.manual_seed(99)
    with serving(model, name=str(folder)) as server:  # at another port
        resumed = checkpoint_of(run(tmp_path / "cut", server.url, STEPS, "ckpt_path=last"))
    assert_equal_checkpoints(uncut, resumed)


def test_what_a_server_cannot_do_is_refused_at_the_start(run_stage, run, tmp_path):
    with pytest.raises(TrainingError, match=r"the server at http://127\.0\.0\.1:9 cannot be reached"):
        run(tmp_path / "none", "http://127.0.0.1:9", 1)
    with pytest.raises(ConfigError) as caught:
        run_stage("sft", tmp_path / "sft", 1, "rollout=vllm")
    assert str(caught.value) == "rollout=vllm: stage=sft samples no completions; leave rollout= out"
    with pytest.raises(ConfigError, match=r"serves pretrained weights, and model.language_model.pretrained is null"):
        run_stage("grpo", tmp_path / "tiny", 1, "init_from=null", "rollout=vllm")


@contextmanager
def vllm_server(python, folder, url):
    """Start vLLM by the command, and stop it by SIGTERM."""
    arguments = ["experiment=demo/grpo", *model_overrides(folder), f"rollout.server.url={url}", "--python", python]
    options = "--enforce-eager --max-model-len 512 --max-num-seqs 16"
    program = [sys.executable, "-c", "from affectgpt_r1.cli.main import main; main()", "rollout-server"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with subprocess.Popen(
        [*program, *arguments, "--vllm", options], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ready at "):
                break
        else:
            pytest.fail("".join(lines))
        try:
            yield process
        finally:
            process.terminate()
            process.stdout.read()


@pytest.mark.slow
def test_vllm_itself(run, language_model, tmp_path, monkeypatch):
    """vLLM's own log-probs and adapters; it is killed in the third step, and the run continues on another one."""
    python = os.environ.get("AFFECTGPT_VLLM_PYTHON")
    if not python:
        pytest.skip("AFFECTGPT_VLLM_PYTHON does not name the Python of an environment with vLLM")
    folder, _ = language_model
    # The processed log-probs are those after bans, which would move the mass of five of a few hundred tokens.
    monkeypatch.setattr(served, "BAN", 0.0)
    start = AffectModule.on_train_batch_start
    with held_port() as port:
        url = f"http://127.0.0.1:{port}"
    with vllm_server(python, folder, url) as server:
        uncut = checkpoint_of(run(tmp_path / "uncut", url, STEPS))
        adapters = [name for name in VLLMClient(url, str(folder))._folders() if name.startswith(served.ADAPTER)]
        assert [name.rpartition("-")[2] for name in adapters] == [str(STEPS + 1)]  # the last of as many

        def kill_in_the_third_step(module, batch, batch_idx):
            if module.global_step == 2:
                server.send_signal(signal.SIGTERM)
                server.wait()
            start(module, batch, batch_idx)

        monkeypatch.setattr(AffectModule, "on_train_batch_start", kill_in_the_third_step)
        with pytest.raises(TrainingError, match=f"the server at {url} cannot be reached"):
            run(tmp_path / "cut", url, STEPS)
    monkeypatch.setattr(AffectModule, "on_train_batch_start", start)
    rows = [row for row in logged_steps(tmp_path / "uncut") if row["train/loss"]]
    assert len(rows) == STEPS
    for row in rows:
        assert float(row["train/sampling/sampling_logp_difference/max"]) < 1e-3
        assert float(row["train/sampling/importance_sampling_ratio/max"]) == pytest.approx(1.0, abs=1e-3)
        assert float(row["train/grad_norm"]) > 1e-2  # the loss is 0 where all completions are equally long
    assert checkpoint_of(tmp_path / "cut")["global_step"] == 2
    with vllm_server(python, folder, url):
        resumed = checkpoint_of(run(tmp_path / "cut", url, STEPS, "ckpt_path=last"))
    assert resumed["global_step"] == STEPS
    for name, weight in uncut["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], weight, atol=1e-4, rtol=0)
