"""What older versions of torch and transformers lack: another name is used, or one error says what is needed."""

from __future__ import annotations

from functools import partial
from inspect import signature

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from affectgpt_r1.distributed import ddp as data_parallel
from affectgpt_r1.distributed import sharding
from affectgpt_r1.distributed.ddp import ddp_strategy
from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.backbone import build_language_model

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
}


def newer_ddp(module, *, forward_sync_buffers=None, broadcast_buffers=None): ...


def older_ddp(module, *, broadcast_buffers=True): ...


@pytest.mark.parametrize("ddp", [newer_ddp, older_ddp])
def test_buffers_stay_under_every_torch(monkeypatch, ddp):
    monkeypatch.setattr(data_parallel, "signature", lambda _: signature(ddp))
    strategy = ddp_strategy(find_unused_parameters=True)
    assert isinstance(strategy, DDPStrategy)
    key = {newer_ddp: "forward_sync_buffers", older_ddp: "broadcast_buffers"}[ddp]
    assert strategy._ddp_kwargs == {key: False, "find_unused_parameters": True}


def test_fsdp_is_refused_where_unequal_batches_would_wait_for_ever(monkeypatch):
    monkeypatch.delattr(FSDPModule, "set_reduce_scatter_unused_params", raising=False)
    with pytest.raises(ConfigError, match=r"torch 2\.13 or later, or trainer=ddp"):
        sharding.shard(torch.nn.Linear(2, 2), None, methods=())


@pytest.mark.parametrize("older", [False, True])
def test_checkpointing_under_every_transformers(monkeypatch, older):
    if older and hasattr(PreTrainedModel, "activation_checkpointing_enable"):
        enable = PreTrainedModel._activation_checkpointing_enable
        monkeypatch.delattr(PreTrainedModel, "activation_checkpointing_enable")
        monkeypatch.setattr(
            PreTrainedModel, "gradient_checkpointing_enable", lambda self, options: enable(self, options)
        )
    model = build_language_model(20, SIZES, checkpointing=True)
    layers = model.model.layers
    assert all(layer.gradient_checkpointing for layer in layers)
    assert all(isinstance(layer._gradient_checkpointing_func, partial) for layer in layers)
