"""What the questions need of label files: read by column, checked by row, and refused in one line."""

from __future__ import annotations

import pytest

from affectgpt_r1.data.collate import collate
from affectgpt_r1.data.datamodule import ClipDataModule
from affectgpt_r1.data.dataset import ClipDataset, MediaSettings
from affectgpt_r1.data.layouts.annotations import QuestionSet
from affectgpt_r1.data.layouts.manifest import read_manifest
from affectgpt_r1.data.samplers import SampleKey
from affectgpt_r1.data.splits import SplitFiles, read_splits
from affectgpt_r1.errors import ConfigError, DataError

EVERY_KIND = (
    "description",
    "ovlabel",
    "onehot",
    "onehot_w_candidates",
    "sentiment",
    "valence",
    "preference",
    "reward",
)
HEADER = "name,openset,valence,a1,a2,preference,reward"
ROWS = (
    'a,sad,-0.25,"Low, slow voice.",A smile.,a1,accept',
    "b,happy,3,A frown.,A laugh.,a2,reject",
    "c,,0,x,y,same,accept",
    "d,angry,-1.5,x,y, a1 ,accept",
)
REASONS = "name,reason\na,A low voice.\nb,A laugh.\nc,A still face.\nd,Low brows.\n"
FILES = SplitFiles("labels.csv", "reasons.csv", test_labels="test.csv")


@pytest.fixture
def root(tmp_path):
    write(tmp_path)
    (tmp_path / "reasons.csv").write_text(REASONS, "utf-8")
    (tmp_path / "test.csv").write_text("name,openset,valence\ne,sad;happy,-9\nf,,1\n", "utf-8")
    return tmp_path


def write(folder, header=HEADER, rows=ROWS):
    (folder / "labels.csv").write_text("\n".join((header, *rows)) + "\n", "utf-8")


def training_rows(root, *kinds, valence_range=None, files=FILES):
    questions = QuestionSet(kinds, valence_range)
    splits = read_splits(root, files, val_fraction=0.0, subset=None, questions=questions)
    return splits._replace(train=sorted(splits.train, key=lambda row: row.name))


def test_every_kind_is_read_from_its_columns(root):
    splits = training_rows(root, *EVERY_KIND)
    shared = {"candidates": "angry, happy, neutral, sad", "lowest": -1.5, "highest": 3.0}
    rows = {row.name: row for row in splits.train}
    assert rows["a"].annotations == {
        "sentiment": "negative",
        "valence": -0.25,
        "a1": "Low, slow voice.",
        "a2": "A smile.",
        "preference": "a1",
        "reward": "accept",
        **shared,
    }
    assert [rows[name].annotations["sentiment"] for name in "abcd"] == ["negative", "positive", "neutral", "negative"]
    assert [rows[name].annotations["preference"] for name in "abcd"] == ["a1", "a2", "same", "a1"]
    assert [rows[name].annotations["reward"] for name in "abcd"] == ["accept", "reject", "accept", "accept"]
    assert (rows["c"].labels, rows["c"].reason) == (("neutral",), "A still face.")


def test_evaluation_files_need_not_have_the_columns_and_set_no_bounds(root):
    shared = {"candidates": "angry, happy, neutral, sad", "lowest": -1.5, "highest": 3.0}
    test = training_rows(root, *EVERY_KIND).test
    assert [row.annotations for row in test] == [
        {"sentiment": "negative", "valence": -9.0, **shared},
        {"sentiment": "positive", "valence": 1.0, **shared},
    ]
    assert [row.labels for row in test] == [("sad;happy",), ()]


def test_without_questions_further_columns_are_not_looked_at(root):
    write(root, "name,openset,valence", ("a,sad,high", "b,,"))
    assert [row.annotations for row in training_rows(root).train] == [{}, {}]


def test_only_the_kinds_that_are_asked_are_read(root):
    assert [row.annotations for row in training_rows(root, "sentiment", "onehot").train] == [
        {"sentiment": "negative"},
        {"sentiment": "positive"},
        {"sentiment": "neutral"},
        {"sentiment": "negative"},
    ]


def test_bounds_may_be_wider_than_the_scores(root):
    row = training_rows(root, "valence", valence_range=[-3, 3]).train[0]
    assert (row.annotations["lowest"], row.annotations["highest"]) == (-3.0, 3.0)


def test_a_subset_leaves_candidates_and_bounds_alone(root):
    questions = QuestionSet(("valence", "onehot_w_candidates"))
    full = read_splits(root, FILES, val_fraction=0.25, subset=None, questions=questions)
    part = read_splits(root, FILES, val_fraction=0.25, subset=1, questions=questions)
    for rows in (full.train, full.validation, part.train):
        assert {row.annotations["candidates"] for row in rows} == {"angry, happy, neutral, sad"}
        assert {(row.annotations["lowest"], row.annotations["highest"]) for row in rows} == {(-1.5, 3.0)}


