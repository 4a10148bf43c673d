"""MER2024's scores by hand, and the files of its groups of synonyms."""

import zipfile

import numpy as np
import pytest

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.errors import DataError
from affectgpt_r1.metrics.functional.grouped_sets import by_groups, by_lexicon, grouped_scores
from affectgpt_r1.metrics.grouping_files import read_groupings


def test_scores_by_hand():
    groups = [["Joyful", "glad", "happy"], ["angry", "mad"]]
    predictions = [("GLAD", "calm", "Happy"), (), ("mad", "sad"), ("sad",)]
    targets = [("happy",), ("sad",), ("angry", "joyful"), ()]
    scores = grouped_scores(predictions, targets, [by_groups(groups)] * 4)
    assert scores.accuracy_s == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)
    assert scores.recall_s == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert scores.mean == pytest.approx((scores.accuracy_s + scores.recall_s) / 2)
    assert np.isnan(grouped_scores([("sad",)], [()], [by_groups([])])).all()


def test_the_lexicons_synonyms():
    lexicon = load_lexicon("bundled")
    first = by_lexicon(lexicon)
    word = next(form for form, entry in lexicon.entries.items() if entry.synonym and entry.synonym != form)
    assert first(word) == lexicon.synonym(word) != word
    assert first("zzz") == "zzz"


def write(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        np.save(folder / f"{name}.npy", np.array(text))
    return folder


def test_folders_and_archives(tmp_path):
    folder = write(tmp_path / "groups", a="[['joyful', 'happy'], ['calm']]", b="[]", c="[['rest assured']]")
    archive = tmp_path / "groups.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, f"openset-synonym/{path.name}")
    for path in (folder, archive):
        assert read_groupings(path, ["c", "a", "b"]) == [[("rest assured",)], [("joyful", "happy"), ("calm",)], []]
        with pytest.raises(DataError, match=r"no groups for 1 of 2 clips, such as d\.npy"):
            read_groupings(path, ["a", "d"])


def test_damaged_groups(tmp_path):
    folder = write(tmp_path / "groups", a=3, c=[["x"]])
    (folder / "b.npy").write_bytes(b"no array")
    for name, message in (
        ("a", "an array of shape .* in place of one text"),
        ("b", "not an array"),
        ("c", "an array of shape .* in place of one text"),
    ):
        with pytest.raises(DataError, match=rf"{name}\.npy: cannot be read \({message}.*fetch it again"):
            read_groupings(folder, [name])
    with pytest.raises(DataError, match="there is no such folder or archive"):
        read_groupings(tmp_path / "none", ["a"])
    with pytest.raises(DataError, match=r"neither a folder nor a zip archive of NAME\.npy files"):
        read_groupings(folder / "b.npy", ["b"])
