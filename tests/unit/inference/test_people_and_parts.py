"""`predict` on files with several people, long files, and files without anybody; how sure it is; its formats."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from affectgpt_r1.data.dataset import MediaSettings
from affectgpt_r1.data.media import faces
from affectgpt_r1.data.media.faces import Person, mouth_motion, track_people
from affectgpt_r1.data.media.subtitles import Cue
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import MediaError
from affectgpt_r1.inference import read_file
from affectgpt_r1.inference.label_file import NOBODY, Predictor, answer_fractions
from affectgpt_r1.inference.read_file import ReadOptions, Said, read_clips
from affectgpt_r1.inference.row_formats import formatter
from affectgpt_r1.types import Sampling

MEDIA = MediaSettings(num_frames=4, image_size=48, num_windows=2, window_seconds=1.0)
LEFT, RIGHT = (20.0, 20.0, 60.0, 60.0), (100.0, 24.0, 130.0, 54.0)


@pytest.fixture
def detector(monkeypatch):
    """``detector(boxes, ...)`` finds the boxes of one picture after the other."""

    def use(*boxes_of_pictures):
        answers = iter(boxes_of_pictures)
        monkeypatch.setattr(faces, "find_faces", lambda picture: list(next(answers)))

    return use


def pictures(number: int = 4) -> list[np.ndarray]:
    """A red face at the left with a moving mouth, a gray one at the right that stays as it is."""
    noise = np.random.default_rng(0).integers(0, 90, (40, 40, 3), np.uint8)
    result = []
    for index in range(number):
        picture = np.zeros((80, 160, 3), np.uint8)
        picture[20:60, 20:60] = noise + np.array([150, 0, 0], np.uint8)
        picture[50:58, 25:55] = 255 * (index % 2)
        picture[24:54, 100:130] = noise[:30, :30].T.reshape(30, 30, 3) + 60
        result.append(picture)
    return result


def test_people_are_followed_by_place_and_after_a_cut_by_looks(detector):
    before, after = pictures(2), [picture[:, ::-1].copy() for picture in pictures(2)]
    mirrored = [(160 - right, top, 160 - left, bottom) for left, top, right, bottom in (LEFT, RIGHT)]
    detector([LEFT, RIGHT], [LEFT, RIGHT], mirrored, mirrored[:1])
    large, small = track_people([*before, *after])
    assert large.boxes == {0: LEFT, 1: LEFT, 2: mirrored[0], 3: mirrored[0]}
    assert small.boxes == {0: RIGHT, 1: RIGHT, 2: mirrored[1]}


def test_a_still_is_searched_once(detector):
    detector([LEFT])
    (person,) = track_people(pictures(1) * 4)
    assert person.boxes == dict.fromkeys(range(4), LEFT)


def test_whose_mouth_moves_speaks():
    shown = pictures()
    moving, still = (Person(dict.fromkeys(range(4), box)) for box in (LEFT, RIGHT))
    assert mouth_motion(shown, moving) > 20 > abs(mouth_motion(shown, still))
    assert mouth_motion(shown, Person({0: LEFT})) == -float("inf")


@pytest.fixture
def film(write_video, tmp_path: Path, monkeypatch) -> Path:
    """A film in which a face is in two of four frames, another, larger one in one."""
    people = [Person({0: (8, 8, 24, 24), 2: (10, 8, 26, 24)}), Person({3: (30, 10, 44, 24)})]
    monkeypatch.setattr(read_file, "track_people", lambda pictures: people)
    return write_video(tmp_path / "clip.mp4", sound=True)


def read(path: Path, **options):
    return list(read_clips(path, "Hello.", MEDIA, ReadOptions(**options)))


def test_a_person_is_chosen_and_the_evidence_is_told(film: Path):
    (reading,) = read(film)
    assert reading.facts == {"faces": 1, "person": 1}
    assert reading.notes[0] == "a face in 2 of 4 frames, repeated for the others"
    assert [frame["time"] for frame in reading.evidence["frames"]] == [0.0, 0.0, 1.0, 1.0]
    assert reading.evidence["frames"][0]["box"] == [0.125, 0.167, 0.375, 0.5]
    starts, ends = zip(*reading.evidence["windows"], strict=True)
    assert (starts, ends) == (pytest.approx((0, 1), abs=0.1), pytest.approx((1, 2), abs=0.1))
    assert reading.evidence["text"] == {"said": "Hello.", "from": "--subtitle"}
    (second,) = read(film, person="2")
    assert second.notes[0] == "a face in 1 of 4 frames (of a passer-by?), repeated for the others"
    assert second.clip.frames[0].equal(second.clip.frames[3])
    assert not second.clip.frames.equal(reading.clip.frames)
    assert [one.facts["person"] for one in read(film, person="each")] == [1]  # not who passes by
    with pytest.raises(MediaError, match=r"clip\.mp4: --person 3: 2 faces are found"):
        read(film, person="3")


def test_two_people_are_answered_each(film: Path, monkeypatch, predictor):
    both = [Person(dict.fromkeys(range(4), box)) for box in ((8, 8, 24, 24), (30, 10, 44, 24))]
    monkeypatch.setattr(read_file, "track_people", lambda pictures: both)
    assert read(film)[0].notes[0] == "2 faces: answered for the largest; --person chooses another, or each"
    rows = list(predictor(options=ReadOptions(person="each")).rows(film, "Hello."))
    assert [(row["name"], row["person"], row["faces"]) for row in rows] == [("clip#1", 1, 2), ("clip#2", 2, 2)]


@pytest.fixture
def predictor(tiny_policy):
    sampling = Sampling(temperature=0.0, max_completion_length=4)

    def build(**options) -> Predictor:
        return Predictor(tiny_policy.eval(), MEDIA, sampling, load_lexicon("bundled"), contributions=False, **options)

    return build


def test_a_long_file_is_answered_part_by_part(write_video, tmp_path: Path, predictor):
    path = write_video(tmp_path / "talk.mkv", [index / 4 for index in range(20)], sound=True)  # 5 s, 2 s of sound
    said = Said((Cue(0.5, 1.5, "Early."), Cue(2.5, 3.5, "Late.")), "talk.srt")
    options = ReadOptions("centre", every=2.0)
    readings = list(read_clips(path, said, MEDIA, options))
    assert [(one.facts["start"], one.facts["end"]) for one in readings] == [(0.0, 2.0), (2.0, 4.0), (4.0, 4.751)]
    assert [one.clip.subtitle for one in readings] == ["Early.", "Late.", ""]
    assert readings[2].notes[-1] == "answered without text: nothing is said in this part"
    assert [frame["time"] for frame in readings[1].evidence["frames"]] == [2.0, 2.5, 3.0, 3.5]
    assert "audio" not in readings[2].clip.modalities
    rows = predictor(options=options, faces="centre").rows(path, said)
    assert [row["name"] for row in rows] == ["talk@0", "talk@2", "talk@4"]


def test_nobody_is_not_answered_where_a_person_is_required(write_video, tmp_path: Path, predictor):
    path = write_video(tmp_path / "landscape.mp4")
    row = predictor(require_person=True)(path, "")
    assert (row["answered"], row["labels"], row["notes"][-1]) == (False, [], NOBODY)
    assert "answered" not in predictor()(path, "")


@pytest.mark.parametrize(
    ("sound", "notes", "has_voice"),
    [
        (torch.zeros(32_000), ["its sound is silent"], False),
        (torch.randn(32_000, generator=torch.Generator().manual_seed(0)) / 9, ["no voice found in its sound"], False),
        ((torch.arange(32_000) * 2 * torch.pi * 150 / 16_000).sin() / 9, [], True),
    ],
)
def test_silence_and_noise_are_not_a_voice(sound, notes, has_voice):
    assert read_file._about_sound(sound.view(2, 16_000)) == (notes, has_voice)


def test_dark_pictures_are_noted():
    assert read_file._about_light([np.full((4, 4, 3), 9, np.uint8)] * 2) == ["its pictures are dark"]
    assert read_file._about_light(torch.full((2, 3, 4, 4), 20, dtype=torch.uint8)) == []


def test_confidence_is_the_fraction_of_answers_that_name_it():
    answers = [("Happy", "happy", "zzz"), ("joyful",), ("sad",), ()]
    sure = answer_fractions(answers, load_lexicon("bundled"))
    assert (sure["samples"], sure["labels"]) == (4, {"happy": 0.25, "joyful": 0.25, "sad": 0.25, "zzz": 0.25})
    lexicon = load_lexicon("bundled")
    assert sure["clusters"]["wheel1"] == {lexicon.cluster("happy", 1): 0.5, lexicon.cluster("sad", 1): 0.25}


def test_samples_are_the_same_when_repeated(film: Path, predictor):
    first, second = (predictor(num_samples=3)(film, "Hello.")["confidence"] for _ in range(2))
    assert first == second
    assert first["samples"] == 3


ROW = {
    "name": "clip", "file": "a/clip.mp4", "labels": ["happy", "proud"], "openset": ["happy", "proud", "happy"],
    "confidence": {"samples": 4, "labels": {"happy": 0.75, "calm": 0.5, "sad": 0.25}, "clusters": {}},
    "clusters": {"wheel1": ["joy"]}, "polarity": "positive", "notes": ["dark", "short"], "modalities": ["video"],
    "contributions": {"video": {"log_probability": 3.0, "per_token": 0.5, "labels_without": []}},
    "policy": {"checkpoint": "best.ckpt", "digest": "sha256:12"}, "synthetic": "trained on synthetic clips",
}  # fmt: skip


def test_rows_as_json_lines_csv_and_a_table():
    assert json.loads(formatter("jsonl")(ROW)) == ROW
    write = formatter("csv")
    (cells,) = csv.DictReader((write(ROW)).splitlines())
    assert (cells["openset"], cells["labels"], cells["notes"]) == ("happy, proud, happy", "happy, proud", "dark; short")
    assert (cells["confidence"], cells["digest"]) == ("happy 0.75, proud 0.00", "sha256:12")
    assert write(ROW).count("\n") == 1  # the header once
    assert [line.strip() for line in formatter("table")(ROW).splitlines()] == [
        "file                          emotions",
        "clip                          happy 75%, proud 0%  (positive)",
        "- may also be: calm 50%",
        "- without video: nothing; the answer is 0.50 nats per token less likely",
        "- dark",
        "- short",
        "- trained on synthetic clips",
    ]


def test_a_terminal_that_cannot_show_a_name():
    assert "caf\\xe9" in formatter("table", "ascii")({**ROW, "name": "café"})
    assert "caf\\u00e9" in formatter("jsonl", "ascii")({**ROW, "name": "café"})
