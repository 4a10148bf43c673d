"""The plan's counts are the paper's; its memory and time follow from them."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import pytest

from affectgpt_r1.cli.plan import main
from affectgpt_r1.config.estimate import measured_bandwidth, measured_tflops
from affectgpt_r1.policy.size import (
    Workload,
    measure_model,
    memory_gib,
    rollout_seconds,
    step_flops,
    step_seconds,
    validation_seconds,
)
from helpers.meta_device import count_update


def planned(tmp_path, *arguments):
    main([*arguments, "--json", str(tmp_path / "plan.json")])
    return json.loads((tmp_path / "plan.json").read_text("utf-8"))


def test_the_7b_plan_counts_the_papers_parameters(tmp_path, capsys):
    result = planned(tmp_path, "experiment=demo/sft", "model=affectgpt_7b", "--tflops", "150", "--gpus", "8")
    # Rank 16 on q, k, v, o, gate, up and down of 28 layers: 16 (in + out) each.
    sizes = [(3584, 3584), (3584, 512), (3584, 512), (3584, 3584), (3584, 18944), (3584, 18944), (18944, 3584)]
    assert result["lora_parameters"] == 28 * 16 * sum(map(sum, sizes)) == 40_370_176
    assert result["parameters"]["language_model"] == 7_615_616_512
    assert result["parameters"]["fusion"] == 14_042_372
    assert result["parameters"]["video_encoder"] == 303_966_208
    assert result["trainable_parameters"] == 40_370_176 + 14_042_372
    assert result["total_parameters"] == sum(result["parameters"].values()) == 8_289_433_988
    assert set(result["memory_gib"]) == {"sft", "grpo"}
    for values in result["memory_gib"].values():
        assert values["fsdp"] > values["ddp"] > 3  # little trains, and fsdp holds shards as well
    assert result["tokens_per_clip"]["media"] == 3
    assert not result["tflops_measured_here"]
    assert "40,370,176" in capsys.readouterr().out


def test_the_plans_of_other_models_count_theirs(tmp_path, capsys):
    omni = planned(tmp_path, "experiment=r1_omni/rlvr", "--tflops", "150")
    assert omni["total_parameters"] == 1_373_177_925
    assert omni["trainable_parameters"] == 494_032_768 + 148_963_523
    assert omni["tokens_per_clip"]["media"] == 392 + 500
    assert omni["feature_bytes_per_clip"] == 2 * (8 * 196 * 768 + 500 * 1280) == 3_688_448
    light = planned(tmp_path, "experiment=demo/sft", "model=light_mer", "--tflops", "150")
    # The published 854.93 M count CLIP's text half, its scale and the unused projector of stills, too.
    assert light["total_parameters"] == 854_928_261 - 63_428_097 - (512 * 1024 + 1024)


@pytest.fixture(scope="module")
def paper():
    from omegaconf import OmegaConf

    from affectgpt_r1.config.compose import CONFIGS

    config = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / "affectgpt_7b.yaml"), resolve=False)
    for key in ("_target_", "tokenizer", "engine", "share_prefix", "attention"):
        del config[key]
    return measure_model(None, count_launches=True, **{**config, "weights": None, "fusion": "qformer"})


def test_media_tokens_and_bytes_of_the_paper(paper):
    assert paper.media_tokens == 32 + 8 + 16
    assert paper.weight_bytes > 2**33


@pytest.fixture
def size(tiny_config, tiny_policy):
    modules = {
        key: value
        for key, value in tiny_config.items()
        if key not in ("tokenizer", "engine", "share_prefix", "attention")
    }
    return measure_model(len(tiny_policy.tokenizer), **modules)


def work(**changes):
    usual = {"batch_size": 2, "num_generations": 4, "prompt_tokens": 30, "completion_tokens": 10, "gpus": 4}
    off = {"keeps_reference": False, "gradient_checkpointing": False, "share_prefix": True, "accumulates": False}
    return Workload(**{**off, **usual, **changes})


def attention(size, pairs):
    """Operations of attention forward, for pairs of a query and a key that it sees."""
    return 4 * size.num_layers * size.num_heads * size.head_size * pairs


def test_the_tiny_plan_counts_what_the_policy_has(size, tiny_policy):
    assert size.total_trainable == sum(param.numel() for param in tiny_policy.trainable_parameters().values())
    assert size.total == sum(param.numel() for param in tiny_policy.parameters())
    assert size.parameters["lora"] == 0


def test_memory_holds_what_must_be_held(size):
    alone = work(gpus=1, batch_size=0)
    floor = (size.weight_bytes + 12 * size.total_trainable + 16 * 2048 * 8192) / 2**30
    assert memory_gib(size, alone, "sft", "ddp") == pytest.approx(floor)
    assert memory_gib(size, alone, "sft", "fsdp") == pytest.approx(floor)
    referenced = work(gpus=1, batch_size=0, keeps_reference=True)
    more = memory_gib(size, referenced, "grpo", "ddp") - memory_gib(size, alone, "grpo", "ddp")
    assert more == pytest.approx(4 * size.total_trainable / 2**30)


def test_a_head_that_trains_holds_its_gradient_next_to_the_accumulated_one(size, tiny_config, tiny_policy):
    def more(model):
        held = [memory_gib(model, work(accumulates=accumulates), "grpo", "ddp") for accumulates in (False, True)]
        return (held[1] - held[0]) * 2**30

    assert more(size) == pytest.approx(4 * size.vocab_size * size.hidden_size)
    modules = {
        key: value
        for key, value in tiny_config.items()
        if key not in ("tokenizer", "engine", "share_prefix", "attention")
    }
    adapted = {**modules, "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj"]}}
    assert more(measure_model(len(tiny_policy.tokenizer), **adapted)) == 0  # LoRA freezes the head


def test_checkpointing_trades_memory_for_operations(size):
    usual, saving = work(), work(gradient_checkpointing=True)
    assert memory_gib(size, saving, "sft", "ddp") < memory_gib(size, usual, "sft", "ddp")
    again = 2 * size.parameters["language_model"] * 2 * 40 + attention(size, 30**2 + 2 * (10 * 30 + 50))
    assert step_flops(size, saving, "sft") - step_flops(size, usual, "sft") == pytest.approx(again)


def test_plain_attention_holds_scores_and_fused_attention_none(size):
    half = dataclasses.replace(size, activation_bytes=2)
    plain, fused = (
        memory_gib(half, work(attention=name, completion_tokens=1000), "sft", "ddp") for name in ("plain", "auto")
    )
    scores = 10 * 2 * size.num_heads * 1000 * 1000  # of two answers: as many as the longer side has, each way
    layer = 2 * (3 * size.intermediate_size + 3 * size.hidden_size + 4 * size.key_value_size) + 5 * size.hidden_size
    backward = 1.2 * layer * 2 * (30 + 1000)  # what else the pass holds, before or after
    assert (plain - fused) * 2**30 == pytest.approx(scores - backward)
    assert memory_gib(size, work(attention="plain"), "sft", "ddp") == memory_gib(size, work(), "sft", "ddp")


def test_operations_are_six_a_parameter_and_token_when_all_train(size):
    tokens = 2 * (30 + 10)
    pairs = 30**2 + 2 * (10 * 30 + 10**2 / 2)  # causal: half of the prompts' squares, and of the answers'
    expected = 6.0 * size.parameters["language_model"] * tokens + 3.5 * attention(size, pairs)
    assert step_flops(size, work(), "sft") == pytest.approx(expected)
    pairs = 30**2 + 8 * (10 * 30 + 10**2 / 2)
    expected = 6.0 * size.parameters["language_model"] * 2 * (30 + 4 * 10) + 3.5 * attention(size, pairs)
    assert step_flops(size, work(), "grpo") == pytest.approx(expected)
    referenced = step_flops(size, work(keeps_reference=True), "grpo") / expected
    assert referenced == pytest.approx(4 / 3, rel=0.05)


def test_without_shared_prompts_each_completion_brings_its_own(size):
    shared, repeated = work(), work(share_prefix=False)
    expected = 6.0 * size.parameters["language_model"] * 8 * 40 + 3.5 * attention(size, 8 * 40**2 / 2)
    assert step_flops(size, repeated, "grpo") == pytest.approx(expected)
    assert step_flops(size, repeated, "sft") == pytest.approx(step_flops(size, shared, "sft"))
    # 8 completions of 1,000 tokens score each other, which is more than a layer's backward pass holds else; 2 x 3 x 30
    # tokens are saved.
    long = [work(completion_tokens=1000, share_prefix=share) for share in (True, False)]
    layer = 4 * (3 * size.intermediate_size + 3 * size.hidden_size + 4 * size.key_value_size)
    scores = 10 * 8 * size.num_heads * 1000 * 1000 - 1.2 * layer * 8 * (30 + 1000)
    saved = 2 * 3 * 30 * size.num_layers * layer
    difference = (memory_gib(size, long[0], "grpo", "ddp") - memory_gib(size, long[1], "grpo", "ddp")) * 2**30
    assert difference == pytest.approx(scores - saved)


def test_sampling_waits_for_memory(size):
    grpo = work()
    assert step_seconds(size, grpo, "sft", tflops=1.0, bandwidth=1e-9) == step_flops(size, grpo, "sft") / 1e12
    prefill, products = (2 * size.parameters["language_model"] * tokens / 1e12 for tokens in (2 * 30, 8 * 10))
    assert rollout_seconds(size, grpo, tflops=1.0, bandwidth=1e9) == pytest.approx(prefill + products)
    # At 1 MB/s: ten times the float32 weights, the prompts' cache and half of the completions', and products no longer.
    cache = 2 * 4 * (2 * 30 + 8 * 10 / 2) * size.num_layers * size.key_value_size
    reading = 10 * (4 * size.parameters["language_model"] + cache) / 1e6
    slow = {"tflops": 1.0, "bandwidth": 1e-3}
    assert rollout_seconds(size, grpo, **slow) == pytest.approx(prefill + reading)
    assert step_seconds(size, grpo, "grpo", **slow) == pytest.approx(
        step_flops(size, grpo, "grpo") / 1e12 + prefill + reading
    )
    # Other rows wait for the longest; validation answers in batches.
    longer = dataclasses.replace(grpo, longest_completion=20)
    assert rollout_seconds(size, longer, tflops=1.0, bandwidth=1e9) == pytest.approx(prefill + 2 * products)
    launched = dataclasses.replace(size, launches=100)
    more = rollout_seconds(launched, grpo, **slow) - rollout_seconds(size, grpo, **slow)
    assert more == pytest.approx(10 * 100 * 2.5e-6, rel=1e-3)
    batches = [
        rollout_seconds(size, work(batch_size=clips, num_generations=1), tflops=1.0, bandwidth=1e-3)
        for clips in (50, 20)
    ]
    assert validation_seconds(size, grpo, 120, **slow) == pytest.approx(2 * batches[0] + batches[1])


@pytest.mark.parametrize(
    ("batch", "generations", "completion", "attention", "checkpointing"),
    [
        (2, 8, 200, "flash", False),
        (2, 8, 1024, "flash", True),
        (2, 8, 1024, "plain", False),
    ],
)
def test_an_update_counted_on_the_meta_device(paper, batch, generations, completion, attention, checkpointing):
    """Three of its layers: operations within 30 %, bytes of activations within 15 %."""
    counted = count_update(3, batch, generations, 400, completion, attention, checkpointing)
    given = Workload(batch, generations, 400, completion, False, checkpointing, True, False, 1, attention=attention)
    parameters = {"language_model": counted.parameters["body"], "lora": counted.parameters["lora"]}
    three = dataclasses.replace(
        paper, num_layers=3, parameters=parameters, trainable={"language_model": 0, "lora": parameters["lora"]},
        weight_bytes=0, vocab_size=0,
    )  # fmt: skip
    assert counted.flops == pytest.approx(step_flops(three, given, "grpo"), rel=0.3)
    states = (
        12 * three.total_trainable / 2**30 + (16 * 2048 * 8192 + 8 * batch * generations * completion * 3584) / 2**30
    )
    assert counted.gib == pytest.approx(memory_gib(three, given, "grpo", "ddp") - states, rel=0.15)


def test_the_times_of_the_audit(paper):
    """What an audit of the 7B model counted in kernels and bytes: a rollout of 128 rows, eight of 16, validation."""
    rates = {"tflops": 450.0, "bandwidth": 4000.0}
    step = Workload(2, 8, 400, 200, False, True, True, True, 1, steps_per_generation=8, eval_batch_size=32)
    assert paper.launches == 918
    assert rollout_seconds(paper, step, **rates) == pytest.approx(1.45, rel=0.3)  # 1.3 to 1.6 s
    by_host = dataclasses.replace(paper, launches=2720)
    times = {"launch_seconds": 20e-6, **rates}  # 55 ms a token
    assert rollout_seconds(by_host, step, **times) == pytest.approx(12, rel=0.3)
    one = dataclasses.replace(step, steps_per_generation=1)
    assert 8 * rollout_seconds(by_host, one, **times) == pytest.approx(95, rel=0.3)
    answers = dataclasses.replace(one, batch_size=32, num_generations=1, completion_tokens=1024)
    minutes = 1000 / 32 * rollout_seconds(by_host, answers, **times) / 60
    assert minutes == pytest.approx(33, rel=0.3)


PAPER = ("experiment=affectgpt_r1/grpo", "--tflops", "150", "--gpus", "8")


def test_the_papers_grpo_by_hand(tmp_path, capsys):
    """Of ``experiment=affectgpt_r1/grpo`` on eight A100s, every number worked out from Qwen2.5-7B's shapes."""
    result = planned(tmp_path, *PAPER)
    prompt = result["tokens_per_clip"]["prompt"]
    tokens = 2 * (prompt + 8 * 1024)
    weights = 2 * (7_615_616_512 + 303_966_208) + 4 * (315_438_720 + 40_370_176 + 14_042_372)
    states = 12 * (40_370_176 + 14_042_372)
    layer = 2 * (3 * 3584 + 4 * 512 + 3 * 18_944) + 5 * 3584 + 3.5 * 2 * 3584
    activations = tokens * (28 * 2 * (3584 + 2 * 512) + 3.2 * layer)
    head = 16 * 2048 * 8192 + 8 * 16 * 1024 * 3584
    sharded = 2 * 7_615_616_512 + 4 * (40_370_176 + 14_042_372)
    full = weights + 4 * (40_370_176 + 14_042_372)
    expected = {"ddp": weights + states, "fsdp": full + (sharded + states) / 8}
    for strategy, held in expected.items():
        gib = (held + activations + head) / 2**30
        assert result["memory_gib"]["grpo"][strategy] == pytest.approx(gib, abs=0.006)
    # Forward, again under checkpointing, for activations and for what trains. Then sampling of the step's 16 clips at
    # once, for whose products a token of 128 rows takes longer than to read the weights, and 918 kernels.
    operations = 2 * (7_615_616_512 + 40_370_176)
    pairs = 2 * prompt**2 / 2 + 16 * (1024 * prompt + 1024**2 / 2)
    update = (tokens * (3 * operations + 2 * 40_370_176) + 4.5 * 4 * 28 * 3584 * pairs) / 150e12
    read = 2 * 7_615_616_512 + 4 * 40_370_176
    cache = 2 * 2 * 28 * 512 * (16 * prompt + 128 * 1024 / 2)
    assert 0.5 < (read + cache) / 2e12 / (128 * operations / 150e12) < 1.5
    token = max((read + cache) / 2e12, 128 * operations / 150e12) + 918 * 2.5e-6
    sampling = 16 * prompt * operations / 150e12 + 1024 * token
    one_by_one = planned(tmp_path, *PAPER, "stage.steps_per_generation=1")["seconds_per_step"]
    token = (read + cache / 8) / 2e12 + 918 * 2.5e-6  # the weights for each micro-batch
    alone = 2 * prompt * operations / 150e12 + 1024 * token
    assert one_by_one == pytest.approx(8 * (update + alone))
    assert result["seconds_per_step"] == pytest.approx(8 * update + sampling)
    assert result["hours"] == pytest.approx(250 * (8 * update + sampling) / 3600)
    assert result["rollout"] == {
        "rows": 128, "launches_per_token": 918, "longest_answer": 1024, "seconds": pytest.approx(sampling),
    }  # fmt: skip
    # Validation holds no gradients, keys and values of a batch of answers, and at beta 0 what trained first.
    rows = result["validation"]["batch"]
    answers = 2 * 2 * 28 * 512 * rows * (prompt + 1024) + 16 * rows * 152_064
    lent = 4 * (40_370_176 + 14_042_372)
    assert result["validation"]["lent_reference_gib"] == lent / 2**30
    expected = (weights + states * 8 / 12 + lent + answers) / 2**30
    assert result["validation"]["memory_gib"]["ddp"] == pytest.approx(expected, abs=0.006)
    assert result["clips_per_step"] == 2 * 8 * 8
    printed = capsys.readouterr().out
    assert "s for 128 rows at once, 918 kernels a token, if the longest has 1024 tokens" in printed
    assert "beta is 0: 0.20 GiB of validation's are the first weights, for val/kl; else on the CPU" in printed
    assert re.search(rf"grpo +{result['memory_gib']['grpo']['ddp']:.1f} ", printed)
    said = f"{result['hours']:.1f} h if every answer has 1024 tokens, at 150.0 TFLOP/s (given) and 2000 GB/s"
    assert said in printed


