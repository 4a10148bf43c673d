"""Cluster sets as bit lanes: against the lexicon's own masks, over several lanes, and with odd words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.wheels import Entry, Lexicon
from affectgpt_r1.metrics.functional import cluster_table as tables
from affectgpt_r1.metrics.functional.cluster_table import (
    cluster_sets,
    cluster_sets_of_runs,
    cluster_table,
    set_sizes,
    word_rows,
)

BUNDLED = load_lexicon("bundled")
# 70 clusters on each wheel: wheels begin and end within lanes, and one cluster set fills more than a lane.
WIDE = Lexicon(
    "wide",
    tuple(tuple(tuple(f"{level}{wheel}{k:02d}" for k in range(70)) for wheel in range(5)) for level in (1, 2)),
    {f"w{k}": Entry("", None, tuple(1 << (k + j) % 70 for j in range(5)), (0,) * 5) for k in range(70)},
)


def by_hand(words, lexicon, level):
    union = [0] * 5
    for word in words:
        union = [bits | mask for bits, mask in zip(union, lexicon.masks(word, level), strict=True)]
    return [bits.bit_count() for bits in union]


@pytest.mark.parametrize("lexicon", [BUNDLED, WIDE], ids=["bundled", "wide"])
@given(data=st.data(), level=st.sampled_from((1, 2)))
def test_sizes_are_those_of_python_integers(lexicon, data, level):
    word = st.sampled_from([*sorted(lexicon.entries)[:300], "zzz", " W1 ", "HAPPY", ""])
    sets = data.draw(st.lists(st.lists(word, max_size=6).map(tuple), max_size=6))
    table = cluster_table(lexicon, level)
    sizes = set_sizes(cluster_sets(sets, table), table)
    assert sizes.T.tolist() == [by_hand(words, lexicon, level) for words in sets]


@given(st.lists(st.tuples(st.sampled_from([("happy",), (), ("sad", "zzz"), ("W1", "happy")]), st.integers(1, 4))))
def test_runs_of_one_object_count_each_time(runs):
    table = cluster_table(BUNDLED, 1)
    sets = [words for words, length in runs for _ in range(length)]
    united = cluster_sets_of_runs(sets, table)
    assert united.tolist() == cluster_sets(sets, table).tolist()
    assert set_sizes(united, table).T.tolist() == [by_hand(words, BUNDLED, 1) for words in sets]


def test_all_clusters_of_a_wide_wheel():
    table = cluster_table(WIDE, 1)
    assert table.masks.shape[1] == 6
    assert set_sizes(cluster_sets([tuple(WIDE.entries), ()], table), table).T.tolist() == [[70] * 5, [0] * 5]


def test_spellings_are_remembered_up_to_a_bound(monkeypatch):
    rows = tables.RowIndex({"happy": 3})
    assert [rows["Happy "], rows["zzz"], rows["x" * 100_000]] == [3, 0, 0]
    assert sorted(rows) == ["Happy ", "happy", "zzz"]
    monkeypatch.setattr(tables, "_MOST_SPELLINGS", 3)
    assert rows["HAPPY"] == 3
    assert len(rows) == 3


def test_one_row_a_word():
    table = cluster_table(BUNDLED, 1)
    rows = word_rows([("happy", "zzz"), (), ("Happy",)], table)
    assert rows[0] == rows[2] != 0
    assert rows[1] == 0
    assert rows.dtype == np.int64
    assert cluster_table(BUNDLED, 1) is table
