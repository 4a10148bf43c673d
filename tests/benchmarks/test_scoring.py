"""Scoring 8,192 completions on five wheels, against plain sets and against one hash a word; loading a lexicon.

Two workloads of answers of 2 to 5 words, one in ten capitalised or unknown. ``groups`` is what GRPO hands over: 1,024
clips with 8 completions each that share the clip's target (one object), some words far more frequent than others (the
r-th of the lexicon's forms, in random order, in proportion to 1 / r). ``apart`` is the harder one: a target for each
completion, and every form alike. CPU time, interleaved, medians. Every round scores fresh strings, as a parser hands
them over; then the same strings again, as the next reward does, whose hashes Python has stored by then.
"""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import accumulate, chain
from pathlib import Path

import pytest

from affectgpt_r1.emotion import published_lexicon as published
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.metrics.bootstrap import bootstrap_interval, bootstrap_intervals
from affectgpt_r1.metrics.corpus_report import _figures
from affectgpt_r1.metrics.functional.wheel_f1 import batch_mean_set_f1, code_sets, corpus_counts, score_table

NUM_COMPLETIONS, GROUP, ROUNDS = 8192, 8, 11
RECORD = Path("outputs", "bench").absolute() / "scoring.json"
VERSION = "mer2025"


def keep(**metrics: float | str) -> None:
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    RECORD.write_text(json.dumps({**known, **metrics}, indent=2) + "\n")


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
    """The floor: look every word up once, as tightly as Python does it, and do nothing else.

    The words of a target that several completions share are looked up once.
    """
    shared = {id(words): words for words in targets}.values()
    return [list(map(rows.get, chain.from_iterable(sets))) for sets in (predictions, shared)]


