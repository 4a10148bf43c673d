"""Scoring 8,192 completions on five wheels, against plain sets and against one hash a word; loading a lexicon.

CPU time, interleaved, medians. Every round scores fresh strings, as a parser hands them over; then the same strings
again, whose hashes Python has stored by then.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch

from affectgpt_r1.config import REPOSITORY
from affectgpt_r1.emotion import published
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.functional.wheel import batch_mean_set_f1

NUM_COMPLETIONS, ROUNDS = 8192, 11
RECORD = REPOSITORY / "outputs" / "bench" / "scoring.json"
VERSION = "mer2025"


def keep(**figures: float | str) -> None:
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    RECORD.write_text(json.dumps({**known, **figures}, indent=2) + "\n")


def raw_maps(lexicon, folder):
    """Bases of each form, wheel words of each base, and cluster of each wheel word on each wheel."""
    if folder is not None:
        wheels = [published._wheel_map(published._read_wheel(folder / f"wheel{k}.xlsx")).level1 for k in range(1, 6)]
        return published._read_forms(folder / "format.csv"), published._read_synonyms(folder / "synonym.xlsx"), wheels
    forms = {form: {entry.base} for form, entry in lexicon.entries.items()}
    bases = {base for words in forms.values() for base in words}
    wheels = [{base: c for base in bases if (c := lexicon.cluster(base, wheel))} for wheel in range(1, 6)]
    return forms, {base: {base} for base in bases}, wheels


def published_algorithm(predictions, targets, maps):
    """Set F1 of each sample, averaged over the wheels of its target; each word is mapped wheel by wheel."""
    forms, synonyms, wheels = maps

    def clusters(words, wheel):
        found = set()
        for word in words:
            candidates = {name for base in forms.get(word.strip().lower(), ()) for name in synonyms.get(base, ())}
            for candidate in sorted(candidates):
                if candidate in wheel:
                    found.add(wheel[candidate])
                    break
        return found

    return _scores(predictions, targets, wheels, clusters)


def precompiled_sets(predictions, targets, tables):
    """The same with one dictionary a wheel from form to cluster: what plain Python can do at best."""

    def clusters(words, table):
        return {cluster for word in words if (cluster := table.get(word.strip().lower())) is not None}

    return _scores(predictions, targets, tables, clusters)


def _scores(predictions, targets, wheels, clusters):
    scores = []
    for prediction, target in zip(predictions, targets, strict=True):
        f1s = []
        for wheel in wheels:
            truth = clusters(target, wheel)
            if truth:
                answer = clusters(prediction, wheel)
                f1s.append(2 * len(truth & answer) / (len(truth) + len(answer)))
        scores.append(sum(f1s) / len(f1s) if f1s else None)
    return scores


def hash_every_word(predictions, targets, rows):
    """The floor: look every word up once, as tightly as Python does it, and do nothing else."""
    return [list(map(rows.get, chain.from_iterable(sets))) for sets in (predictions, targets)]


def corpus(lexicon) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Answers and targets of 2 to 5 words, nine in ten known to the lexicon, some capitalised or unknown."""
    generator = random.Random(0)
    known = sorted(lexicon.entries)

    def word() -> str:
        chance = generator.random()
        drawn = generator.choice(known)
        return f"{drawn}zz" if chance > 0.95 else drawn.capitalize() if chance > 0.9 else drawn

    def sets() -> list[tuple[str, ...]]:
        return [tuple(word() for _ in range(generator.randint(2, 5))) for _ in range(NUM_COMPLETIONS)]

    return sets(), sets()


def fresh(sets):
    return [tuple("".join(list(word)) for word in words) for words in sets]


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def test_scoring_against_plain_sets_and_the_floor():
    torch.set_num_threads(1)
    root = os.environ.get("AFFECTGPT_WHEELS")
    folder = Path(root) / VERSION if root else None
    lexicon = load_lexicon(VERSION if folder else "bundled")
    maps = raw_maps(lexicon, folder)
    tables = [{form: c for form in lexicon.entries if (c := lexicon.cluster(form, k))} for k in range(1, 6)]
    rows = {form: number for number, form in enumerate(lexicon.entries)}
    predictions, targets = corpus(lexicon)
    ours = batch_mean_set_f1(predictions, targets, lexicon)
    for slow in (published_algorithm(predictions, targets, maps), precompiled_sets(predictions, targets, tables)):
        assert slow == pytest.approx(ours, abs=1e-12)

    contenders = {
        "published": lambda p, t: published_algorithm(p, t, maps),
        "sets": lambda p, t: precompiled_sets(p, t, tables),
        "ours": lambda p, t: batch_mean_set_f1(p, t, lexicon),
        "floor": lambda p, t: hash_every_word(p, t, rows),
    }
    fresh_times: dict[str, list[float]] = {name: [] for name in contenders}
    again_times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, score in contenders.items():
            pair = fresh(predictions), fresh(targets)
            fresh_times[name].append(seconds(lambda score=score, pair=pair: score(*pair)))
            again_times[name].append(seconds(lambda score=score, pair=pair: score(*pair)))
    figures = ratios("fresh", fresh_times)
    figures |= {f"{name}_again": value for name, value in ratios("the same strings again", again_times).items()}
    keep(lexicon=lexicon.name, **{name: round(value, 3) for name, value in figures.items()})
    assert figures["ratio_vs_precompiled_sets"] > 1


def ratios(strings: str, times: dict[str, list[float]]) -> dict[str, float]:
    medians = {name: statistics.median(spent[1:]) for name, spent in times.items()}
    found = {
        "ratio_vs_sets": medians["published"] / medians["ours"],
        "ratio_vs_precompiled_sets": medians["sets"] / medians["ours"],
        "ratio_to_floor": medians["ours"] / medians["floor"],
    }
    print(f"\n{NUM_COMPLETIONS:,} completions x 5 wheels, {strings}, CPU ms:", end=" ")
    print(", ".join(f"{name} {1000 * median:.2f}" for name, median in medians.items()))
    print(", ".join(f"{name} {value:.2f}" for name, value in found.items()))
    return found


def test_loading_the_compiled_lexicon_against_the_spreadsheets(tmp_path, monkeypatch):
    root = os.environ.get("AFFECTGPT_WHEELS")
    if not root:
        pytest.skip("AFFECTGPT_WHEELS does not name the published lexicons")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = Path(root) / VERSION
    assert load_lexicon(VERSION) == published._read_folder(folder, VERSION)
    pairs = [
        (seconds(lambda: published._read_folder(folder, VERSION)), seconds(lambda: load_lexicon(VERSION)))
        for _ in range(5)
    ][1:]
    read, loaded = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"\nspreadsheets {1000 * read:.0f} ms, compiled {1000 * loaded:.1f} ms: {read / loaded:.1f}x")
    keep(load_ratio=round(read / loaded, 3), load_milliseconds=round(1000 * loaded, 3))
    assert loaded < read
