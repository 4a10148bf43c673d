"""The policy and the stages on a simulated accelerator: the CPU's numbers, and no tensor on the wrong device.

None of the CPU's own kernels may run there: no tiled head, no plain body, no fused attention.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from simulated_device import MixedDevicesError, SimulatedTensor, simulated_device, waits
from torch import Tensor

from affectgpt_r1.data.collate import batch_to_device
from affectgpt_r1.data.features import FeatureStore, store_features
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.wheel import EmotionWheelScore
from affectgpt_r1.optim import build_optimizer
from affectgpt_r1.policy.checkpoint import load_policy_weights, policy_digests
from affectgpt_r1.policy.language_model import Decoder, prefill
from affectgpt_r1.policy.policy import MultimodalPolicy
from affectgpt_r1.random_state import capture_random_state, restore_random_state
from affectgpt_r1.rewards.format import FormatReward
from affectgpt_r1.rewards.weighting import WeightedRewards
from affectgpt_r1.stages.grpo import GRPOStage
from affectgpt_r1.stages.guards import gradient_norm
from affectgpt_r1.stages.sft import SFTStage
from affectgpt_r1.stages.towers import TowerStage
from affectgpt_r1.types import ClipBatch, Rollout, Sampling

SAMPLING = Sampling(max_completion_length=6)
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}


class LetterReward:
    """Share of characters that are letters, which random completions differ in."""

    name = "letters"

    def __call__(self, *, completions, targets) -> list[float | None]:
        return [sum(map(str.isalpha, one.text)) / max(1, len(one.text)) for one in completions]


@pytest.fixture
def device(monkeypatch) -> Iterator[torch.device]:
    with simulated_device(monkeypatch.setattr) as device:
        yield device


@pytest.fixture(scope="module")
def lexicon():
    return load_lexicon("bundled")


@pytest.fixture
def grpo(lexicon):
    def build(**options: Any) -> GRPOStage:
        parts = {"letters": LetterReward(), "format": FormatReward()}
        sampling = options.pop("sampling", SAMPLING)
        return GRPOStage(
            WeightedRewards(parts, {"letters": 1.0, "format": 0.2}),
            lexicon,
            sampling,
            **{"num_generations": 3, **options},
        )

    return build


def on_device(policy: MultimodalPolicy, device: torch.device) -> MultimodalPolicy:
    return copy.deepcopy(policy).to(device)


def assert_same(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    assert isinstance(ours, SimulatedTensor)
    assert not isinstance(theirs, SimulatedTensor)
    torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=tolerance)


def assert_same_gradients(ours: MultimodalPolicy, theirs: MultimodalPolicy, tolerance: float = 2e-5) -> None:
    other = theirs.trainable_parameters()
    assert any(one.grad is not None for one in other.values())
    for name, weight in ours.trainable_parameters().items():
        assert (weight.grad is None) == (other[name].grad is None), name
        if weight.grad is not None and other[name].grad is not None:
            assert_same(weight.grad, other[name].grad, tolerance)


def assert_same_rollout(ours: Rollout, theirs: Rollout) -> None:
    assert ours.completions.ids.cpu().equal(theirs.completions.ids)
    assert ours.texts == theirs.texts
    assert_same(ours.per_token_logps, theirs.per_token_logps, 1e-4)
    assert ours.truncated.cpu().equal(theirs.truncated)


def step(policy: MultimodalPolicy, stage: Any, batch: ClipBatch, visits: int = 1) -> list[Mapping[str, Any]]:
    """Training steps as the Trainer makes them; returns what each logged."""
    device = policy.device
    stage.prepare(policy)
    policy.train()
    optimizer = build_optimizer(
        lambda groups: torch.optim.AdamW(groups, lr=1e-3), policy.named_parameters(), weight_decay=0.1
    )
    logs = []
    for visit in range(visits):
        clips = batch_to_device(batch if visit == 0 else ClipBatch((), (), (), (), ()), device)
        output = stage.training_step(policy, clips, seed=5)
        assert output.loss.device == device
        optimizer.zero_grad()
        output.loss.backward()
        norm = gradient_norm(policy.parameters())
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        if visit + 1 < visits:
            optimizer.step()
        logs.append({"loss": output.loss, "norm": norm, **output.logs})
    return logs


def assert_same_logs(ours: list[Mapping[str, Any]], theirs: list[Mapping[str, Any]]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"tokens_per_second"}:
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-3, abs=1e-4, nan_ok=True), name


def test_what_the_device_refuses(device):
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


@pytest.mark.parametrize("share", [True, False], ids=["shared", "repeated"])
def test_sft_steps(device, policy, make_batch, share):
    policy.share_prompt = share
    ours, batch = on_device(policy, device), make_batch(2)
    assert_same_logs(*(step(one, SFTStage(), batch) for one in (ours, policy)))
    assert_same_gradients(ours, policy)


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
        one.eval().generate(
            batch_to_device(batch, one.device), 3, sampling, torch.Generator(one.device).manual_seed(11)
        )
        for one in (ours, tiny_policy)
    ]
    assert_same_rollout(*drawn)


def test_a_forced_answer_is_the_same(device, make_policy, make_batch):
    policy = make_policy(thinks=True)
    policy.template = dataclasses.replace(policy.template, force_answer=True)
    policy.prefill_ids = policy.tokenizer.encode(policy.template.prefill, add_special_tokens=False)
    ours, batch = on_device(policy, device), make_batch(2)
    sampling = Sampling(temperature=0.0, max_completion_length=6)
    drawn = [one.generate(batch_to_device(batch, one.device), 1, sampling) for one in (ours, policy)]
    assert_same_rollout(*drawn)


def test_decoding_uses_none_of_the_kernels_for_the_cpu(device, tiny_policy, make_batch):
    ours, batch = on_device(tiny_policy, device), make_batch(2)
    for policy, is_host in ((tiny_policy, True), (ours, False)):
        with torch.no_grad():
            prefilled = prefill(policy.language_model, policy.embed_prompts(batch_to_device(batch, policy.device)))
            decoder = Decoder(policy.language_model, prefilled, 2, 4)
        assert (decoder.head is not None) is is_host
        assert (decoder._body is not None) is is_host


def test_decoding_waits_once_a_token(device, tiny_policy, make_batch):
    """The host must learn which rows have ended; anything more would keep a GPU idle."""
    ours, batch = on_device(tiny_policy, device).eval(), batch_to_device(make_batch(2), device)

    def waited(length: int) -> int:
        waits.clear()
        rollout = ours.generate(batch, 4, Sampling(max_completion_length=length), torch.Generator(device))
        assert rollout.completions.ids.shape[-1] == length
        return waits.total()

    few, many = waited(4), waited(9)
    assert many - few == 5


OPTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"beta": 0.04, "mask_truncated_completions": True, "truncated_leave_baseline": True},
    "bnpo": {"loss_type": "bnpo", "scale_rewards": "batch"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none", "delta": 2.0},
    "dapo": {"loss_type": "dapo", "max_resamples": 2, "epsilon_high": 0.28},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0, "num_iterations": 2},
    "gspo": {"importance_sampling_level": "sequence", "num_iterations": 2, "steps_per_generation": 2, "beta": 0.1},
    "entropy": {"entropy_coef": 0.01, "top_entropy_quantile": 0.5, "steps_per_generation": 2},
    "gdpo": {"multi_objective_aggregation": "normalize_then_sum", "max_resamples": 1, "num_iterations": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_grpo_steps(device, make_policy, make_batch, grpo, options):
    policy = make_policy(lora=LORA if "beta" in options else None)
    ours, batch = on_device(policy, device), make_batch(2)
    logs = [step(one, (stage := grpo(**options)), batch, stage.schedule.steps) for one in (ours, policy)]
    assert_same_logs(*logs)
    assert_same_gradients(ours, policy, 1e-3)


def test_grpo_with_repeated_prompts(device, make_policy, make_batch, grpo):
    policy = make_policy(share_prompt=False)
    ours, batch = on_device(policy, device), make_batch(2)
    assert_same_logs(*(step(one, grpo(beta=0.04), batch) for one in (ours, policy)))
    assert_same_gradients(ours, policy)


def test_the_rollout_is_continued_from_its_prefill(device, tiny_policy, make_batch, grpo, monkeypatch):
    ours = on_device(tiny_policy, device)
    embedded = []
    whole = ours.embed_prompts
    monkeypatch.setattr(ours, "embed_prompts", lambda *given, **more: embedded.append(1) or whole(*given, **more))
    step(ours, grpo(), make_batch(2))
    assert len(embedded) == 1


def test_a_buffer_from_a_checkpoint_goes_on(device, tiny_policy, make_batch, grpo, tmp_path):
    ours, batch = on_device(tiny_policy, device), batch_to_device(make_batch(2), device)
    options = {"steps_per_generation": 2, "num_iterations": 2, "beta": 0.04}
    stage, resumed = grpo(**options), grpo(**options)
    stage.prepare(ours)
    ours.train()
    stage.training_step(ours, batch, seed=3)
    torch.save({"buffer": stage.buffer_state(), "reference": ours.reference_state()}, tmp_path / "state.ckpt")
    state = torch.load(tmp_path / "state.ckpt", weights_only=True)
    assert state["buffer"]["buffer"]["advantages"].device.type == "cpu"
    resumed.load_buffer_state(state["buffer"])
    ours.load_reference_state(state["reference"])
    assert all(one.device == device for one in ours.reference_state().values())
    nothing = ClipBatch((), (), (), (), ())
    first, second = (one.training_step(ours, nothing, seed=4).loss for one in (stage, resumed))
    assert first.equal(second)


def test_towers_train(device, tiny_policy, make_batch):
    cues = {name: torch.tensor([0.1, -0.5]) for name in ("smile", "pitch")}
    ours, batch = on_device(tiny_policy, device), make_batch(2, cues=cues)
    stage = TowerStage(["smile"], ["pitch"], 64, 64)
    stages = copy.deepcopy(stage).to(device), stage
    assert_same_logs(*(step(one, by, batch) for one, by in zip((ours, tiny_policy), stages, strict=True)))
    assert_same_gradients(ours, tiny_policy)
    assert_same(stages[0].video_head.weight.grad, stage.video_head.weight.grad)
    assert_same_logs(
        [stages[0].validation_step(ours, batch_to_device(batch, device))], [stage.validation_step(tiny_policy, batch)]
    )


def test_features_are_stored_from_the_device(device, tiny_policy, make_batch, tmp_path):
    ours, batch = on_device(tiny_policy, device), make_batch(2)
    store = FeatureStore(tmp_path)
    store_features(store, [batch_to_device(batch, device)], ours.towers)
    expected = tiny_policy.towers(batch)
    for row, name in enumerate(batch.names):
        for kind, values in store.read(name).items():
            torch.testing.assert_close(values, expected[kind][row], rtol=1e-4, atol=1e-5)


def test_checkpoints_load_onto_the_device(device, policy, make_policy, tmp_path):
    ours = on_device(policy, device)
    assert policy_digests(ours) == policy_digests(policy)
    state = {f"policy.{name}": one for name, one in ours.trainable_parameters().items()}
    torch.save({"state_dict": state, "digests": policy_digests(ours)}, tmp_path / "best.ckpt")
    fresh = on_device(make_policy(lora=LORA if any("lora" in name for name in state) else None), device)
    load_policy_weights(fresh, tmp_path / "best.ckpt")
    for name, weight in fresh.trainable_parameters().items():
        assert weight.device == device
        assert weight.cpu().equal(policy.trainable_parameters()[name])


def test_half_precision_weights(device, make_policy, make_batch, grpo):
    ours, batch = make_policy().to(device).to(torch.bfloat16), make_batch(2)
    (logs,) = step(ours, grpo(beta=0.04), batch)
    assert all(torch.as_tensor(value).isfinite().all() for value in logs.values())
    assert float(logs["sampling/sampling_logp_difference/max"]) < 0.2
    assert all(one.grad.dtype == torch.bfloat16 for one in ours.trainable_parameters().values() if one.grad is not None)


def test_metrics_count_on_the_device(device, lexicon):
    predicted, target = [("happy", "sad"), ("angry",)], [("joyful",), ("furious", "calm")]
    scores = []
    for where in ("cpu", device):
        metric = EmotionWheelScore(lexicon).to(where)
        metric.update(predicted, target)
        metric.update(predicted[:1], target[:1])
        scores.append({name: float(value) for name, value in metric.compute().items()})
    assert scores[0] == scores[1]


def test_random_states_of_gpus_are_kept(monkeypatch):
    states = [torch.arange(4, dtype=torch.uint8), torch.ones(4, dtype=torch.uint8)]
    restored = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    restore_random_state(capture_random_state())
    assert [one.tolist() for one in restored] == [one.tolist() for one in states]
