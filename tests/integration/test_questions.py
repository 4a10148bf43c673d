"""Runs on label files without emotion words: descriptions to choose between, scores to state."""

from __future__ import annotations

import pandas as pd
import pytest

from affectgpt_r1.cli.train import train
from affectgpt_r1.errors import ConfigError
from helpers.configs import compose_config

PREFERENCE = (
    "data.questions=[preference]",
    "prompt=ovlabel",
    "prompt.kind=preference",
    "prompt.max_completion_length=4",
    "stage.monitor=val/loss",
)


@pytest.fixture
def run(stage_overrides, workspace, tmp_path):
    """``run(*overrides)``: two steps of SFT on a file of preferences, whose names are those of the captioned clips."""
    names = pd.read_csv(workspace / "data" / "track2_train_mercaptionplus.csv")["name"]
    choices = pd.DataFrame({"name": names, "a1": "A smile.", "a2": "A frown.", "preference": "a2"})
    choices.to_csv(workspace / "data" / "preference.csv", index=False)
    files = ("train_labels=preference.csv", "train_reasons=null", "validation_labels=null", "test_labels=null")

    def build(*overrides):
        settings = (*(f"data.{file}" for file in files), "data.val_fraction=0.4", *overrides)
        changed = stage_overrides("sft", tmp_path / "run", 2, *settings, "trainer.val_check_interval=2")
        return train(compose_config("train", *changed))

    return build


def test_preferences_are_learned_and_validated_by_their_loss(run):
    metrics = run(*PREFERENCE)
    assert 0 < metrics["best"] == metrics["val/loss"] < 20
    assert (metrics["val/accuracy"], metrics["val/waf"]) == (0.0, 0.0)  # four tokens are not a sentence
    assert metrics["val/scored"] > 1
    assert "val/f1" not in metrics  # there are no emotion words to score


def test_a_prompt_about_emotion_words_needs_some(run):
    with pytest.raises(ConfigError, match=r"preference\.csv has no emotion words, .* one of .*\['preference'\]"):
        run("data.questions=[preference]")
