"""Which clips an evaluation takes."""

from __future__ import annotations

import pytest

from affectgpt_r1.data.layouts.manifest import ManifestRow
from affectgpt_r1.data.splits import Splits, evaluated_rows
from affectgpt_r1.errors import ConfigError


def _rows(names) -> list[ManifestRow]:
    return [ManifestRow(name, ("happy",), row=2 + at) for at, name in enumerate(names)]


TEST = _rows(f"clip{at}" for at in range(40))
SPLITS = Splits(_rows(["a"]), _rows(["b", "c"]), TEST)


def test_every_clip_unless_a_number_is_given():
    assert evaluated_rows(SPLITS, "test", None) == TEST
    assert [row.name for row in evaluated_rows(SPLITS, "validation", None)] == ["b", "c"]
    assert evaluated_rows(SPLITS, "test", 1000) == TEST


def test_the_same_clips_whatever_stands_beside_them_in_the_files_order():
    chosen = [row.name for row in evaluated_rows(SPLITS, "test", 10)]
    turned = [row.name for row in evaluated_rows(Splits([], [], TEST[::-1]), "test", 10)]
    fewer = {row.name for row in evaluated_rows(SPLITS, "test", 5)}
    assert len(chosen) == 10
    assert chosen == turned[::-1] != [row.name for row in TEST[:10]]
    assert fewer < set(chosen)


@pytest.mark.parametrize(("split", "number", "named"), [("train", None, "split=train"), ("test", 0, "num_clips=0")])
def test_what_cannot_be_used_is_named(split, number, named):
    with pytest.raises(ConfigError, match=named):
        evaluated_rows(SPLITS, split, number)
