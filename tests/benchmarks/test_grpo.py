"""A GRPO step against TRL's: CPU time of interleaved steps, distance to the floor, and growth of memory.

Stock TRL scores prompt positions with the head too on a CPU; ``compact`` is TRL patched to score completions only. Each
measurement runs in its own process on one thread. ``AFFECTGPT_BENCH_ROUNDS`` sets the measured rounds (5).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = int(os.environ.get("AFFECTGPT_BENCH_ROUNDS", "5"))
RECORD = Path("outputs", "bench").absolute() / "grpo.json"
LEAST = {"i": (3.0, 2.5), "ii": (6.0, 5.0), "iii": (8.0, 2.7), "short": (1.0, 1.0)}
MOST_GROWTH = {"i": 1 / 2.4, "ii": 1 / 3.8, "iii": 1 / 6, "large_vocabulary": 1 / 8}


def measure(*arguments: str) -> dict:
    """The last line that a measurement prints."""
    script = Path(__file__).with_name("grpo_bench.py")
    run = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False, timeout=7200
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def keep(name: str, **metrics: float) -> None:
    """Add metrics of a workload to ``outputs/bench/grpo.json``."""
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    known[name] = {**known.get(name, {}), **{key: round(value, 3) for key, value in metrics.items()}}
    RECORD.write_text(json.dumps(known, indent=2) + "\n")


def phase_seconds(steps: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(step.get(key, 0.0) for step in steps) for key in steps[0]}


def phase_ratios(theirs: dict[str, float], ours: dict[str, float]) -> dict[str, float]:
    return {
        "generate": theirs["generate"] / (ours["prefill"] + ours["decode"]),
        "reference": theirs["reference"] / ours["reference"],
        "forward + backward": (theirs["forward"] + theirs["backward"]) / (ours["forward"] + ours["backward"]),
    }


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", list(LEAST))
def test_a_step_is_faster_than_trl(name):
    result = measure("speed", name, str(ROUNDS))
    ours = phase_seconds(result["ours"])
    floor = result["flops"] / result["rate"]
    metrics = {"ratio_to_floor": ours["step"] / floor, "seconds": ours["step"], "floor_seconds": floor}
    print(f"\n{name}: ours {ours['step']:.2f} CPU-s, floor {floor:.2f} at {result['rate'] / 1e9:.0f} GFLOP/s")
    print(f"  {metrics['ratio_to_floor']:.2f} times the floor; phases", {key: round(ours[key], 3) for key in ours})
    for arm in ("stock", "compact"):
        pairs = zip(result[arm], result["ours"], strict=True)
        metrics[f"ratio_{arm}"] = statistics.median(trl["step"] / own["step"] for trl, own in pairs)
        theirs = phase_seconds(result[arm])
        ratios = {key: round(value, 2) for key, value in phase_ratios(theirs, ours).items()}
        print(f"  TRL {arm} {theirs['step']:.2f} CPU-s: {metrics[f'ratio_{arm}']:.2f}x; phases {ratios}")
        metrics |= {f"{arm}_{key}": value for key, value in ratios.items()}
    keep(name, **metrics)
    assert metrics["ratio_stock"] >= LEAST[name][0]
    assert metrics["ratio_compact"] >= LEAST[name][1]


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", list(MOST_GROWTH))
def test_memory_grows_less_than_trls(name):
    ours, theirs = (measure("memory", system, name) for system in ("ours", "trl"))
    ratio = ours["growth"] / theirs["growth"]
    print(f"\n{name}: resident set grows by {ours['growth']:.0f} MB, TRL's by {theirs['growth']:.0f}: {ratio:.3f}")
    keep(name, rss_growth_ratio=ratio, rss_growth_mb=ours["growth"], trl_rss_growth_mb=theirs["growth"])
    assert ratio <= MOST_GROWTH[name]


@pytest.mark.timeout(0)
def test_encoders_run_once_per_prompt():
    """TRL has no audio or video; its step with media encoded for every completion, as it does images."""
    seconds = measure("encoders")
    known = json.loads(RECORD.read_text())["i"] if RECORD.is_file() else {}
    if "ratio_stock" not in known:
        pytest.skip("needs the speed of workload i")
    theirs = known["ratio_stock"] * known["seconds"] + seconds["once_a_completion"]
    ratio = theirs / (known["seconds"] + seconds["once_a_prompt"])
    once = {key: f"{value:.2f} CPU-s {key.replace('_', ' ')}" for key, value in seconds.items()}
    print(f"\nencoders {once['once_a_completion']}, {once['once_a_prompt']}")
    print(f"workload i with media: {ratio:.2f}x (text alone {known['ratio_stock']:.2f}x)")
    keep("media", ratio_stock=ratio, **{f"encoders_{key}": value for key, value in seconds.items()})
    assert ratio > known["ratio_stock"]
