"""The plan's counts are the paper's; its memory and time follow from them."""

from __future__ import annotations

import json
import math

import pytest
import torch

from affectgpt_r1.plan import main, measured_tflops
from affectgpt_r1.policy.size import Workload, measure_model, memory_gib, step_flops


def planned(tmp_path, *arguments):
    main([*arguments, "--json", str(tmp_path / "plan.json")])
    return json.loads((tmp_path / "plan.json").read_text("utf-8"))


def test_the_7b_plan_counts_the_papers_parameters(tmp_path, capsys):
    result = planned(tmp_path, "experiment=sft", "model=affectgpt_7b", "--tflops", "150", "--gpus", "8")
    # Rank 16 on q, k, v, o, gate, up and down of 28 layers: 16 (in + out) each.
    sizes = [(3584, 3584), (3584, 512), (3584, 512), (3584, 3584), (3584, 18944), (3584, 18944), (18944, 3584)]
    assert result["lora_parameters"] == 28 * 16 * sum(map(sum, sizes)) == 40_370_176
    assert result["parameters"]["language_model"] == 7_615_616_512
    assert result["parameters"]["fusion"] == 14_042_372
    assert result["parameters"]["video_tower"] == 303_966_208
    assert result["trainable_parameters"] == 40_370_176 + 14_042_372
    assert result["total_parameters"] == sum(result["parameters"].values()) == 8_289_433_988
    assert set(result["memory_gib"]) == {"sft", "grpo"}
    for values in result["memory_gib"].values():
        assert values["ddp"] > values["deepspeed"] > values["fsdp"] > 3
    assert result["tokens_per_clip"]["media"] == 3
    assert not result["tflops_measured_here"]
    assert "40,370,176" in capsys.readouterr().out


def test_nothing_is_allocated():
    before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    from omegaconf import OmegaConf

    from affectgpt_r1.config import CONFIGS

    config = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / "affectgpt_7b.yaml"), resolve=False)
    for key in ("_target_", "tokenizer", "share_prompt"):
        del config[key]
    size = measure_model(None, **{**config, "weights": None, "fusion": "qformer"})
    assert size.media_tokens == 32 + 8 + 16
    assert size.weight_bytes > 2**33
    assert (torch.cuda.memory_allocated() if torch.cuda.is_available() else 0) == before


@pytest.fixture
def size(tiny_config, tiny_policy):
    modules = {key: value for key, value in tiny_config.items() if key not in ("tokenizer", "share_prompt")}
    return measure_model(len(tiny_policy.tokenizer), **modules)


def work(**changes):
    usual = {"batch_size": 2, "num_generations": 4, "prompt_tokens": 30, "completion_tokens": 10, "gpus": 4}
    return Workload(**{"keeps_reference": False, "gradient_checkpointing": False, **usual, **changes})


def test_the_tiny_plan_counts_what_the_policy_has(size, tiny_policy):
    assert size.total_trainable == sum(one.numel() for one in tiny_policy.trainable_parameters().values())
    assert size.total == sum(one.numel() for one in tiny_policy.parameters())
    assert size.parameters["lora"] == 0


def test_memory_holds_what_must_be_held(size):
    alone = work(gpus=1, batch_size=0)
    floor = (size.weight_bytes + 12 * size.total_trainable + 8 * 1024 * size.vocab_size) / 2**30
    assert memory_gib(size, alone, "sft", "ddp") == pytest.approx(floor)
    assert memory_gib(size, alone, "sft", "fsdp") == pytest.approx(floor)
    referenced = work(gpus=1, batch_size=0, keeps_reference=True)
    more = memory_gib(size, referenced, "grpo", "ddp") - memory_gib(size, alone, "grpo", "ddp")
    assert more == pytest.approx(4 * size.total_trainable / 2**30)


def test_checkpointing_trades_memory_for_operations(size):
    usual, saving = work(), work(gradient_checkpointing=True)
    assert memory_gib(size, saving, "sft", "ddp") < memory_gib(size, usual, "sft", "ddp")
    assert step_flops(size, saving, "sft") / step_flops(size, usual, "sft") == pytest.approx(4 / 3, rel=1e-6)


def test_operations_are_six_a_parameter_and_token_when_all_train(size):
    tokens = 2 * (30 + 10)
    assert step_flops(size, work(), "sft") == 6.0 * size.parameters["language_model"] * tokens
    assert step_flops(size, work(), "grpo") == 8.0 * size.parameters["language_model"] * 2 * (30 + 4 * 10)


def test_a_rate_can_be_measured():
    assert 0 < measured_tflops(0.05) < math.inf


def test_mistakes_end_with_code_two(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["experiment=sft", "stage.bata=1", "--tflops", "1"])
    assert ended.value.code == 2
    assert "nearest" in capsys.readouterr().err
