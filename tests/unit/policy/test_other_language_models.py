"""Language models that the fast engine does not compute run on the reference engine, and a line says so."""

from __future__ import annotations

import pytest

from affectgpt_r1.engine.fast import FastEngine
from affectgpt_r1.engine.reference import ReferenceEngine
from affectgpt_r1.policy.backbone import build_language_model
from affectgpt_r1.policy.build_policy import build_engine

SIZES = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    "num_key_value_heads": 1,
}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "qwen3", "head_dim": 8}, None),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "mistral", "sliding_window": 8}, "sliding windows"),
    ],
)
def test_the_engine_of_a_family(settings, said, caplog):
    engine = build_engine("fast", build_language_model(20, {**SIZES, **settings}))
    assert type(engine) is (FastEngine if said is None else ReferenceEngine)
    expected = [f"model.engine=reference is used, since the language model has {said}"] if said else []
    assert caplog.messages == expected
