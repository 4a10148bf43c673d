"""Completions that a server draws, by the protocol of vLLM, against those that are drawn here."""

from __future__ import annotations

import copy

import pytest
import torch

from affectgpt_r1.engine.reference import ReferenceEngine
from affectgpt_r1.engine.served import SEEDS, ServedEngine
from affectgpt_r1.engine.vllm_client import VLLMClient
from affectgpt_r1.errors import ConfigError, TrainingError
from affectgpt_r1.policy.backbone import merge_lora
from affectgpt_r1.training.rollout_buffer import select_clips
from affectgpt_r1.types import Sampling
from helpers.vllm_stub import MODEL, serving

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj", "down_proj"]}
TOLERANCE = 3e-5  # as between the engines of this package
SAMPLED, GREEDY = Sampling(max_completion_length=8), Sampling(temperature=0.0, max_completion_length=8)
RESTART = (
    "Start it again by `affectgpt-r1 rollout-server` with this run's overrides and give the same command again: "
    "training continues from its last checkpoint"
)


@pytest.fixture(scope="module")
def built(make_policy):
    """A policy with adapters whose completions end at different lengths, and its language model without them."""
    policy = make_policy(lora=LORA)
    with torch.no_grad():
        policy.language_model.get_input_embeddings().weight[policy.turn_ids[0]] *= -3.0
    base = copy.deepcopy(policy.language_model)
    merge_lora(base)  # of B = 0
    del base.peft_config
    return policy, base


@pytest.fixture
def policy(built):
    return copy.deepcopy(built[0])


@pytest.fixture
def server(built):
    with serving(built[1]) as server:
        yield server


def client_of(server, **options):
    return VLLMClient(server.url, MODEL, **{"pause": 0.0, "retries": 0, **options})


def serve(policy, server, folder, **options):
    policy.engine = ServedEngine(policy.engine, policy.language_model, client_of(server, **options), folder)
    return policy


