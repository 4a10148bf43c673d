"""The page of a scored file: numbers on the wheels, worst clips first, nothing of a file's text as markup."""

import re
from html.parser import HTMLParser

import pytest

from affectgpt_r1.cli.score import main
from affectgpt_r1.emotion.lexicon import load_lexicon

LEXICON = load_lexicon("bundled")
VOID = {"meta"}


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page(tmp_path):
    (tmp_path / "p<b>.csv").write_text('name,openset\na,"happy,sad"\nb,angry\n"<script>alert(1)</script>",zzz\n')
    (tmp_path / "t.csv").write_text('name,openset\na,happy\nb,happy\n"<script>alert(1)</script>","sad,<i>x"\n')
    files = ["--predictions", str(tmp_path / "p<b>.csv"), "--targets", str(tmp_path / "t.csv")]

    def write(level="1"):
        main([*files, "--level", level, "--html", str(tmp_path / "out" / "s.html")])
        return (tmp_path / "out" / "s.html").read_text("utf-8")

    return write


@pytest.mark.parametrize("level", ["1", "2"])
def test_it_is_whole_and_asks_for_nothing(page, level):
    parser = Tags()
    text = page(level)
    parser.feed(text)
    assert parser.open == []
    assert not {"script", "link", "img", "iframe", "i"} & set(parser.tags)
    assert not {name for name in parser.attributes if name.startswith("on") or name in ("src", "href")}
    assert "http" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<title>p&lt;b&gt;.csv against t.csv</title>" in text


def test_hits_are_counted_on_each_wheel(page):
    text = page()
    for wheel, figure in enumerate(text.split("<figure>")[1:], start=1):
        said = dict(re.findall(r"<title>(.+?): (\d of \d hit, \d) without a target", figure))
        # Of two happy targets one is hit; sad and angry are named by clips without that target.
        wanted = {"happy": "1 of 2 hit, 0", "sad": "0 of 1 hit, 1", "angry": "0 of 0 hit, 1"}
        assert {word: said[LEXICON.cluster(word, wheel)] for word in wanted} == wanted
    assert "Always “happy, sad, angry” (constant): F1" in text


def test_the_worst_clips_come_first(page):
    names = re.findall(r"<h3><bdi>(.*?)</bdi>, F1 ([\d.]+)</h3>", page())
    assert [name for name, _ in names] == ["b", "&lt;script&gt;alert(1)&lt;/script&gt;", "a"]
    assert [score for _, score in names][:2] == ["0.00", "0.00"]
