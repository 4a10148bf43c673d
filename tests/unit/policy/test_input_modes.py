"""Every published input mode: which switches choose it, what it says, and that its placeholders get their tokens."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from affectgpt_r1.errors import ConfigError
from affectgpt_r1.policy.build_policy import build_policy
from affectgpt_r1.policy.fusion import Fusion
from affectgpt_r1.policy.prompts import MEDIA_TOKENS, PromptTemplate

QUESTION = "How does the character feel?"
EVERY = ("video", "audio", "text")
MULTI = "The audio and video merged info is: <Multi><MultiHere></Multi>. "
AUDIO = "The audio content is as follows: <Audio><AudioHere></Audio>. "
FIRST_FACES = (
    "We uniformly sample raw frames from the video and extract faces from these frames: <Video><FaceHere></Video>. "
)
FACES = (
    "Meanwhile, we uniformly sample raw frames from the video and extract faces from these frames: "
    "<Video><FaceHere></Video>. "
)
MORE_FACES = (
    "Additionally, we uniformly sample raw frames from the video and extract faces from these frames: "
    "<Video><FaceHere></Video>. "
)
FIRST_FRAMES = "We uniformly sample raw frames from the video: <Video><FrameHere></Video>. "
FRAMES = "Meanwhile, we uniformly sample raw frames from the video: <Video><FrameHere></Video>. "
IMAGE = "The image content is as follows: <Image><ImageHere></Image>. "
SUBTITLE = "The subtitle of this video is: <Subtitle>No.</Subtitle>. "

MODES = {  # published mode: model.fusion, data.visual, data.modalities, sentences
    "multiface_audio_face_text": ("attention", "face", EVERY, MULTI + AUDIO + FACES + SUBTITLE),
    "multiframe_audio_frame_text": ("attention", "frame", EVERY, MULTI + AUDIO + FRAMES + SUBTITLE),
    "multiface_audio_face_frame_text": ("attention", "both", EVERY, MULTI + AUDIO + FACES + FRAMES + SUBTITLE),
    "multiface_text": ("multi", "face", EVERY, MULTI + SUBTITLE),
    "multiframe_text": ("multi", "frame", EVERY, MULTI + SUBTITLE),
    "faceframe": ("none", "both", EVERY, AUDIO + FRAMES + MORE_FACES + SUBTITLE),
    "face": ("none", "face", EVERY, AUDIO + FACES + SUBTITLE),
    "frame": ("none", "frame", EVERY, AUDIO + FRAMES + SUBTITLE),
    "audioonly": ("attention", "face", ("audio",), AUDIO),
    "textonly": ("attention", "face", ("text",), SUBTITLE),
    "faceonly": ("attention", "face", ("video",), FIRST_FACES),
    "frameonly": ("attention", "frame", ("video",), FIRST_FRAMES),
    "image": ("attention", "image", ("video",), IMAGE),
    "audio_text": ("attention", "face", ("audio", "text"), AUDIO + SUBTITLE),
    "face_text": ("attention", "face", ("video", "text"), FIRST_FACES + SUBTITLE),
    "frame_text": ("attention", "frame", ("video", "text"), FIRST_FRAMES + SUBTITLE),
}
"""The last three open with ``###Human:`` like all others, which the published ones do not."""


@pytest.fixture
def make_mode(tokenizer_file, tiny_config, make_batch):
    """``make_mode(fusion, visual, modalities)``: a policy built with these switches, and two clips."""

    def build(fusion, visual, modalities):
        keywords = {**tiny_config, "tokenizer": str(tokenizer_file), "fusion": fusion}
        policy = build_policy(**keywords, template=PromptTemplate(QUESTION, visual=visual))
        batch = make_batch(2, modalities=(modalities,) * 2, subtitles=("No.", "No."))
        frames = batch.frames[:, :1] if visual == "image" else batch.frames
        media = {
            "frames": frames if "video" in modalities else None,
            "context_frames": frames.flip(1) if visual == "both" else None,
            "waveforms": batch.waveforms if "audio" in modalities else None,
        }
        return policy, dataclasses.replace(batch, **media)

    return build


@pytest.mark.parametrize("mode", MODES)
def test_every_published_mode_has_switches_and_its_sentences(mode, make_mode):
    fusion, visual, modalities, sentences = MODES[mode]
    policy, batch = make_mode(fusion, visual, modalities)
    prompt = (
        f"###Human: {sentences}Now, please answer my question based on all the provided information. "
        f"{QUESTION} ###Assistant: "
    )
    assert policy.prompts(batch) == [prompt] * 2


@pytest.mark.parametrize("mode", MODES)
def test_every_placeholder_gets_its_tokens_and_nothing_else_follows_the_media(mode, make_mode):
    policy, batch = make_mode(*MODES[mode][:3])
    placeholders = [token for token in MEDIA_TOKENS if token in MODES[mode][3]]
    other = dataclasses.replace(
        batch,
        **{
            name: None if media is None else media.flip(0)
            for name, media in (
                ("frames", batch.frames),
                ("context_frames", batch.context_frames),
                ("waveforms", batch.waveforms),
            )
        },
    )
    with torch.no_grad():
        first, second = policy.embed_prompts(batch).embeds, policy.embed_prompts(other).embeds
    follows = (first != second).any(-1)
    ids = torch.tensor(
        policy.tokenizer([policy.tokenizer.bos_token + text for text in policy.prompts(batch)])["input_ids"]
    )
    expected = torch.isin(ids, torch.tensor([policy.media_ids[token] for token in placeholders]))
    assert expected.sum() == 2 * len(placeholders)
    assert follows.equal(expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_small_tokenizer_may_take_every_fixed_part_as_one_token(mode, make_mode):
    policy, batch = make_mode(*MODES[mode][:3])
    rest = policy.prompts(batch)[0]
    for phrase in policy.template.phrases():
        rest = rest.replace(phrase, "")
    assert re.sub("|".join(MEDIA_TOKENS), "", rest).split() == (["No."] if "text" in MODES[mode][2] else [])


def test_sound_stays_beside_a_still_image(make_mode):
    policy, batch = make_mode("attention", "image", EVERY)
    assert policy.prompts(batch)[0].startswith(f"###Human: {AUDIO}{IMAGE}{SUBTITLE}Now, ")
    assert policy.embed_prompts(batch).embeds.isfinite().all()


def test_parts_without_tokens_are_not_built_and_leave_no_modality_out(make_mode):
    fusion = Fusion(2, 1, 2, 3, "multi")
    assert fusion.shown == ("multi",)
    assert {name.split(".")[0] for name, _ in fusion.named_parameters()} == {"multi"}
    with pytest.raises(ConfigError, match="video and audio need tokens of their own where they are not merged"):
        Fusion(2, 1, 2, 3, {"video": "attention", "audio": "none", "multi": "none"})
    with pytest.raises(ConfigError, match=r"data\.visual=both: .* take face or frame"):
        make_mode("multi", "both", EVERY)


def test_merged_media_are_shown_only_where_both_are_there(make_mode):
    template = make_mode("multi", "face", EVERY)[0].template
    assert template.prompt("No.", ("video", "text")).startswith(f"###Human: {SUBTITLE}Now, ")
