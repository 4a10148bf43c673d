"""The README's picture of an answer."""

import json

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Wedge
from PIL import Image

from affectgpt_r1.emotion.bundled import load_bundled
from affectgpt_r1.errors import ConfigError
from tools.clip_picture import ABSENT, EXTRA, HIT, INK, choose_answer, draw_clip, main, wheel_scores

ANSWER = {"name": "clip", "target": ["gloomy", "surprised"], "openset": ["sad", "angry"], "f1": 0.5}


@pytest.fixture
def data(tmp_path, write_mp4, write_wav):
    write_mp4(tmp_path / "video" / "clip.mp4")
    write_wav(tmp_path / "audio" / "clip.wav")
    (tmp_path / "subtitle_chieng.csv").write_text("name,english\nclip,I am fine.\n")
    return tmp_path


def test_words_and_sectors_have_the_colour_of_what_they_are(data):
    figure = draw_clip(ANSWER, data, load_bundled())

    colours = {text.get_text(): text.get_color() for text in figure.texts}
    assert colours["sad"] == HIT
    assert colours["angry"] == EXTRA
    assert colours["gloomy"] == colours["surprised"] == INK
    assert {"“I am fine.”", "F1 50, mean of five wheels:"} <= set(colours)
    wheel = figure.axes[-1]
    assert [text.get_text() for text in wheel.texts] == [
        "wheel 1",
        "anger:\nextra",
        "sadness:\nhit",
        "surprise:\nmissed",
    ]
    sectors = [patch for patch in wheel.patches if isinstance(patch, Wedge)]
    assert len(sectors) == len(load_bundled().clusters(1))
    assert [to_hex(sector.get_facecolor()) for sector in sectors].count(HIT) == 1
    assert [to_hex(sector.get_edgecolor()) for sector in sectors].count(HIT) == 2
    assert [to_hex(sector.get_edgecolor()) for sector in sectors].count(EXTRA) == 1


def test_it_takes_the_answer_that_is_nearest_to_the_mean(data, tmp_path, capsys):
    others = [{**ANSWER, "name": name, "f1": f1} for name, f1 in (("best", 1.0), ("worst", 0.0), ("none", None))]
    answers, picture = tmp_path / "grpo.jsonl", tmp_path / "clip.png"
    answers.write_text("".join(f"{json.dumps(answer)}\n" for answer in (*others, ANSWER)))

    main(["--answers", str(answers), "--data", str(data), "--output", str(picture)])

    assert capsys.readouterr().out == f"{picture}\n"
    assert Image.open(picture).size == (1152, 1104)


def test_answers_without_a_score_cannot_be_drawn():
    with pytest.raises(ConfigError, match="none of the answers has a score"):
        choose_answer([{**ANSWER, "f1": None}], load_bundled())


def test_it_prefers_an_answer_on_which_one_wheel_disagrees(data):
    lexicon = load_bundled()
    answer = {
        "name": "clip",
        "target": ["sad", "surprised"],
        "openset": ["sorrowful", "amazed", "delighted"],
        "f1": 0.74,
    }
    scores = wheel_scores(answer, lexicon)
    assert scores == pytest.approx({1: 0.8, 2: 0.8, 3: 0.5, 4: 0.8, 5: 0.8})
    repeated = {**answer, "openset": [*answer["openset"], "sorrowful"]}

    assert choose_answer([ANSWER, repeated, answer, {**answer, "f1": 0.1}], lexicon) == (answer, 3)
    assert choose_answer([ANSWER, repeated], lexicon) == (ANSWER, 1)

    figure = draw_clip(answer, data, lexicon, 3)
    colours = {text.get_text(): text.get_color() for text in figure.texts}
    assert (colours["sorrowful"], colours["amazed"], colours["delighted"]) == (HIT, ABSENT, EXTRA)
    assert "80, 80, 50, 80, 80" in colours
    assert [text.get_text() for text in figure.axes[-1].texts] == [
        "wheel 3",
        "joyful:\nextra",
        "powerful:\nmissed",
        "sad:\nhit",
    ]
