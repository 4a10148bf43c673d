"""What one run tells another: valid JSON, and a time that can be trained for."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from affectgpt_r1.callbacks.run_totals import RunTotals
from affectgpt_r1.config.run_record import read_record, wall_time_of, write_record
from affectgpt_r1.errors import CheckpointError, ConfigError


@pytest.mark.parametrize(
    "content",
    [
        '{"fit_seconds": NaN}',
        '{"fit_seconds": 0}',
        '{"fit_seconds": -3}',
        '{"fit_seconds": null}',
        f'{{"fit_seconds": {"9" * 400}}}',
        "{}",
    ],
)
def test_a_time_that_cannot_be_trained_for_is_refused(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"match_wall_time: .*fit_seconds"):
        wall_time_of(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: bytes(len(content)),
        lambda content: b"[1]",
        lambda content: b"\xff" + content,
        lambda content: content.replace(b'"steps": 3', b'"steps": 7'),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, damage):
    path = tmp_path / "run.json"
    write_record(*arguments(tmp_path), config_hash="0")
    assert read_record(path)["steps"] == 3
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        CheckpointError, match=r"run\.json: damaged \(.*\); move it away, and the run's command writes it"
    ):
        read_record(path)


def arguments(folder, score=1.0):
    config = OmegaConf.create({"stage": {"name": "sft", "monitor": "val/f1"}, "seed": 1, "paths": {"run": str(folder)}})
    trainer = SimpleNamespace(checkpoint_callback=SimpleNamespace(best_model_score=torch.tensor(score)), global_step=3)
    return config, trainer, RunTotals(), {}


def test_a_time_is_read(tmp_path):
    (tmp_path / "run.json").write_text('{"fit_seconds": 12.5}')
    assert wall_time_of(tmp_path / "run.json") == 12.5


@pytest.mark.parametrize("score", [math.nan, -math.inf, math.inf])
def test_run_json_is_valid_whatever_the_score(tmp_path, score):
    write_record(*arguments(tmp_path, score), config_hash="0")

    def refuse(word):
        raise AssertionError(word)

    record = json.loads((tmp_path / "run.json").read_text(), parse_constant=refuse)
    assert record["best"] is None
    assert record["steps"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
