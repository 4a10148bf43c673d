"""Files that nobody prepared, seen as ``data.visual`` trained the policy to see."""

from __future__ import annotations

import pytest

from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.inference.label_file import Predictor
from affectgpt_r1.inference.read_file import read_clip
from affectgpt_r1.policy.build_policy import build_policy
from affectgpt_r1.policy.prompts import PromptTemplate
from affectgpt_r1.types import Sampling

VISUALS = ("face", "frame", "both", "image")


def settings(visual):
    return MediaSettings(visual=visual, num_frames=3, image_size=48, num_windows=2)


def test_faces_frames_both_and_a_still_image_are_those_of_training(tmp_path, write_video, monkeypatch):
    monkeypatch.setattr("affectgpt_r1.inference.read_file.centre_square", lambda picture: picture[:16, :16])
    path = write_video(tmp_path / "clip.mp4", sound=True)
    clips = {visual: read_clip(path, "Hello.", settings(visual), "centre")[0] for visual in VISUALS}
    assert clips["both"].frames.equal(clips["face"].frames)
    assert clips["both"].context_frames.equal(clips["frame"].frames)
    assert not clips["face"].frames.equal(clips["frame"].frames)
    assert clips["image"].frames.equal(clips["frame"].frames[1:2])
    assert [clips[visual].context_frames for visual in ("face", "frame", "image")] == [None] * 3


@pytest.mark.parametrize("visual", VISUALS)
def test_every_mode_answers_and_weighs_each_modality(visual, tmp_path, write_video, tokenizer_file, tiny_config):
    keywords = {**tiny_config, "tokenizer": str(tokenizer_file)}
    policy = build_policy(**keywords, template=PromptTemplate("What is felt?", visual=visual)).eval()
    sampling = Sampling(temperature=0.0, max_completion_length=3)
    predictor = Predictor(policy, settings(visual), sampling, load_lexicon("bundled"), faces="centre")
    row = predictor(write_video(tmp_path / "clip.mp4", sound=True), "Hello.")
    assert set(row["contributions"]) == {"video", "audio", "text"}
    assert any(one["log_probability"] != 0.0 for one in row["contributions"].values())
