"""Where the frozen encoders encode the clips of a run."""

from __future__ import annotations

from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from affectgpt_r1.config import instantiate as assembly
from affectgpt_r1.config import threads as threads_module
from affectgpt_r1.config.prepare_process import prepare_process
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.types import ClipBatch

DATA = SimpleNamespace(feature_store="features", open_feature_store=lambda digest: None)
BATCH = ClipBatch(("clip",), ("",), (("happy",),), ("",), (("video",),), frames=torch.zeros(1, 2, 3, 4, 4))


class Encoders(nn.Module):
    """Records where it is sent, and where its input is."""

    settings = MappingProxyType({"waveform_normalization": "clip"})

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.moves, self.seen = [], []

    def to(self, device):
        self.moves.append(torch.device(device).type)
        return self

    def forward(self, batch):
        self.seen.append(batch.frames.device.type)
        return {"video": batch.frames.mean((-1, -2))}


@pytest.fixture
def encoders(monkeypatch):
    monkeypatch.setattr(assembly, "encoder_digest", lambda encoders: "digest")
    monkeypatch.setattr(assembly, "fill_feature_store", lambda data, prepare: prepare(1)(BATCH))
    return Encoders()


def test_encoders_encode_on_the_given_device_and_come_back(encoders):
    assembly.encode_clips(DATA, SimpleNamespace(encoders=encoders), torch.device("meta"))
    assert (encoders.moves, encoders.seen) == (["meta", "cpu"], ["meta"])


def test_encoders_come_back_when_the_store_cannot_be_filled(encoders, monkeypatch):
    def fails(data, prepare):
        prepare(1)
        raise OSError("disk full")

    monkeypatch.setattr(assembly, "fill_feature_store", fails)
    with pytest.raises(OSError, match="disk full"):
        assembly.encode_clips(DATA, SimpleNamespace(encoders=encoders), torch.device("meta"))
    assert encoders.moves == ["meta", "cpu"]


def test_features_that_depend_on_the_batch_are_not_stored(encoders):
    encoders.settings = {"waveform_normalization": "joint"}
    with pytest.raises(ConfigError, match=r"waveform_normalization=joint depends .* set data\.feature_store=null"):
        assembly.encode_clips(DATA, SimpleNamespace(encoders=encoders))
    assert encoders.seen == []


def test_encoders_stay_where_they_are_without_a_device(encoders):
    assembly.encode_clips(DATA, SimpleNamespace(encoders=encoders))
    assert encoders.seen == ["cpu"]
    assert set(encoders.moves) == {"cpu"}


def test_how_many_clips_are_encoded_is_told(encoders, monkeypatch, caplog):
    monkeypatch.setattr(assembly, "SECONDS_BETWEEN_REPORTS", 0.0)
    with caplog.at_level("INFO", logger="affectgpt_r1.config.instantiate"):
        assembly.encode_clips(DATA, SimpleNamespace(encoders=encoders))
    assert [record.message for record in caplog.records][-1] == "Encoded 1 of 1 clips"


def test_published_answers_are_drawn_and_the_same_at_a_rerun(tiny_policy, make_batch):
    def sampling(rule: str, seed: int):
        prompt = {"sampling": rule, "max_completion_length": 12}
        return assembly.answer_sampling(OmegaConf.create({"prompt": prompt, "seed": seed}))

    drawn = sampling("published", 1)
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.max_completion_length) == (1.0, 0.9, 20, 12)
    assert sampling("greedy", 1).temperature == 0
    batch = tiny_policy.with_features(make_batch())
    state = torch.get_rng_state()
    first = tiny_policy.generate(batch, 1, drawn).texts
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny_policy.generate(batch, 1, drawn).texts == first
    assert tiny_policy.generate(batch, 1, sampling("published", 2)).texts != first
    assert tiny_policy.generate(batch, 1, sampling("greedy", 1)).texts != first
    with pytest.raises(ConfigError, match=r"prompt\.sampling=beam is unknown; choose greedy or published"):
        sampling("beam", 1)


@pytest.mark.parametrize(
    ("hidden_size", "given", "threads"), [(128, None, 1), (576, None, 7), (3584, 3, 3), (128, 2, 2)]
)
def test_threads_follow_the_models_size_unless_they_are_given(monkeypatch, hidden_size, given, threads):
    taken = []
    monkeypatch.setattr(threads_module, "OWN_THREADS", 7)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    config = {"seed": 1, "experiment_name": "t", "num_threads": given}
    config = OmegaConf.create(config | {"model": {"language_model": {"hidden_size": hidden_size}}})
    prepare_process(config)
    assert taken == [config.num_threads] == [threads]


@pytest.mark.parametrize("given", [0, "all", 1.5])
def test_a_number_of_threads_that_is_none_is_refused(given):
    config = OmegaConf.create({"seed": 1, "experiment_name": "t", "num_threads": given})
    with pytest.raises(
        ConfigError, match=f"^num_threads={given}: give 1 or more, or null to let the model's size decide$"
    ):
        prepare_process(config)
