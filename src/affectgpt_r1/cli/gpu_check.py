"""Check numbers, speed and memory of the paper's model on this machine's GPU: ``affectgpt-r1 gpu-check``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from affectgpt_r1.cli.command import PROGRAM, lazy, run_command
from affectgpt_r1.cli.options import add_printable_json_option, put_json
from affectgpt_r1.io.clean_text import one_line
from affectgpt_r1.io.console import PlainConsole

if TYPE_CHECKING:
    from affectgpt_r1.config.check_parts import Part
    from affectgpt_r1.config.gpu_check import GPUCheck

start = lazy("config.gpu_check:GPUCheck")
as_json = lazy("config.gpu_check:as_json")

PARTS = ("attention", "demo", "device-tests", "build", "sft", "grpo", "decoding", "baseline", "mismatch")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        SystemExit: With code 1 where a number is wrong, 2 after bad input.
    """
    parts: list[Part] = run_command(_parser(), gpu_check, arguments)
    if any(part.is_wrong for part in parts):
        raise SystemExit(1)


def gpu_check(options: argparse.Namespace) -> list[Part]:
    """Check, and print the table or its JSON."""
    check: GPUCheck = start(tiny=options.tiny, budget=options.budget)
    parts = check.run(options.only or ())
    if put_json(options, as_json(check, parts)):
        return parts
    # One line a number, however narrow the terminal.
    console = PlainConsole(width=120, highlight=False)
    console.print(", ".join(f"{name} {version}" for name, version in check.describe().items()))
    console.print(_table(parts))
    wrong = [part.name for part in parts if part.is_wrong]
    console.print(f"Wrong: {', '.join(wrong)}" if wrong else "No number is wrong")
    return parts


def _table(parts: Sequence[Part]) -> Table:
    table = Table("part", "what", "measured", "bound", "", box=None, pad_edge=False)
    for part in parts:
        name = f"{part.name}, {part.seconds:.1f} s"
        if note := part.error or part.skipped:
            table.add_row(name, one_line(note), "", "", "wrong" if part.error else "skipped")
        for limit in part.limits:
            state = "ok" if limit.holds else "missed" if limit.is_aim else "wrong"
            sign = "≤" if limit.at_most else "≥"
            table.add_row(name, limit.name, f"{limit.value:.4g}", f"{sign} {limit.bound:g}", state)
        for what, value in part.measured.items():
            table.add_row(name, what, f"{value:.4g}", "", "")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} gpu-check",
        description="Build the 7B model with random weights on this machine's GPU, and measure errors of attention, "
        "steps of SFT and GRPO, decoding, memory against `plan`, and transformers beside it. The exit code is 1 if a "
        "number is wrong.",
    )
    parser.add_argument(
        "--budget", type=float, default=480.0, metavar="S", help="seconds for everything (default: %(default)s)"
    )
    parser.add_argument("--tiny", action="store_true", help="check the check: small shapes, on the CPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    add_printable_json_option(parser, "what was found")
    return parser


if __name__ == "__main__":
    main()
