"""Open a page to try policies, compare answers and judge them: ``affectgpt-r1 app``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.cli.command import lazy, run_command
from affectgpt_r1.errors import ConfigError

serve = lazy("inference.app.serve:serve")

HOST, PORT = "127.0.0.1", 7860
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command until Ctrl-C; bad input is one line and exit code 2."""
    run_command(_parser(), app, arguments)


def app(options: argparse.Namespace) -> None:
    """Serve the page. What is uploaded is removed at the end."""
    if options.max_upload <= 0:
        raise ConfigError(f"--max-upload {options.max_upload}: give megabytes, above 0")
    if options.host not in LOOPBACK:
        print(f"anybody who reaches {options.host} can use this page and see its clips", file=sys.stderr)
    # Before Gradio and torch are imported, which takes many seconds on a busy machine.
    print(f"affectgpt-r1 app: starting, with the runs of {options.outputs} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="affectgpt-r1-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # read when Gradio is imported
        serve(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectgpt-r1 app",
        description="A page on this machine: try policies on a video, compare answers clip by clip, judge them.",
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="runs and predictions (%(default)s)")
    parser.add_argument(
        "--data", type=Path, default=Path("data/synthetic"), help="the clips that were answered (%(default)s)"
    )
    parser.add_argument(
        "--checkpoint", type=Path, nargs="+", default=[], help="more policies: best.ckpt of a run, or exported folders"
    )
    parser.add_argument(
        "--judgements", type=Path, metavar="FOLDER", help="takes what people judge (OUTPUTS/judgements)"
    )
    parser.add_argument("--lexicon", default="bundled", help="bundled, mer2025, mer2026 or a folder (%(default)s)")
    parser.add_argument("--faces", choices=("detect", "centre"), help="crop faces (default), or each frame's middle")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (CUDA where there is some)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="keys that differ from training")
    parser.add_argument("--port", type=int, default=PORT, help="(%(default)s)")
    parser.add_argument("--host", default=HOST, help="the address to listen on (%(default)s: this machine only)")
    parser.add_argument("--max-upload", type=float, default=200, metavar="MB", help="largest file (%(default)s)")
    return parser


if __name__ == "__main__":
    main()
