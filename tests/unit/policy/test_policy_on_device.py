"""The policy on a simulated accelerator: the CPU's numbers, and no tensor on the wrong device."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from affectgpt_r1.data.collate import batch_to_device
from affectgpt_r1.data.feature_store import FeatureStore, store_features
from affectgpt_r1.distributed.collectives import _to_host
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.inference.label_file import Predictor
from affectgpt_r1.inference.read_file import Reading
from affectgpt_r1.metrics.emotion_wheel import EmotionWheelScore
from affectgpt_r1.policy.checkpoint import load_policy_weights, policy_digests
from affectgpt_r1.policy.hf_export import export_policy, load_exported
from affectgpt_r1.training.random_state import capture_random_state, restore_random_state
from affectgpt_r1.types import Clip, Sampling
from helpers.device_checks import (
    LORA,
    assert_same,
    assert_same_gradients,
    assert_same_rollout,
    generator_on,
    needs_simulation,
    on_device,
)
from helpers.simulated_device import MixedDevicesError, waits

LEXICON = load_lexicon("bundled")


def test_what_the_device_refuses(device):
    needs_simulation(device)
    ours, host = torch.arange(6.0, device=device).view(2, 3), torch.ones(2, 3)
    refused = [
        lambda: ours + host,
        lambda: ours @ host.T,
        lambda: torch.cat([ours, host]),
        lambda: torch.stack([ours.sum(), host.sum()]),
        lambda: ours.index_select(0, torch.tensor([0])),
        lambda: host[torch.tensor([0], device=device)],
        lambda: ours.masked_fill(host > 0, 1.0),
        lambda: torch.rand(2, generator=torch.Generator(), device=device),
        lambda: torch.nn.Linear(3, 3)(ours),
    ]
    for one in refused:
        with pytest.raises(MixedDevicesError):
            one()
    with pytest.raises(TypeError, match="to numpy"):
        ours.numpy()
    allowed = [ours + torch.tensor(2.0), ours[torch.tensor([1, 0])], ours.to("cpu") + host, 2 * ours]
    assert [one.device.type for one in allowed] == ["simulated", "simulated", "cpu", "simulated"]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_completion_length=8),
        Sampling(temperature=0.0, max_completion_length=8),
        Sampling(temperature=0.7, top_k=5, max_completion_length=8),
        Sampling(temperature=1.3, top_p=0.9, max_completion_length=8),
        Sampling(min_p=0.1, stop_strings=["a", "in"], max_completion_length=8),
    ],
    ids=["temperature", "greedy", "top_k", "top_p", "min_p"],
)
def test_generation_draws_the_same_tokens(device, tiny_policy, make_batch, sampling):
    ours, batch = on_device(tiny_policy, device), make_batch(2)
    drawn = [
        one.eval().generate(batch_to_device(batch, one.device), 3, sampling, generator_on(one.device).manual_seed(11))
        for one in (ours, tiny_policy)
    ]
    assert_same_rollout(*drawn)


def test_the_reference_engine_computes_the_same(device, make_policy, make_batch):
    policy = make_policy(engine="reference", lora=LORA)
    ours, batch = on_device(policy, device), make_batch(2)
    rollouts, logps = [], []
    for copy in (ours, policy):
        clips = batch_to_device(batch, copy.device)
        sampling = Sampling(max_completion_length=6)
        rollouts.append(copy.generate(clips, 3, sampling, generator_on(copy.device).manual_seed(11)))
        logps.append(copy.per_token_logps(clips, rollouts[-1].completions))
        logps[-1].sum().backward()
    assert_same_rollout(*rollouts)
    assert_same(*logps)
    assert_same_gradients(ours, policy)


def test_a_forced_answer_is_the_same(device, make_policy, make_batch):
    policy = make_policy(enable_thinking=True)
    policy.template = dataclasses.replace(policy.template, force_answer=True)
    policy.prefill_ids = policy.tokenizer.encode(policy.template.prefill, add_special_tokens=False)
    ours, batch = on_device(policy, device), make_batch(2)
    sampling = Sampling(temperature=0.0, max_completion_length=6)
    drawn = [one.generate(batch_to_device(batch, one.device), 1, sampling) for one in (ours, policy)]
    assert_same_rollout(*drawn)


def test_decoding_waits_once_a_token(device, tiny_policy, make_batch):
    """The host must learn which rows have ended; anything more would keep a GPU idle."""
    needs_simulation(device)
    ours, batch = on_device(tiny_policy, device).eval(), batch_to_device(make_batch(2), device)

    def waited(length: int) -> int:
        waits.clear()
        rollout = ours.generate(batch, 4, Sampling(max_completion_length=length), torch.Generator(device))
        assert rollout.completions.ids.shape[-1] == length
        return waits.total()

    few, many = waited(4), waited(9)
    assert many - few == 5


def test_features_are_stored_from_the_device(device, tiny_policy, make_batch, tmp_path):
    ours, batch = on_device(tiny_policy, device), make_batch(2)
    store = FeatureStore(tmp_path)
    store_features(store, [batch_to_device(batch, device)], ours.encoders)
    expected = tiny_policy.encoders(batch)
    for row, name in enumerate(batch.names):
        for kind, values in store.read(name).items():
            # Stored in 16 bits: rounding to float16 changes a number by at most 2**-11 of it.
            torch.testing.assert_close(values, expected[kind][row], rtol=1e-4 + 2**-11, atol=1e-5)


def test_checkpoints_load_onto_the_device(device, make_policy, tmp_path):
    policy = make_policy(lora=LORA)
    ours = on_device(policy, device)
    assert policy_digests(ours) == policy_digests(policy)
    state = {f"policy.{name}": one for name, one in ours.trainable_parameters().items()}
    torch.save({"state_dict": state, "digests": policy_digests(ours)}, tmp_path / "best.ckpt")
    fresh = make_policy(seed=1, lora=LORA).to(device)
    assert policy_digests(fresh) != policy_digests(policy)
    trained = policy.trainable_parameters()
    fresh.load_state_dict({name: one for name, one in policy.state_dict().items() if name not in trained}, strict=False)
    load_policy_weights(fresh, tmp_path / "best.ckpt")
    for name, weight in fresh.trainable_parameters().items():
        assert weight.device == device
        assert weight.cpu().equal(policy.trainable_parameters()[name])


def test_an_export_from_the_device_is_the_hosts(device, make_policy, tiny_config, tokenizer_file, tmp_path):
    policy = make_policy(lora=LORA)
    model = {**tiny_config, "tokenizer": str(tokenizer_file), "lora": LORA}
    loaded = []
    for number, one in enumerate((on_device(policy, device), policy)):
        folder = tmp_path / str(number)
        options = {"kind": "merged", "processor": {"num_frames": 8}, "max_completion_length": 6, "card": ""}
        export_policy(one, model, folder, **options)
        loaded.append(load_exported(folder).state_dict())
    assert loaded[0].keys() == loaded[1].keys()
    for name, tensor in loaded[0].items():
        torch.testing.assert_close(tensor, loaded[1][name], msg=name)


def test_a_video_is_answered_as_on_the_host(device, tiny_policy, make_batch, monkeypatch):
    batch = make_batch(1)
    clip = Clip("a", "What a day!", (), "", ("video", "audio", "text"), batch.frames[0], batch.waveforms[0])
    monkeypatch.setattr("affectgpt_r1.inference.label_file.read_clips", lambda *_: iter([Reading(clip, [])]))
    greedy = Sampling(temperature=0.0, max_completion_length=4)
    rows = [
        Predictor(policy.eval(), None, greedy, LEXICON)(Path("a.mp4"), "")
        for policy in (on_device(tiny_policy, device), tiny_policy)
    ]
    drops = [[part.pop("log_probability") for part in row["contributions"].values()] for row in rows]
    assert drops[0] == pytest.approx(drops[1], abs=2e-3)
    assert {**rows[0], "seconds": 0} == {**rows[1], "seconds": 0}


def test_metrics_count_on_the_device(device):
    predicted, target = [("happy", "sad"), ("angry",)], [("joyful",), ("furious", "calm")]
    scores = []
    for where in ("cpu", device):
        metric = EmotionWheelScore(LEXICON).to(where)
        metric.update(predicted, target)
        metric.update(predicted[:1], target[:1])
        scores.append({name: float(value) for name, value in metric.compute().items()})
    assert scores[0] == scores[1]


def test_the_random_state_of_the_own_gpu_is_kept(monkeypatch):
    own, restored = torch.arange(4, dtype=torch.uint8), []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: own)
    monkeypatch.setattr(torch.cuda, "set_rng_state", restored.append)
    restore_random_state(capture_random_state())
    assert [one.tolist() for one in restored] == [own.tolist()]


def test_what_processes_send_each_other_is_on_the_host(device):
    ours = torch.arange(3.0, device=device)
    sent = _to_host({"gradients": {"a": ours}, "rest": [ours, (ours, 1, "b", None)]})
    tensors = [sent["gradients"]["a"], sent["rest"][0], sent["rest"][1][0]]
    assert [one.device.type for one in tensors] == ["cpu"] * 3
    assert all(one.tolist() == [0, 1, 2] for one in tensors)
    assert sent["rest"][1][1:] == (1, "b", None)