@pytest.mark.parametrize(
    ("kinds", "header", "rows", "labels"),
    [
        (("onehot", "valence"), "name,discrete,valence", ("a,sad,-2", "b,happy,4"), [("sad",), ("happy",)]),
        (("preference",), "name,a1,a2,preference", ("a,x,y,a1", "b,x,y,same"), [(), ()]),
        (("valence", "sentiment"), "name,valence", ("a,-2", "b,4"), [(), ()]),
        (("reward",), "name,reward", ("a,accept", "b,reject"), [(), ()]),
    ],
)
def test_published_files_are_read_as_they_come(root, kinds, header, rows, labels):
    """MER's ``track1_train_disdim.csv`` and ``track3_emoprefer.csv``, and scores of CMU-MOSI's kind."""
    write(root, header, rows)
    files = SplitFiles("labels.csv", "reasons.csv")
    assert [row.labels for row in training_rows(root, *kinds, files=files).train] == labels


@pytest.mark.parametrize(
    ("kinds", "header", "rows", "message"),
    [
        ((), "name,valence", ("a,1",), r"labels\.csv: lacks the column openset; it has name, valence"),
        (("ovlabel", "valence"), "name,valence", ("a,1",), r"lacks the column openset"),
        (
            ("sentiment",),
            "name,openset",
            ("a,sad",),
            r"labels\.csv: lacks the column valence, which the question 'sentiment' needs; add it, or take sentiment "
            r"out of data\.questions",
        ),
        (("preference",), "name,a1", ("a,x",), r"lacks the column a2, preference, which the question 'preference'"),
        (
            ("valence",),
            "name,valence",
            ("a,1", "b,"),
            r"labels\.csv: row 3 \(b\): valence is '' in place of a number, which the question 'valence' needs; "
            r"correct it, take the row out, or take valence out of data\.questions",
        ),
        (("valence",), "name,valence", ("a,high",), r"row 2 \(a\): valence is 'high'"),
        (("sentiment",), "name,valence", ("a,inf",), r"row 2 \(a\): valence is 'inf'"),
        (("preference",), "name,a1,a2,preference", ("a,x,y,a3",), r"preference is 'a3' in place of a1, a2, same"),
        (("preference",), "name,a1,a2,preference", ("a,x, ,a1",), r"row 2 \(a\): a2 is empty"),
        (("reward",), "name,reward", ("a,yes",), r"reward is 'yes' in place of accept, reject"),
        (("onehot_w_candidates",), "name,openset", ('a,"sad,angry"',), r"there are 2 labels in place of one"),
    ],
)
def test_a_file_that_does_not_answer_every_question_is_refused(root, kinds, header, rows, message):
    write(root, header, rows)
    with pytest.raises(DataError, match=message):
        training_rows(root, *kinds)


@pytest.mark.parametrize("kind", ["description", "reward"])
def test_a_description_is_needed_where_it_is_asked_for(root, kind):
    with pytest.raises(DataError, match=rf"row 2 \(a\): there is no reason .*{kind}"):
        training_rows(root, kind, files=SplitFiles("labels.csv"))
    (root / "reasons.csv").write_text(REASONS.replace("A laugh.", " "), "utf-8")
    with pytest.raises(DataError, match=r"row 3 \(b\): there is no reason \(data\.train_reasons\)"):
        training_rows(root, kind)


def test_scores_beyond_the_bounds_are_refused(root):
    with pytest.raises(DataError, match=r"labels\.csv: valence runs from -1\.5 to 3, beyond .*\[-1, 3\]; widen it"):
        training_rows(root, "valence", valence_range=[-1, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"questions": ["mood"]}, r"data\.questions=\['mood'\]: choose among description, .*, reward"),
        ({"valence_range": [3, -3]}, r"data\.valence_range=\[3, -3\]: give the lowest and the highest score"),
        ({"valence_range": [1]}, r"data\.valence_range"),
        ({"valence_range": [1, 5]}, r"data\.valence_range"),
    ],
)
def test_settings_are_checked_before_files(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        ClipDataModule(str(tmp_path), "labels.csv", **options)


def test_a_batch_carries_what_its_questions_need(root):
    rows = training_rows(root, "valence").train
    dataset = ClipDataset(rows, root, MediaSettings(modalities=("text",)), seed=0, questions=("valence",))
    batch = collate([dataset[SampleKey(index, 0)] for index in (1, 0)])
    assert batch.annotations == (
        {"valence": 3.0, "lowest": -1.5, "highest": 3.0},
        {"valence": -0.25, "lowest": -1.5, "highest": 3.0},
    )
    plain = read_manifest(root, "labels.csv", subtitles=None)
    assert collate([ClipDataset(plain, root, dataset.media, seed=0)[SampleKey(0, 0)]]).annotations == ()
    assert len({*rows, *plain}) == len(rows) + len(plain)