def test_usual_answers_take_less_time_and_need_as_much_memory(tmp_path):
    limit, usual = (
        planned(tmp_path, "experiment=affectgpt/mercaption", "--tflops", "150", *given)
        for given in ((), ("--answer-tokens", "200"))
    )
    prompt = limit["tokens_per_clip"]["prompt"]
    assert usual["hours"] / limit["hours"] == pytest.approx((prompt + 200) / (prompt + 1024), rel=0.03)  # and attention
    assert usual["memory_gib"] == limit["memory_gib"]
    assert (limit["answer_tokens"], usual["answer_tokens"]) == (1024, 200)


def test_clips_passes_and_stored_features(tmp_path, capsys, tiny_data_root):
    root = tiny_data_root(tmp_path / "data", num_train=16)
    given = ("--tflops", "150", "--gpus", "4", f"paths.data={root}")
    known = planned(tmp_path, "experiment=affectgpt_r1/cold_start", *given)
    # Eight frames of 768 numbers and eight windows of 1,024, in 16 bits.
    assert known["feature_bytes_per_clip"] == 2 * (8 * 768 + 8 * 1024) == 28_672
    assert known["clips"] == 16
    assert known["training_clips"] == 16 - round(0.032 * 16)
    assert known["passes"] == pytest.approx(300_000 * 3 * 4 / known["training_clips"])
    assert f"clips           16 in the training file, {known['passes']:.1f} passes" in capsys.readouterr().out
    both = planned(tmp_path, "experiment=r1_omni/on_affectgpt_cold_start", "data.visual=both", *given)
    assert both["feature_bytes_per_clip"] == 2 * (16 * 768 + 8 * 1024)
    assert both["training_clips"] == 14  # a tenth validates
    unknown = planned(tmp_path, "experiment=affectgpt/published", *given[:-1], f"paths.data={tmp_path}")
    assert (unknown["clips"], unknown["passes"], unknown["feature_bytes_per_clip"]) == (None, None, 0)


def test_a_run_by_the_clock_has_no_hours(tmp_path, capsys):
    result = planned(tmp_path, "experiment=demo/control", "model=affectgpt_7b", "--tflops", "1")
    assert (result["steps"], result["hours"]) == (None, None)
    assert "until its time is up" in capsys.readouterr().out


def test_rates_can_be_measured():
    assert 0 < measured_tflops(0.05) < math.inf
    assert 0.1 < measured_bandwidth(0.05) < 1e5


def test_mistakes_end_with_code_two(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["experiment=demo/sft", "stage.bata=1", "--tflops", "1"])
    assert ended.value.code == 2
    assert "nearest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--gpus", "0"), "must be above 0, not 0"),
        (("--gpus", "1.5"), "invalid number value: '1.5'"),
        (("--tflops", "nan"), "must be above 0, not nan"),
        (("--tflops", "inf"), "must be above 0, not inf"),
        (("--answer-tokens", "many"), "invalid number value: 'many'"),
    ],
)
def test_options_that_are_not_numbers(capsys, given, said):
    with pytest.raises(SystemExit) as ended:
        main(["experiment=affectgpt/mercaption", *given])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
