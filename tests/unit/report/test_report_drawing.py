import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.report.curves import Quantity, band_of, curve_figures, ticks
from affectgpt_r1.report.page import environment
from affectgpt_r1.report.queries import Sweep, Trial
from affectgpt_r1.report.wheel_drawing import overlap, wheel

LEXICON = load_lexicon("bundled")
QUANTITY = Quantity("val/f1", "F", "points", 100.0)


class Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def render(template, **values):
    return environment().from_string(template).render(values)


def wheel_svg(clusters, words=None):
    drawing = wheel(clusters, LEXICON, words)
    return render("{% from 'completions.html.j2' import wheel %}{{ wheel(drawing) }}", drawing=drawing)


def parse(markup):
    parser = Text()
    parser.feed(markup)
    parser.close()
    return parser


SHOWN = st.text(st.characters(blacklist_categories=("Cs", "Cc")))


@given(SHOWN, SHOWN)
def test_text_and_attributes_come_back_as_they_were(text, attribute):
    parser = parse(render('<p title="{{ attribute }}">{{ text }}</p>', text=text, attribute=attribute))
    assert parser.tags == [("p", {"title": attribute})]
    assert parser.text == text


def test_templates_escape_replace_control_characters_and_know_every_name():
    assert render("{{ text }}", text="a\x00b\x1b\ud800\x85<") == "a\ufffdb\ufffd\ufffd\ufffd&lt;"
    assert render("{% macro bold(x) %}<b>{{ x }}</b>{% endmacro %}{{ bold(text) }}", text="&") == "<b>&amp;</b>"
    assert render("{{ x }}", x=1 / 3) == "0.33333"
    with pytest.raises(UndefinedError):
        render("{{ absent }}")


def test_wheel_marks_hits_misses_and_extra():
    clusters = overlap(("happy", "furious", "qwerty"), ("joyful", "sad"), LEXICON)
    assert clusters == (("joy",), ("sadness",), ("anger",))
    paths = [attributes["class"] for tag, attributes in parse(wheel_svg(clusters)).tags if tag == "path"]
    assert dict(zip(LEXICON.clusters(1), paths, strict=True)) == {
        "anger": "extra", "anticipation": "empty", "disgust": "empty", "fear": "empty", "joy": "hit",
        "sadness": "miss", "surprise": "empty", "trust": "empty",
    }  # fmt: skip
    labels = re.findall(
        r"<text[^>]*>(\w+)<tspan[^>]*>(.*?)</tspan>", wheel_svg(clusters, ("happy", "furious", "joyful"))
    )
    assert labels == [("anger", "furious"), ("joy", "happy, joyful"), ("sadness", "")]


def test_sectors_fill_the_wheel_without_overlap():
    paths = [
        attributes["d"] for tag, attributes in parse(wheel_svg(overlap((), (), LEXICON))).tags if "d" in attributes
    ]
    starts = [tuple(map(float, re.match(r"M(\S+) (\S+?)A", path).groups())) for path in paths]
    assert len({*starts}) == 8
    assert all(x * x + y * y == pytest.approx(1600, rel=1e-3) for x, y in starts)


def sweep_with(*curves):
    trials = [
        Trial("dual", seed, f"run{seed}", {"test/f1": 0.5}, (), curves={"val/f1": curve})
        for seed, curve in enumerate(curves, start=1)
    ]
    return Sweep("reward", "none", True, tuple(trials), (), ())


def test_band_is_mean_lowest_and_highest_over_the_steps_of_every_seed():
    band = band_of(sweep_with({10: 0.2, 20: 0.4, 30: 0.9}, {10: 0.4, 20: 0.5}), "dual", QUANTITY)
    assert band.steps == [10, 20]
    assert band.mean == pytest.approx([30, 45])
    assert band.low == pytest.approx([20, 40])
    assert band.high == pytest.approx([40, 50])


def test_long_curves_are_averaged_over_equal_stretches():
    band = band_of(sweep_with({step: step / 100 for step in range(1, 81)}), "dual", QUANTITY)
    assert len(band.steps) == 40
    assert band.steps[:2] == [1.5, 3.5]
    assert band.mean[:2] == pytest.approx([1.5, 3.5])


def test_one_shared_step_is_no_curve_and_what_nobody_logged_is_named():
    assert band_of(sweep_with({1: 0.1, 2: 0.2}, {2: 0.1, 3: 0.2}), "dual", QUANTITY) is None
    assert band_of(sweep_with({1: 0.1}), "other", QUANTITY) is None
    sweep = sweep_with({1: 0.1, 2: 0.2})
    assert "KL to the starting policy" in curve_figures(sweep)[1]
    sweep.trials[0].curves["val/kl"] = {1: 0.1, 2: 0.2}  # at beta 0 the validation alone has it
    figures, absent = curve_figures(sweep)
    assert figures[-1]["title"] == "KL to the starting policy (validation)"
    assert not [title for title in absent if title.startswith("KL")]


def test_a_flat_curve_is_drawn():
    (figure,), _ = curve_figures(sweep_with({1: 0.0, 2: 0.0}))
    (panel,) = figure["panels"]
    assert [point.split(",")[1] for point in panel["mean"].split()] == ["53.0", "53.0"]


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_ticks_are_few_and_inside(low, width):
    marks = ticks(low, low + width)
    assert 1 <= len(marks) <= 5
    assert all(low - 1e-6 * width - 1e-9 <= tick <= low + width * (1 + 1e-6) + 1e-9 for tick in marks)
