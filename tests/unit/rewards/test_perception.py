"""Bradley-Terry strengths, judges, and the better half of a group."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.emotion.chat_client import ChatError
from affectgpt_r1.emotion.parsing import parse_completion
from affectgpt_r1.errors import ConfigError, DataError, TrainingError
from affectgpt_r1.metrics.functional.bradley_terry import bradley_terry_strengths
from affectgpt_r1.rewards.judges import ChatJudge, RecordedCuesJudge
from affectgpt_r1.rewards.overlong import OverlongReward
from affectgpt_r1.rewards.perception import PerceptionReward
from affectgpt_r1.rewards.weighting import WeightedRewards

CUES = {
    "a": ["mouth turned up", "head moving", "loud"],
    "b": ["inner brows raised", "quiet", "a loss"],
    "c": ["brows raised", "high"],
}
TRUE = "The face looks happy, with mouth turned up and head moving. The voice sounds happy, loud."
EVERYTHING = " and ".join(itertools.chain.from_iterable(CUES.values()))


@pytest.fixture
def cues_file(tmp_path):
    path = tmp_path / "cues.jsonl"
    rows = [json.dumps({"name": name, "cue_phrases": phrases}) for name, phrases in CUES.items()]
    path.write_text("\n".join(rows) + "\n\n", encoding="utf-8")
    return path


def think(reasoning, clip="a", group=0):
    text = f"<think> {reasoning} </think> <answer> happy </answer>" if reasoning is not None else "<answer> x </answer>"
    return dataclasses.replace(parse_completion(text, enable_thinking=True), clip=clip, group=group)


def scores(judge, *completions):
    return PerceptionReward(judge)(completions=completions, targets=[("happy",)] * len(completions))


def log_posterior(strengths, wins, prior):
    """The model's logarithmic posterior, from its definition."""
    p = strengths
    total = prior * (p / (p + 1)).log().sum() + prior * (1 / (p + 1)).log().sum()
    for i, j in itertools.permutations(range(len(p)), 2):
        total = total + wins[i, j] * (p[i] / (p[i] + p[j])).log()
    return total


@given(st.lists(st.integers(0, 2), min_size=6, max_size=6), st.sampled_from([0.1, 0.5, 2.0]))
def test_strengths_are_at_the_maximum(outcomes, prior):
    wins = torch.zeros(4, 4, dtype=torch.float64)
    for (i, j), outcome in zip(itertools.combinations(range(4), 2), outcomes, strict=True):
        wins[i, j], wins[j, i] = outcome / 2, 1 - outcome / 2
    strengths = bradley_terry_strengths(wins.numpy(), prior=prior, iterations=2000)
    logs = torch.from_numpy(strengths).log().requires_grad_()
    log_posterior(logs.exp(), wins, prior).backward()
    assert logs.grad.abs().max() < 1e-5


def test_strengths_of_two_by_hand():
    # One win, prior 1/2: by symmetry p_2 = 1 / p_1, and p_1 = 1.5 / (1 / (p_1 + 1 / p_1) + 1 / (p_1 + 1)).
    first, second = bradley_terry_strengths([[0.0, 1.0], [0.0, 0.0]]).tolist()
    assert first * second == pytest.approx(1.0)
    assert first == pytest.approx(1.5 / (1 / (first + 1 / first) + 1 / (first + 1)))
    assert first > 1.5


def test_equal_records_have_equal_strengths_and_absent_players_one():
    wins = torch.zeros(2, 4, 4)
    wins[0, 0, 1] = wins[0, 1, 2] = wins[0, 2, 0] = 1.0  # a circle, and the fourth is absent
    wins[1] = 0.5 * (1 - torch.eye(4))
    assert bradley_terry_strengths(wins.numpy()) == pytest.approx(1.0)


