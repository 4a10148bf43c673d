import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.emotion.parsing import parse_completion, parse_labels


@pytest.mark.parametrize(
    ("openset", "words"),
    [
        ("[concern, pessimism]", ("concern", "pessimism")),
        ("shocked,care,serious", ("shocked", "care", "serious")),
        ("['Happy', \"sad\"]", ("Happy", "sad")),
        ("[[a], [b]]", ("[a]", "[b]")),
        ("sad; happy", ("sad; happy",)),
        ("don't care", ("don", "t care")),
        ("  happy ,, sad,", ("happy", "sad")),
        ("sad,sad,Sad", ("sad", "sad", "Sad")),
        (" [happy]", ("[happy",)),
        ("开心,sad", ("开心", "sad")),
        ("[", ()),
        ("]", ()),
        ("[]", ()),
        ("", ()),
        ("','", ()),
        (None, ()),
        ([], ()),
        (["  joyful ", "", "not a word"], ("joyful", "not a word")),
        (("don't care",), ("don't care",)),
    ],
)
def test_parse_labels(openset, words):
    assert parse_labels(openset) == words


@given(st.text(alphabet="ab ,'\"[];\n", max_size=30))
def test_parse_labels_equals_the_obvious_reading(text):
    inner = text[1:] if text[:1] == "[" else text
    inner = inner[:-1] if inner[-1:] == "]" else inner
    for separator in "'\"":
        inner = inner.replace(separator, ",")
    assert parse_labels(text) == tuple(part.strip() for part in inner.split(",") if part.strip())


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><answer>happy</answer>",
        " \n<think> a\nb </think>\n\n<answer> happy, sad </answer>\n",
        "<think>1 < 2 > 0</think> <answer>happy</answer>",
    ],
)
def test_well_formed_with_thinking(text):
    assert parse_completion(text, enable_thinking=True).well_formed
    assert not parse_completion(text, enable_thinking=False).well_formed


@pytest.mark.parametrize("text", ["<answer>happy</answer>", "\n<answer>\n happy, sad\n</answer> "])
def test_well_formed_without_thinking(text):
    assert parse_completion(text, enable_thinking=False).well_formed
    assert not parse_completion(text, enable_thinking=True).well_formed


THINK, ANSWER = "<think>a</think>", "<answer>happy</answer>"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "happy",
        THINK,
        ANSWER,
        ANSWER + THINK,
        THINK + ANSWER + ANSWER,
        THINK + THINK + ANSWER,
        THINK + ANSWER + "</answer>",
        "<think>" + THINK + ANSWER,
        THINK + "<answer>" + ANSWER,
        "well: " + THINK + ANSWER,
        THINK + "so" + ANSWER,
        THINK + ANSWER + ".",
        "<think> </think>" + ANSWER,
        THINK + "<answer> \n</answer>",
        "<think>a<answer>happy</think></answer>",
        "<think><answer>happy</answer></think>",
        "<THINK>a</THINK>" + ANSWER,
        "</think>a<think>" + ANSWER,
        THINK + "<answer>happy",
        THINK + "</answer>happy<answer>",
    ],
)
def test_malformed_with_thinking(text):
    assert not parse_completion(text, enable_thinking=True).well_formed


@pytest.mark.parametrize(
    "text",
    ["", "happy", "<answer></answer>", ANSWER + ANSWER, "x" + ANSWER, ANSWER + "x", THINK + ANSWER, "<think>" + ANSWER],
)
def test_malformed_without_thinking(text):
    assert not parse_completion(text, enable_thinking=False).well_formed


def test_contents():
    completion = parse_completion(
        "<think> A smile. </think><answer> [Happy, happy] </answer>", enable_thinking=True, num_tokens=9, truncated=True
    )
    assert completion.reasoning == "A smile."
    assert completion.answer == "[Happy, happy]"
    assert completion.labels == ("Happy", "happy")
    assert (completion.num_tokens, completion.truncated) == (9, True)


@pytest.mark.parametrize(
    ("text", "answer", "labels"),
    [
        ("<answer>sad", None, ()),
        ("</answer><answer>sad</answer>", "sad", ("sad",)),
        ("<answer>sad</answer><answer>happy</answer>", "sad", ("sad",)),
        ("<answer></answer>", "", ()),
        ("sad", None, ()),
    ],
)
def test_a_malformed_answer_is_read_where_it_can_be(text, answer, labels):
    completion = parse_completion(text, enable_thinking=False)
    assert completion.answer == answer
    assert completion.labels == labels


_REFERENCE = re.compile(r"\s*<think>(?P<think>.*?\S.*?)</think>\s*<answer>(?P<answer>.*?\S.*?)</answer>\s*", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@given(st.lists(st.sampled_from((*_TAGS, "a", " ", "\n", "<")), max_size=9).map("".join))
def test_well_formed_equals_a_regular_expression(text):
    once_each = all(text.count(tag) == 1 for tag in _TAGS)
    assert parse_completion(text, enable_thinking=True).well_formed == (
        once_each and _REFERENCE.fullmatch(text) is not None
    )


@pytest.mark.parametrize(
    "unit", ["<think>", "</answer>", "<answer></answer>", "<", " ", "<answer", "'", ",", "[", "<think></think>", "\n<"]
)
def test_a_megabyte_costs_little(unit):
    text = unit * (1_000_000 // len(unit))
    started = time.process_time()
    for enable_thinking in (True, False):
        assert not parse_completion(text, enable_thinking=enable_thinking).well_formed
        parse_completion(f"<answer>{text}</answer>", enable_thinking=enable_thinking)
    assert time.process_time() - started < 2
