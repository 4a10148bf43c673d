"""GRPO from a policy that was trained for something else is refused before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from affectgpt_r1.config.compose import resolved
from affectgpt_r1.config.initial_policy import settle_settings
from affectgpt_r1.errors import CheckpointError, ConfigError
from helpers.configs import compose_config


def composed(*overrides: str):
    return compose_config("train", *overrides)


@pytest.fixture
def start(tmp_path: Path):
    """``start(*overrides)``: the checkpoint of a run with these, as an ``init_from`` override."""

    def write(*overrides: str) -> str:
        torch.save({"state_dict": {}, "config": resolved(composed(*overrides))}, tmp_path / "start.ckpt")
        return f"init_from={tmp_path}/start.ckpt"

    return write


@pytest.mark.parametrize(
    ("sft", "grpo", "said"),
    [
        (
            "prompt=no_think",
            "prompt=think",
            r"^prompt\.enable_thinking: .* trained with false, .* with true .*: give prompt=no_think,",
        ),
        ("prompt=ovlabel", "prompt=no_think", r"^prompt\.kind: .* trained with \"ovlabel\", .* give prompt=ovlabel"),
        (
            "data.num_frames=4",
            "data.num_frames=8",
            r"^data\.num_frames: .* trained with 4, .* with 8: give data\.num_frames=4",
        ),
        ("data.channel_order=rgb", "seed=2", r"^data\.channel_order: .*give data\.channel_order=\"rgb\""),
        ("data.modalities=[text]", "seed=2", r"^data\.modalities: .* trained with \[\"text\"\]"),
        ("model.waveform_normalization=clip", "seed=2", r"^model\.waveform_normalization: .* trained with \"clip\""),
        ("model.fusion=mean", "model.fusion=qformer", r"^model\.fusion: .*\"mean\""),
        ("model.video_encoder.patch_size=16", "seed=2", r"^model\.video_encoder\.patch_size: .* trained with 16"),
    ],
)
def test_another_setting_is_refused_before_anything_is_built(start, sft, grpo, said):
    given = start("experiment=demo/sft", sft)
    with pytest.raises(ConfigError, match=said):
        settle_settings(composed("experiment=demo/grpo", grpo, given))


def test_the_switch_lets_it_start_and_each_difference_is_logged(start, caplog):
    given = start("experiment=demo/sft", "prompt=no_think", "data.num_frames=4")
    settle_settings(composed("experiment=demo/grpo", "prompt=think", "strict_init=false", given))
    assert "prompt.enable_thinking: init_from was trained with false, this run trains with true" in caplog.messages
    assert "data.num_frames: init_from was trained with 4, this run trains with 8" in caplog.messages


def test_sft_may_teach_another_prompt_and_fewer_modalities_are_a_line(start, caplog):
    settle_settings(composed("experiment=demo/sft", "prompt=think", start("experiment=demo/sft")))
    assert caplog.messages[0] == "prompt.enable_thinking: init_from was trained with false, this run trains with true"
    caplog.clear()
    settle_settings(composed("experiment=demo/grpo", "data.modalities=[text]", start("experiment=demo/sft")))
    assert caplog.messages == [
        "data.modalities: this run trains with text, init_from was trained with video, audio, text"
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("demo/sft", "demo/grpo"), ("smol/sft", "smol/grpo"), ("affectgpt_r1/cold_start", "affectgpt_r1/grpo")),
        *(
            ("r1_omni/cold_start", "r1_omni/rlvr"),
            ("affectgpt_r1/cold_start", "affectgpt_rl/ablation"),
            ("demo/sft", "demo/ablation"),
        ),
    ],
)
@pytest.mark.parametrize("prompt", ["think", "no_think"])
def test_the_documented_chains_say_nothing(start, first, second, prompt, caplog):
    given = start(f"experiment={first}", f"prompt={prompt}")
    settle_settings(composed(f"experiment={second}", f"prompt={prompt}", "prompt.max_completion_length=7", given))
    assert caplog.messages == []


def test_a_question_among_those_that_sft_drew_is_known(start, caplog):
    given = start("experiment=affectgpt/mercaption")  # prompt=ovlabel, and descriptions by turns
    base = ("experiment=affectgpt_r1/grpo", "prompt=ovlabel", given)
    settle_settings(composed(*base, "prompt.kind=description"))
    with pytest.raises(ConfigError, match=r"^prompt\.kind"):
        settle_settings(composed(*base, "prompt.kind=sentiment"))


def test_the_lexicon_of_the_reward_is_a_choice_that_is_logged(start, caplog):
    caplog.set_level("INFO", logger="affectgpt_r1.config.initial_policy")
    settle_settings(composed("experiment=demo/grpo", "emotion=mer2025", start("experiment=demo/sft")))
    assert caplog.messages == ['emotion.lexicon: init_from was trained with "bundled", this run scores with "mer2025"']


def test_a_control_takes_the_settings_of_its_grpo_run(start, tmp_path, monkeypatch):
    run = tmp_path / "grpo"
    (run / "checkpoints").mkdir(parents=True)
    trained = composed("experiment=demo/grpo", "data.modalities=[text]", "prompt.max_completion_length=9")
    torch.save({"state_dict": {}, "config": resolved(trained)}, run / "checkpoints" / "last.ckpt")
    given = ("experiment=demo/control", f"match_wall_time={run}/run.json", start("experiment=demo/sft"))
    config = settle_settings(composed(*given, "optim.optimizer.lr=1e-5"))
    assert (list(config.data.modalities), config.prompt.max_completion_length) == (["text"], 9)
    assert (config.stage.name, config.optim.optimizer.lr, config.data.batch_size) == ("control", 1e-5, 8)
    override = "data.modalities=[video,audio,text]"
    monkeypatch.setattr("affectgpt_r1.config.policy_config.given_overrides", lambda: [override])
    with pytest.raises(CheckpointError, match=r"data\.modalities=\[\"text\"\], here it is"):
        settle_settings(composed(*given, override))