def test_the_recorded_cues_decide(cues_file):
    judge = RecordedCuesJudge(cues_file)
    assert judge.worth("a", TRUE) == 3
    assert judge.worth("a", f"{TRUE} {TRUE}") == 3  # said twice
    assert judge.worth("a", "Mouth turned UP.") == 1
    assert judge.worth("a", "The voice is quiet, and speaks of a loss.") == -2
    assert judge.worth("a", EVERYTHING) == 3 - 5
    assert judge.worth("a", "She feels allowed.") == 0  # "loud" is not a word of it
    assert judge.worth("b", "inner brows raised") == 1  # and not also "brows raised", which is false of b
    assert judge.worth("c", "inner brows raised") == -1
    assert judge.wins([("a", ["", TRUE, "loud", "quiet", "nothing"])])[0] == [
        [0, 0, 0, 1, 0.5],
        [1, 0, 1, 1, 1],
        [1, 0, 0, 1, 1],
        [0, 0, 0, 0, 0],
        [0.5, 0, 0, 1, 0],
    ]


def test_the_better_half_earns_one(cues_file):
    judge = RecordedCuesJudge(cues_file)
    assert scores(judge, *map(think, ["loud", TRUE, "quiet", "mouth turned up, loud"])) == [0, 1, 0, 1]
    assert scores(judge, *map(think, ["loud", TRUE, "quiet"])) == [1, 1, 0]  # ceil(3 / 2)
    assert scores(judge, *map(think, [EVERYTHING, TRUE])) == [0, 1]


def test_equals_at_the_cut_share_it_and_silence_earns_nothing(cues_file):
    judge = RecordedCuesJudge(cues_file)
    assert scores(judge, *map(think, ["loud"] * 4)) == [1, 1, 1, 1]
    assert scores(judge, *map(think, [TRUE, "loud", "head moving", "mouth turned up"])) == [1, 1, 1, 1]
    assert scores(judge, *map(think, [TRUE, TRUE, "loud", "head moving"])) == [1, 1, 0, 0]
    assert scores(judge, *map(think, [None, "quiet", None, None])) == [0, 1, 0, 0]
    assert scores(judge, *map(think, [None, None])) == [0, 0]
    assert scores(judge, think(" "), think("quiet")) == [0, 1]


def test_groups_are_kept_apart_and_one_alone_has_no_score(cues_file):
    judge = RecordedCuesJudge(cues_file)
    completions = [
        think("loud", "a", 0),
        think("quiet", "b", 1),
        think("high", "c", 2),
        think("quiet", "a", 0),
        think("loud", "b", 1),
        think("loud", "a", 3),
        think(TRUE, "a", 3),
    ]
    assert scores(judge, *completions) == [1, 1, None, 0, 0, 0, 1]
    assert PerceptionReward(judge, enable_thinking=False)(completions=completions, targets=[()] * 7) == [None] * 7
    assert scores(judge) == []


REASONINGS = st.lists(
    st.lists(st.sampled_from(EVERYTHING.split(" and ")), max_size=8).map(" and ".join), min_size=1, max_size=7
)


