"""Run one measurement of the GRPO benchmark in its own process and prints it as JSON.

``python grpo_bench.py speed i ROUNDS``, ``python grpo_bench.py memory ours|trl i``, ``python grpo_bench.py encoders``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from grpo_workload import NUM_GENERATIONS, NUM_PROMPTS, WORKLOADS, OurSystem, build, matmul_rate, necessary_flops

WARM_UPS = 2


def speed(name: str, rounds: int, folder: Path) -> dict[str, object]:
    """Rounds of stock TRL, ours, compact TRL, one after the other in one process."""
    from grpo_trl import build_trainer, clock_phases, score_completions_only

    policy, batch = build(WORKLOADS[name], folder)
    records: dict[str, list[dict[str, float]]] = {"stock": [], "ours": [], "compact": []}
    rates: list[float] = []

    def between(seconds: float) -> None:
        arm = "stock" if len(records["stock"]) == len(records["compact"]) else "compact"
        records[arm].append({"step": seconds, **phases})
        phases.clear()
        if arm == "stock":
            records["ours"].append(ours.step())
        else:
            rates.append(matmul_rate())
        score_completions_only(arm == "stock")

    trainer = build_trainer(policy, batch, folder, 2 * (rounds + WARM_UPS), between)
    phases = clock_phases(trainer)
    ours = OurSystem(policy, batch)
    score_completions_only(False)
    trainer.train()
    kept = {arm: steps[WARM_UPS:] for arm, steps in records.items()}
    return {
        **kept,
        "rate": sorted(rates[WARM_UPS:])[len(rates[WARM_UPS:]) // 2],
        "flops": necessary_flops(WORKLOADS[name]),
    }


def memory(system: str, name: str, folder: Path) -> dict[str, float]:
    """Growth of the resident set over the loaded process, in MB, in two steps."""
    policy, batch = build(WORKLOADS[name], folder)
    if system == "ours":
        ours = OurSystem(policy, batch)
        loaded = reset_peak()
        for _ in range(2):
            ours.step()
    else:
        from grpo_trl import build_trainer

        trainer = build_trainer(policy, batch, folder, 2, lambda _: None)
        del policy
        loaded = reset_peak()
        trainer.train()
    return {"loaded": loaded, "growth": resident("VmHWM") - loaded}


def encoders(folder: Path) -> dict[str, float]:
    """CPU seconds of the encoders once per prompt, and once per completion."""
    from affectgpt_r1.types import ClipBatch

    policy, text = build(WORKLOADS["short"], folder)

    def seconds(count: int) -> float:
        clips = ClipBatch(
            names=text.names,
            subtitles=text.subtitles,
            labels=text.labels,
            reasons=text.reasons,
            modalities=text.modalities,
            frames=torch.randint(0, 256, (count, 8, 3, 48, 48), dtype=torch.uint8),
            waveforms=torch.rand(count, 8, 32_000) - 0.5,
        )
        runs = []
        for _ in range(4):
            started = time.process_time()
            with torch.no_grad():
                policy.encoders(clips)
            runs.append(time.process_time() - started)
        return sorted(runs)[1]

    return {"once_a_prompt": seconds(NUM_PROMPTS), "once_a_completion": seconds(NUM_PROMPTS * NUM_GENERATIONS)}


def resident(key: str) -> float:
    """``VmRSS`` or ``VmHWM`` of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def reset_peak() -> float:
    """Forget the peak so far; the present resident set in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        kind, *rest = sys.argv[1:]
        if kind == "speed":
            result = speed(rest[0], int(rest[1]), Path(scratch))
        else:
            result = memory(*rest, Path(scratch)) if kind == "memory" else encoders(Path(scratch))
    print(json.dumps(result))
