"""GRPO on text alone from an SFT policy of all modalities: control and evaluation follow, and the table says so."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from affectgpt_r1.data import dataset
from affectgpt_r1.errors import ConfigError, MediaError
from affectgpt_r1.evaluation import compare_policies as comparison
from affectgpt_r1.evaluation.compare_policies import compare_policies
from affectgpt_r1.evaluation.log_evaluation import tables_text
from helpers.configs import compose_config


@pytest.fixture(scope="module")
def systems(run_stage, sft_run, start, tmp_path_factory):
    """Checkpoints of the three systems; GRPO alone was told to read nothing but text."""
    root = tmp_path_factory.mktemp("systems")
    small = ("stage.num_generations=2", "prompt.max_completion_length=6")
    grpo = run_stage("grpo", root / "grpo", 2, start, "data.modalities=[text]", *small)
    matched = f"match_wall_time={grpo}/run.json"
    control = run_stage("control", root / "control", 1, start, matched)
    runs = {"sft": sft_run, "control": control, "grpo": grpo}
    return {name: folder / "checkpoints" / "last.ckpt" for name, folder in runs.items()}


@pytest.fixture
def summary_of(systems, workspace, tmp_path, monkeypatch):
    def run(*overrides: str):
        given = [f"systems.{name}={path}" for name, path in systems.items()]
        given += [f"paths.data={workspace}/data", f"paths.outputs={workspace}/outputs", f"paths.experiment={tmp_path}"]
        monkeypatch.setattr("affectgpt_r1.config.policy_config.given_overrides", lambda: [*given, *overrides])
        config = compose_config("evaluate", *given, "logger=none", "data.eval_batch_size=4", *overrides)
        return compare_policies(config, [])

    return run


def test_each_system_is_evaluated_as_it_was_trained(systems, summary_of):
    stored = torch.load(systems["control"], weights_only=True)["config"]
    assert (stored["data"]["modalities"], stored["prompt"]["max_completion_length"]) == (["text"], 6)
    summary = summary_of()
    without = {name: list(summary[name]["without"]) for name in systems}
    assert without == {"sft": ["video", "audio", "text"], "control": ["text"], "grpo": ["text"]}
    assert "data.modalities differs: sft video audio text; control text; grpo text" in summary["notes"]
    assert "prompt.max_completion_length differs: sft 24; control 6; grpo 6" in summary["notes"]
    assert "Data.modalities differs" in tables_text(summary).replace("\n", " ")


def test_an_ablation_is_named_in_the_table(summary_of):
    summary = summary_of("data.modalities=[text]")
    assert "sft: evaluated with text of video, audio, text" in summary["notes"]
    assert list(summary["sft"]["without"]) == ["text"]
    assert "evaluated with text of video, audio, text" in tables_text(summary)


def test_clips_that_one_system_cannot_read_count_for_none(systems, summary_of, monkeypatch):
    read = dataset.ClipDataset._read

    def read_or_fail(self, row, modalities, *rest):
        if "text" in self.media.modalities and len(self.media.modalities) == 1 and row.name.endswith("2"):
            raise MediaError(f"{row.name}: torn")
        return read(self, row, modalities, *rest)

    monkeypatch.setattr(dataset.ClipDataset, "_read", read_or_fail)
    summary = summary_of()
    assert summary["num_clips"] == 3
    assert [name for name, _ in summary["unreadable_clips"]] == ["synthetic_test_00002"]


def test_two_lexicons_need_a_choice(systems, summary_of, monkeypatch):
    read = comparison.settings_of_checkpoint

    def settings(path):
        own = read(path)
        other = {"emotion": {"lexicon": "mer2025"}} if path == str(systems["grpo"]) else {}
        return dataclasses.replace(own, tree={**own.tree, **other})

    monkeypatch.setattr(comparison, "settings_of_checkpoint", settings)
    with pytest.raises(ConfigError, match=r"emotion\.lexicon: sft with bundled, .* grpo with mer2025 were trained"):
        summary_of()
    summary = summary_of("emotion.lexicon=bundled")
    assert (summary["lexicon"], summary["num_clips"]) == ("bundled", 4)
