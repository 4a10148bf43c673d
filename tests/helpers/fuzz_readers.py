"""Fuzz one reader, guided by coverage, for some seconds of CPU time.

``python tests/helpers/fuzz_readers.py npz 900 OUT``; needs atheris. Failures do not end it: the first input of each
kind is written to OUT, and a line of JSON says what was run.
"""

import json
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

import atheris

sys.path[0] = str(Path(__file__).parents[1])  # of a script it is the script's own folder, below which is no `helpers`

LIBRARIES = ("affectgpt_r1", "helpers", "zipfile", "csv", "json", "pickletools", "openpyxl")


def main(target, seconds, output):
    import torch  # noqa: F401 -- before the instrumentation, which would take minutes over it
    import transformers  # noqa: F401

    with atheris.instrument_imports(include=list(LIBRARIES), enable_loader_override=False):
        from helpers import reader_targets

    output.mkdir(parents=True, exist_ok=True)
    seeds = output / "seeds"
    seeds.mkdir(exist_ok=True)
    for number, seed in enumerate(reader_targets.seeds(target)):
        (seeds / f"{number}").write_bytes(seed)
    corpus = output / "corpus"
    corpus.mkdir(exist_ok=True)
    scratch = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    folder = Path(scratch.name)
    counts = {"executions": 0, "accepted": 0}
    failures = {}
    start, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reader_targets.limit_memory()

    def end():
        report = {
            "target": target,
            "cpu_seconds": round(time.process_time() - start),
            **counts,
            "corpus": len(list(corpus.iterdir())),
            "failures": failures,
            "extra_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) // 1024,
        }
        (output / "report.json").write_text(json.dumps(report, indent=1))
        print(json.dumps(report), flush=True)
        scratch.cleanup()
        os._exit(bool(failures))

    def run_one(data):
        if time.process_time() - start > seconds:
            end()
        counts["executions"] += 1
        try:
            counts["accepted"] += reader_targets.check(target, data, folder)
        except Exception as error:
            own = [frame for frame in traceback.extract_tb(error.__traceback__) if "affectgpt_r1" in frame.filename]
            kind = (
                f"{type(error).__name__} {own[-1].filename.split('/')[-1]}:{own[-1].lineno}"
                if own
                else repr(error)[:80]
            )
            if kind not in failures:
                name = f"failure_{len(failures)}"
                (output / name).write_bytes(data)
                failures[kind] = f"{name}: {error!r}"[:300]
                print(kind, failures[kind], flush=True)

    flags = ["-rss_limit_mb=0", "-max_len=65536", "-timeout=100", "-print_final_stats=0", "-verbosity=0"]
    atheris.Setup([sys.argv[0], str(corpus), str(seeds), *flags], run_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
