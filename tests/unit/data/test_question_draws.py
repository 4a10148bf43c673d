"""Questions are drawn on each access, the same ones whenever the run is repeated; faces and frames together."""

from __future__ import annotations

from collections import Counter

import torch

from affectgpt_r1.data.collate import collate
from affectgpt_r1.data.dataset import ClipDataset, MediaSettings
from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.data.samplers import SampleKey

QUESTIONS = ("description", "ovlabel")
TEXT = MediaSettings(modalities=("text",))
ROWS = [ManifestRow(f"clip_{number}", ("sad",)) for number in range(50)]


def draws(tmp_path, epoch, questions=QUESTIONS):
    dataset = ClipDataset(ROWS, tmp_path, TEXT, seed=1, questions=questions)
    return [dataset[SampleKey(index, epoch)].question for index in range(len(dataset))]


def test_kinds_are_drawn_evenly_and_anew_in_every_epoch(tmp_path):
    first, second = draws(tmp_path, 0), draws(tmp_path, 1)
    counts = Counter(first + second)
    assert set(counts) == set(QUESTIONS)
    assert 30 < counts["ovlabel"] < 70
    assert first != second
    assert first == draws(tmp_path, 0)


def test_without_a_choice_nothing_is_drawn(tmp_path):
    assert set(draws(tmp_path, 0, ())) == {""}


def test_faces_and_frames_are_read_together(tmp_path, tiny_data_root):
    root = tiny_data_root(tmp_path)
    row = ManifestRow("sample_00", ("happy",), subtitle="a")
    clips = {}
    for visual in ("face", "frame", "both", "image"):
        media = MediaSettings(image_size=16, num_frames=4, visual=visual)
        clips[visual] = ClipDataset([row], root, media, seed=0)[SampleKey(0, 0)]
    assert clips["both"].frames.equal(clips["face"].frames)
    assert clips["both"].context_frames.equal(clips["frame"].frames)
    assert clips["image"].frames.shape == (1, 3, 16, 16)
    assert clips["image"].frames[0].equal(clips["frame"].frames[2])
    assert clips["face"].context_frames is None
    batch = collate([clips["both"], clips["both"]])
    assert batch.context_frames.shape == (2, 4, 3, 16, 16)
    assert batch.questions == ("", "")
    assert batch.context_frames.dtype == torch.uint8