def move_adapters(policy, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters().items():
            if "lora_B" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def test_the_server_draws_what_the_reference_engine_draws(policy, server, make_batch, tmp_path):
    move_adapters(policy)
    local = copy.deepcopy(policy)
    local.engine = ReferenceEngine(local.language_model)
    serve(policy, server, tmp_path)
    batch = make_batch()
    rollout = policy.generate(batch, 3, SAMPLED, torch.Generator().manual_seed(7))
    seeds = torch.randint(SEEDS - 3, (4,), generator=torch.Generator().manual_seed(7)).tolist()
    assert rollout.completions.mask.sum(-1).unique().numel() > 1
    for row, seed in enumerate(seeds):
        expected = local.generate(select_clips(batch, [row]), 3, SAMPLED, torch.Generator().manual_seed(seed))
        length = expected.completions.ids.shape[-1]
        assert torch.equal(rollout.completions.mask[row, :, :length], expected.completions.mask[0])
        assert torch.equal(rollout.completions.ids[row, :, :length], expected.completions.ids[0])
        assert rollout.texts[row] == expected.texts[0]
        assert torch.equal(rollout.truncated[row], expected.truncated[0])
        torch.testing.assert_close(
            rollout.per_token_logps[row, :, :length], expected.per_token_logps[0], atol=TOLERANCE, rtol=0
        )


def test_adapters_follow_each_change_under_a_new_name(policy, server, make_batch, tmp_path):
    serve(policy, server, tmp_path)
    batch, names = make_batch(2), []
    for number in range(3):
        move_adapters(policy, number)
        for _ in range(2):  # the second time nothing has changed
            rollout = policy.generate(batch, 2, SAMPLED, torch.Generator().manual_seed(number))
        with torch.no_grad():
            scored = policy.per_token_logps(batch, rollout.completions)
        torch.testing.assert_close(rollout.per_token_logps, scored, atol=TOLERANCE, rtol=0)
        assert list(server.adapters) == [path.name for path in tmp_path.iterdir()]
        names += server.adapters
    assert [name.rpartition("-")[2] for name in names] == ["1", "2", "3"]
    changes = [path for path in server.asked if path != "/v1/completions"]
    load, reset, unload = "/v1/load_lora_adapter", "/reset_prefix_cache", "/v1/unload_lora_adapter"
    assert changes == ["/health", "/v1/models", load, reset, *[load, reset, unload] * 2]
    assert server.asked.count("/v1/completions") == 12


LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def test_adapters_whose_loading_was_not_heard_of_are_used(policy, server, make_batch, tmp_path):
    serve(policy, server, tmp_path, retries=1)
    batch = make_batch(1)
    for number in range(2):
        move_adapters(policy, number)
        server.lost += [LOAD, UNLOAD][: number + 1]  # the server has done it, and refuses to do it again
        rollout = policy.generate(batch, 2, SAMPLED, torch.Generator().manual_seed(number))
        with torch.no_grad():
            scored = policy.per_token_logps(batch, rollout.completions)
        torch.testing.assert_close(rollout.per_token_logps, scored, atol=TOLERANCE, rtol=0)
    assert server.lost == []
    assert (server.asked.count(LOAD), server.asked.count(UNLOAD)) == (4, 2)
    assert server.folders == {path.name: str(path) for path in tmp_path.iterdir()}


@pytest.mark.parametrize("path", [LOAD, UNLOAD])
def test_adapters_that_the_server_refuses_stop_the_run(policy, server, make_batch, tmp_path, path):
    serve(policy, server, tmp_path)
    policy.generate(make_batch(1), 2, SAMPLED, torch.Generator().manual_seed(1))
    move_adapters(policy)
    server.answers[path] = [(400, "rank 4 is too high")]
    with pytest.raises(TrainingError, match=rf"answered {path} by 400 \(rank 4 is too high\)\. Start it again"):
        policy.generate(make_batch(1), 2, SAMPLED, torch.Generator().manual_seed(1))


def test_other_adapters_of_that_name_are_not_used(server, tmp_path):
    server.folders["rollout-policy-1"] = "/another/run"
    with pytest.raises(TrainingError, match=r"by 400 \(.*'rollout-policy-1' has already been loaded.*\)"):
        client_of(server).load_adapter("rollout-policy-1", str(tmp_path), None)


def test_the_first_of_several_failures_is_told(policy, server, make_batch, tmp_path):
    serve(policy, server, tmp_path, retries=1)
    server.answers["/v1/completions"] = [(500, "EngineCore encountered an issue"), (503, "shutting down")]
    with pytest.raises(TrainingError) as caught:
        policy.generate(make_batch(1), 2, SAMPLED, torch.Generator().manual_seed(1))
    assert str(caught.value) == (
        f"rollout=vllm: the server at {server.url} answered /v1/completions by 500 (EngineCore encountered an issue), "
        f"then answered /v1/completions by 503 (shutting down), asked 2 times. {RESTART}"
    )


def test_greedy_completions_are_drawn_once(policy, server, make_batch, tmp_path):
    move_adapters(policy)
    batch = make_batch(2)
    expected = policy.generate(batch, 2, GREEDY)
    rollout = serve(policy, server, tmp_path).generate(batch, 2, GREEDY)
    assert torch.equal(rollout.completions.ids, expected.completions.ids)
    torch.testing.assert_close(rollout.per_token_logps, expected.per_token_logps, atol=TOLERANCE, rtol=0)
    assert [body["n"] for path, body in zip(server.asked, server.bodies, strict=True) if "completions" in path] == [
        1
    ] * 2


def test_requests_say_what_ends_and_what_is_never_drawn(policy, server, make_batch, tmp_path):
    sampling = Sampling(0.7, top_p=0.9, stop_strings=("</answer>",), max_completion_length=500)
    serve(policy, server, tmp_path).generate(make_batch(1), 2, sampling, torch.Generator().manual_seed(1))
    body = server.bodies[-1]
    length = policy.embed_prompts(make_batch(1)).mask.sum().item()
    assert (body["temperature"], body["top_p"], body["top_k"], body["n"]) == (0.7, 0.9, -1, 2)
    assert (body["stop"], body["include_stop_str_in_output"]) == (["</answer>"], True)
    assert body["stop_token_ids"] == list(policy.special_tokens.stop_ids)
    assert set(body["logit_bias"].values()) <= {-100.0}
    assert body["max_tokens"] == policy.language_model.config.max_position_embeddings - length


def test_a_failure_that_passes_is_asked_again(policy, server, make_batch, tmp_path):
    serve(policy, server, tmp_path, retries=1)
    server.answers["/v1/completions"] = [(503, "busy")]
    rollout = policy.generate(make_batch(1), 2, SAMPLED, torch.Generator().manual_seed(1))
    assert rollout.completions.ids.shape[:2] == (1, 2)
    server.answers["/v1/completions"] = [(503, "busy")] * 2
    with pytest.raises(TrainingError) as caught:
        policy.generate(make_batch(1), 2, SAMPLED, torch.Generator().manual_seed(1))
    answered = f"the server at {server.url} answered /v1/completions by 503 (busy), asked 2 times"
    assert str(caught.value) == f"rollout=vllm: {answered}. {RESTART}"


def test_a_refusal_is_not_asked_again(policy, server, make_batch, tmp_path):
    serve(policy, server, tmp_path, retries=5)
    server.answers["/v1/completions"] = [(404, '{"message": "The model `policy-1`\n does not exist."}')]
    with pytest.raises(TrainingError, match=r"by 404 \(.*policy-1` does not exist.*\)\. Start it again"):
        policy.generate(make_batch(1), 2, SAMPLED, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("answer", ["<html>", "{}", '{"choices": []}', '{"choices": [{"index": 0, "token_ids": [3]}]}'])
def test_another_protocol_is_named(policy, server, make_batch, tmp_path, answer):
    serve(policy, server, tmp_path)
    server.answers["/v1/completions"] = [(200, answer)]
    with pytest.raises(TrainingError, match=f"{server.url}/v1/completions did not answer as vLLM does"):
        policy.generate(make_batch(1), 2, SAMPLED, torch.Generator().manual_seed(1))


def test_a_server_that_is_gone_is_named_with_the_remedy(policy, built, make_batch, tmp_path):
    with serving(built[1]) as server:
        serve(policy, server, tmp_path, retries=2)
    with pytest.raises(TrainingError) as caught:
        policy.generate(make_batch(1), 2, SAMPLED, torch.Generator().manual_seed(1))
    start = (
        f"rollout=vllm: the server at {server.url} cannot be reached ([Errno 111] Connection refused), asked 3 times. "
    )
    assert str(caught.value) == start + RESTART


def test_a_server_that_hangs_is_named(policy, server, make_batch, tmp_path):
    serve(policy, server, tmp_path, timeout=5.0)
    policy.generate(make_batch(1), 2, SAMPLED, torch.Generator().manual_seed(1))
    policy.engine.client = client_of(server, timeout=0.05)
    with server.lock, pytest.raises(TrainingError, match=r"did not answer /v1/completions within 0\.05 s \(rollout\."):
        policy.generate(make_batch(1), 2, SAMPLED, torch.Generator().manual_seed(1))


def test_a_server_of_another_model_is_refused(policy, built, tmp_path):
    with serving(built[1], name="other") as server, pytest.raises(ConfigError) as caught:
        serve(policy, server, tmp_path)
    assert str(caught.value) == (
        f"rollout=vllm: the server at {server.url} serves other, and this run trains adapters of toy: start "
        "`affectgpt-r1 rollout-server` with this run's overrides"
    )


def test_a_server_with_too_few_positions_is_refused(policy, built, make_batch, tmp_path):
    with serving(built[1], max_length=20) as server:
        serve(policy, server, tmp_path)
        with pytest.raises(
            ConfigError, match=r"8 to follow exceed the 20 positions of the server at .* --max-model-len"
        ):
            policy.generate(make_batch(1), 2, SAMPLED, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("target", [None, "lm_head"])
def test_weights_that_no_adapter_holds_are_refused(make_policy, server, tmp_path, target):
    lora = target and {**LORA, "target_modules": ["q_proj", target]}
    first = "lm_head.lora_A.default.weight" if target else "model.embed_tokens.weight"
    with pytest.raises(
        ConfigError, match=f"other weights of the language model train, such as {first}: set model.lora"
    ):
        serve(make_policy(lora=lora), server, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("url", "127.0.0.1:8000"), ("timeout", 0), ("retries", -1), ("concurrency", 0)]
)
def test_settings_are_checked(key, value):
    with pytest.raises(ConfigError, match=rf"rollout\.server\.{key}={value} must "):
        VLLMClient(**{"url": "http://127.0.0.1:1", "model": MODEL, key: value})
