"""SmolLM2's family: the turns that its pretraining knows, and AffectGPT's modules."""

import pytest

from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.policy.families import FAMILIES
from affectgpt_r1.policy.prompts import MEDIA_TOKENS

Template = FAMILIES["smol"].template
QUESTION = "Which emotions? Answer in <answer> </answer> tags."
PROMPT = f"""<|im_start|>system
{QUESTION}<|im_end|>
<|im_start|>user
Face and voice: <MultiHere>
Voice: <AudioHere>
Face: <FaceHere>
Words: Good morning.<|im_end|>
<|im_start|>assistant
"""


def test_the_prompt_to_the_letter():
    assert Template(QUESTION).prompt("Good morning.", ("video", "audio", "text")) == PROMPT


@pytest.mark.parametrize(
    ("modalities", "lines"),
    [
        (("video",), "Face: <FaceHere>"),
        (("audio",), "Voice: <AudioHere>"),
        (("text",), "Words: <Subtitle>#(MultiHere)"),
        (("audio", "text"), "Voice: <AudioHere>\nWords: <Subtitle>#(MultiHere)"),
    ],
)
def test_a_missing_modality_takes_its_line_along(modalities, lines):
    prompt = Template(QUESTION).prompt("<Subtitle>###<MultiHere>", modalities)
    assert prompt.split("user\n")[1] == f"{lines}<|im_end|>\n<|im_start|>assistant\n"
    assert sum(map(prompt.count, MEDIA_TOKENS)) == len({"video", "audio"} & set(modalities))


@pytest.mark.parametrize("enable_thinking", [False, True])
def test_targets_are_well_formed_and_parse_back(enable_thinking):
    target = Template(QUESTION, enable_thinking=enable_thinking).target(("happy", "a bit sad"), "A smile.")
    completion = parse_completion(target, enable_thinking=enable_thinking)
    assert (completion.well_formed, completion.labels) == (True, ("happy", "a bit sad"))
    assert " </answer>" not in target


def test_what_opens_a_prompt_and_ends_an_answer(make_policy, make_batch):
    policy, batch = make_policy(family="smol").eval(), make_batch()
    begin, end = policy.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert (policy.turn_ids, policy.special_tokens.stop_ids) == ([end], [end])
    assert [(row[0], row.count(begin), row.count(end)) for row in policy.prompt_ids(batch)] == [(begin, 3, 2)] * 4
    targets = policy.encode_targets(batch)
    assert all(row[int(mask.sum()) - 1] == end for (row,), mask in zip(targets.ids.tolist(), targets.mask, strict=True))