def corpus(lexicon, by_rank: bool) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Answers and targets of 2 to 5 words, nine in ten known to the lexicon, some capitalised or unknown."""
    generator = random.Random(0)
    known = sorted(lexicon.entries)
    generator.shuffle(known)
    weights = list(accumulate(1 / rank if by_rank else 1 for rank in range(1, len(known) + 1)))

    def word() -> str:
        chance = generator.random()
        drawn = generator.choices(known, cum_weights=weights)[0]
        return f"{drawn}zz" if chance > 0.95 else drawn.capitalize() if chance > 0.9 else drawn

    def sets() -> list[tuple[str, ...]]:
        return [tuple(word() for _ in range(generator.randint(2, 5))) for _ in range(NUM_COMPLETIONS)]

    return sets(), sets()


def grouped(targets):
    """The targets of the first clips, each shared by the completions of its group."""
    return [target for target in targets[: NUM_COMPLETIONS // GROUP] for _ in range(GROUP)]


def fresh(sets):
    return [tuple("".join(list(word)) for word in words) for words in sets]


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def test_scoring_against_plain_sets_and_the_floor():
    root = os.environ.get("AFFECTGPT_WHEELS")
    folder = Path(root) / VERSION if root else None
    lexicon = load_lexicon(VERSION if folder else "bundled")
    maps = raw_maps(lexicon, folder)
    tables = [{form: c for form in lexicon.entries if (c := lexicon.cluster(form, k))} for k in range(1, 6)]
    rows = {form: number for number, form in enumerate(lexicon.entries)}
    in_groups, apart = corpus(lexicon, by_rank=True), corpus(lexicon, by_rank=False)
    for predictions, targets in ((in_groups[0], grouped(in_groups[1])), apart):
        ours = batch_mean_set_f1(predictions, targets, lexicon)
        assert published_algorithm(predictions, targets, maps) == pytest.approx(ours, abs=1e-12)
        assert precompiled_sets(predictions, targets, tables) == pytest.approx(ours, abs=1e-12)

    contenders = {
        "published": lambda p, t: published_algorithm(p, t, maps),
        "sets": lambda p, t: precompiled_sets(p, t, tables),
        "ours": lambda p, t: batch_mean_set_f1(p, t, lexicon),
        "floor": lambda p, t: hash_every_word(p, t, rows),
    }
    groups = ratios("groups", times(contenders, in_groups[0], in_groups[1][: NUM_COMPLETIONS // GROUP], grouped))
    harder = ratios("apart", times(contenders, *apart, list))
    keep(
        lexicon=lexicon.name,
        ratio_vs_sets=groups["ratio_vs_sets"],
        ratio_to_floor=max(found[f"ratio_to_floor{when}"] for found in (groups, harder) for when in ("", "_again")),
        **{f"{name}_in_groups": value for name, value in groups.items()},
        **{f"{name}_apart": value for name, value in harder.items()},
    )
    assert groups["ratio_vs_precompiled_sets"] > harder["ratio_vs_precompiled_sets"] > 1


def times(contenders, predictions, targets, arrange):
    """CPU seconds of each contender by round, on fresh strings and on the same again."""
    spent: dict[tuple[str, str], list[float]] = {(name, when): [] for name in contenders for when in ("", "_again")}
    for _ in range(ROUNDS):
        for name, score in contenders.items():
            pair = fresh(predictions), arrange(fresh(targets))
            for when in ("", "_again"):
                spent[name, when].append(seconds(lambda score=score, pair=pair: score(*pair)))
    return spent


def ratios(workload: str, spent: dict[tuple[str, str], list[float]]) -> dict[str, float]:
    medians = {key: statistics.median(seconds_of[1:]) for key, seconds_of in spent.items()}
    found = {}
    for when in ("", "_again"):
        published, sets, ours, floor = (medians[name, when] for name in ("published", "sets", "ours", "floor"))
        found |= {
            f"ratio_vs_sets{when}": round(published / ours, 3),
            f"ratio_vs_precompiled_sets{when}": round(sets / ours, 3),
            f"ratio_to_floor{when}": round(ours / floor, 3),
        }
    print(f"\n{NUM_COMPLETIONS:,} completions x 5 wheels, {workload}, CPU ms:", end=" ")
    print(", ".join(f"{name}{when} {1000 * median:.2f}" for (name, when), median in medians.items()))
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


def published_table(predictions, targets, maps):
    """Every figure of `score_table` as published: each word is looked up again for each of the twelve."""
    forms, synonyms, wheels = maps

    def base(word):
        return min(forms.get(word.strip().lower(), ()), default=None)

    def synonym(word):
        return min(synonyms.get(base(word), ()), default=None)

    def cluster_on(wheel):
        def cluster(word):
            reachable = {name for own in forms.get(word.strip().lower(), ()) for name in synonyms.get(own, ())}
            return next((wheel[name] for name in sorted(reachable) if name in wheel), None)

        return cluster

    f1s = []
    for group in (base, synonym, *map(cluster_on, wheels)):
        precisions, recalls = [], []
        for pair in zip(predictions, targets, strict=True):
            answer, truth = ({name for word in words if (name := group(word)) is not None} for words in pair)
            if truth:
                hits = len(truth & answer)
                precisions.append(hits / len(answer) if answer else 0)
                recalls.append(hits / len(truth))
        precision, recall = statistics.fmean(precisions), statistics.fmean(recalls)
        f1s.append(2 * precision * recall / (precision + recall))
    return f1s


def test_every_figure_of_332_clips_against_the_published_way():
    root = os.environ.get("AFFECTGPT_WHEELS")
    if not root:
        pytest.skip("AFFECTGPT_WHEELS does not name the published lexicons")
    folder = Path(root) / VERSION
    lexicon = load_lexicon(VERSION)
    forms, synonyms, level1 = raw_maps(lexicon, folder)
    workbooks = [folder / f"wheel{wheel}.xlsx" for wheel in range(1, 6)]
    level2 = [published._wheel_map(published._read_wheel(workbook)).level2 for workbook in workbooks]
    predictions, targets = (sets[:332] for sets in corpus(lexicon, by_rank=True))
    ours = score_table(predictions, targets, lexicon)
    names = ["case1", "case2", *(f"case3_wheel{wheel}_level{level}" for level in (1, 2) for wheel in range(1, 6))]
    maps = forms, synonyms, [*level1, *level2]
    assert [ours[name]["f1"] for name in names] == pytest.approx(published_table(predictions, targets, maps), abs=1e-12)

    theirs, own = interleaved(
        lambda: published_table(predictions, targets, maps), lambda: score_table(predictions, targets, lexicon)
    )
    print(f"\n332 clips, CPU ms: published way {1000 * theirs:.1f}, ours {1000 * own:.2f}: {theirs / own:.1f}x")
    keep(corpus_ratio=round(theirs / own, 3))
    assert own < theirs


def test_one_resampling_for_all_figures_against_one_each():
    lexicon = load_lexicon("bundled")
    coded = (code_sets(sets[:1000], lexicon) for sets in corpus(lexicon, by_rank=False))
    figures = dict(_figures(corpus_counts(*coded, lexicon)))
    apart = {name: bootstrap_interval(own) for name, own in figures.items()}
    for name, of_figure in bootstrap_intervals(figures).items():
        assert of_figure["f1"] == pytest.approx(apart[name], abs=1e-12)

    each, once = interleaved(
        lambda: [bootstrap_interval(own) for own in figures.values()], lambda: bootstrap_intervals(figures), rounds=4
    )
    print(f"\n1,000 clips, {len(figures)} figures, CPU s: each by itself {each:.2f}, all at once {once:.2f}", end=": ")
    print(f"{each / once:.1f}x")
    keep(resampling_ratio=round(each / once, 3))
    assert once < each


def interleaved(*contenders: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Median CPU seconds of each contender, the first round left out."""
    spent = [[seconds(work) for work in contenders] for _ in range(rounds)][1:]
    return [statistics.median(column) for column in zip(*spent, strict=True)]


# ru_maxrss would hold the size of the process that forked this one.
SCORE = """
import sys
from affectgpt_r1.cli.score import main
main()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1], file=sys.stderr)
"""


@pytest.mark.parametrize("num_clips", [332, 20_000])
def test_whole_score_command(num_clips, tmp_path):
    """CPU and memory of `affectgpt-r1 score`, with torch installed or not: it is never imported."""
    lexicon = load_lexicon("bundled")
    for name, sets in zip(("predictions", "targets"), corpus(lexicon, by_rank=False), strict=True):
        rows = (f'{number},"{", ".join(sets[number % len(sets)])}"\n' for number in range(num_clips))
        (tmp_path / f"{name}.csv").write_text("name,openset\n" + "".join(rows))
    files = ["--predictions", str(tmp_path / "predictions.csv"), "--targets", str(tmp_path / "targets.csv")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", SCORE, *files], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"\nscore of {num_clips:,} clips, all intervals: {spent:.2f} s CPU, {int(done.stderr) / 1024:.0f} MB at most")
    keep(**{f"command_seconds_{num_clips}": round(spent, 3)})
