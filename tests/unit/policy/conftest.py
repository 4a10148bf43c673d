"""A policy whose completions end at different lengths, with and without LoRA, and completions to score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from affectgpt_r1.types import TokenBatch
from helpers.toy_folders import toy_config_of, write_toy_folders

if TYPE_CHECKING:
    from affectgpt_r1.policy.policy import MultimodalPolicy

collect_ignore = ["conftest.py"]  # --doctest-modules would import two modules of this name

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}


def raise_stop_weight(policy: MultimodalPolicy) -> None:
    """Make the stop token common, so that completions end at different lengths."""
    with torch.no_grad():
        policy.language_model.get_input_embeddings().weight[policy.turn_ids[0]] *= -3.0


def move_adapters(policy: MultimodalPolicy) -> None:
    """Fresh adapters are zero: give them something to say."""
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters().items():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=[None, LORA], ids=["full", "lora"])
def policy(request, make_policy) -> MultimodalPolicy:
    built = make_policy(lora=request.param)
    raise_stop_weight(built)
    move_adapters(built)
    return built


@pytest.fixture(scope="module")
def completions() -> TokenBatch:
    """``(4, 2, 6)`` random tokens of unequal lengths."""
    lengths = torch.tensor([[6, 3], [1, 6], [4, 2], [5, 6]])
    ids = torch.randint(7, 380, (4, 2, 6), generator=torch.Generator().manual_seed(9))
    return TokenBatch(ids, (torch.arange(6) < lengths.unsqueeze(-1)).float())


@pytest.fixture
def make_lora_policy(make_policy):
    """``make_lora_policy(dropout=0.0)``: a policy whose adapters have something to say."""

    def build(dropout: float = 0.0) -> MultimodalPolicy:
        built = make_policy(lora={**LORA, "dropout": dropout})
        move_adapters(built)
        return built

    return build


@pytest.fixture(scope="session")
def weights(tmp_path_factory, tokenizer_file) -> Path:
    """The folders of :func:`write_toy_folders`."""
    folder = tmp_path_factory.mktemp("pretrained")
    write_toy_folders(folder, tokenizer_file)
    return folder


@pytest.fixture
def toy_config(weights) -> dict:
    """The 7B model's configuration at toy width."""
    return toy_config_of(weights)