@given(REASONINGS, st.randoms())
def test_the_true_account_is_in_the_better_half_and_order_does_not_matter(tmp_path_factory, others, random):
    path = tmp_path_factory.mktemp("cues") / "cues.jsonl"
    path.write_text("\n".join(json.dumps({"name": name, "cue_phrases": cues}) for name, cues in CUES.items()))
    judge = RecordedCuesJudge(path)
    said = [TRUE, *others]
    earned = dict(enumerate(scores(judge, *map(think, said))))
    assert earned[0] == 1.0
    assert sum(earned.values()) >= -(-len([one for one in said if one]) // 2) or "" in said
    order = random.sample(range(len(said)), len(said))
    assert scores(judge, *[think(said[index]) for index in order]) == [earned[index] for index in order]
    worths = [judge.worth("a", one) for one in said]
    for i, j in itertools.permutations(range(len(said)), 2):
        if said[i] and said[j] and worths[i] >= worths[j]:
            assert earned[i] >= earned[j]


def test_a_clip_without_record_or_a_damaged_file_is_named(cues_file, tmp_path):
    with pytest.raises(DataError, match=r"cues\.jsonl does not record clip 'real_1'"):
        scores(RecordedCuesJudge(cues_file), think("x", "real_1"), think("y", "real_1"))
    for text in ("{", '{"name": "a"}', "[]", '{"name": "a", "cue_phrases": [1]}'):
        path = tmp_path / "damaged.jsonl"
        path.write_text(text)
        with pytest.raises(DataError, match=r"damaged\.jsonl cannot be read.*make demo-data"):
            RecordedCuesJudge(path).worth("a", "loud")
    with pytest.raises(DataError, match="absent"):
        RecordedCuesJudge(tmp_path / "absent.jsonl").worth("a", "loud")


class Loud:
    """A chat that prefers the account that says "loud", in the words it is told to use."""

    identity = "loud"

    def __init__(self, answers=("A", "B", "TIE")):
        self.answers = answers
        self.asked = []

    def __call__(self, prompt, instruction=""):
        self.asked.append(prompt)
        first, second = re.findall(r"Account [AB]: (.*)", prompt)
        return self.answers[0 if "loud" in first else 1 if "loud" in second else 2]


@pytest.fixture
def descriptions(tmp_path):
    path = tmp_path / "reasons.csv"
    path.write_text('name,reason\na,"The voice, is loud."\n', encoding="utf-8-sig")
    return path


def test_a_chat_model_is_asked_in_both_orders(descriptions):
    chat = Loud()
    assert ChatJudge(chat, descriptions).wins([("a", ["it is loud", "quiet", "quiet", "even"])])[0] == [
        [0, 1, 1, 1],
        [0, 0, 0.5, 0.5],
        [0, 0.5, 0, 0.5],
        [0, 0.5, 0.5, 0],
    ]
    assert len(chat.asked) == 10  # five unequal pairs, twice
    assert all("The voice, is loud." in prompt for prompt in chat.asked)


def test_all_groups_are_asked_together(descriptions):
    tables = ChatJudge(Loud(), descriptions).wins(
        [("a", ["loud", "quiet"]), ("a", []), ("a", ["even", "even", "loud"])]
    )
    assert tables == [[[0, 1], [0, 0]], [], [[0, 0.5, 0], [0.5, 0, 0], [1, 1, 0]]]


def test_a_model_that_favours_a_place_decides_nothing(descriptions):
    judge = ChatJudge(Loud(("A", "A", "A")), descriptions)
    assert judge.wins([("a", ["loud", "quiet"])])[0] == [[0, 0.5], [0.5, 0]]


@pytest.mark.parametrize(
    "answers", [("a.", "b!", "tie"), ("**A**", "**B**", "**TIE**"), ("Verdict: A", "I say B", "tie.")]
)
def test_verdicts_are_found_in_a_sentence(descriptions, answers):
    assert ChatJudge(Loud(answers), descriptions).wins([("a", ["loud", "quiet"])])[0] == [[0, 1], [0, 0]]


def test_no_verdict_and_no_description_are_errors(descriptions, tmp_path):
    with pytest.raises(ChatError, match="'hmm' in place of A, B or TIE"):
        ChatJudge(Loud(("hmm", "hmm", "hmm")), descriptions).wins([("a", ["loud", "quiet"])])
    with pytest.raises(DataError, match="does not describe clip 'b'"):
        ChatJudge(Loud(), descriptions).wins([("b", ["loud", "quiet"])])
    for text in ("name,other\na,b\n", ""):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DataError, match=r"bad\.csv"):
            ChatJudge(Loud(), tmp_path / "bad.csv").wins([("a", ["loud", "quiet"])])


def test_overlong_is_refused_without_a_sensible_ramp():
    for ramp in (0, -1, 97):
        with pytest.raises(ConfigError, match="overlong_tokens"):
            OverlongReward(96, ramp)
    with pytest.raises(ConfigError, match="max_completion_length"):
        WeightedRewards({"a": OverlongReward(96, 1)}, {"a": 1}, overlong_tokens=4)


@pytest.mark.parametrize("preference", [float("nan"), float("inf"), -1.0])
def test_a_judge_whose_preference_is_no_share_stops_the_run(preference):
    class Broken:
        def wins(self, groups):
            return [[[0.0, preference], [0.5, 0.0]]]

    with pytest.raises(TrainingError, match="judge: a preference for clip a is not between 0 and 1"):
        scores(Broken(), think("loud"), think("quiet"))
