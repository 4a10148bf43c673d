"""Say what a run lacks before it starts: ``affectgpt-r1 doctor experiment=affectgpt/ov_merd paths.data=FOLDER``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.text import Text

from affectgpt_r1.cli.command import PROGRAM, lazy
from affectgpt_r1.cli.composed_command import run_composed_command
from affectgpt_r1.cli.options import add_printable_json_option, put_json
from affectgpt_r1.io.clean_text import one_line, printable
from affectgpt_r1.io.console import PlainConsole

if TYPE_CHECKING:
    from affectgpt_r1.config.doctor.finding import Finding

examine = lazy("config.doctor.examine:examine")
as_json = lazy("config.doctor.examine:as_json")

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        SystemExit: With code 2 where a run would fail, or after bad input.
    """
    findings: list[Finding] = run_composed_command(_parser(), doctor, arguments)
    if any(finding.state == "problem" for finding in findings):
        raise SystemExit(2)


def doctor(options: argparse.Namespace, config: DictConfig) -> list[Finding]:
    """Examine, and print the report or its JSON."""
    findings: list[Finding] = examine(config, options.decode)
    if not put_json(options, as_json(findings)):
        PlainConsole(soft_wrap=True, highlight=False).print(_screen(findings))
    return findings


def _screen(findings: Sequence[Finding]) -> Text:
    width = max(len(finding.part) for finding in findings)
    screen = Text()
    for finding in findings:
        mark, style = MARKS[finding.state]
        screen.append(f"{mark} ", style).append(f"{finding.part:<{width}}  ", "bold").append(one_line(finding.text))
        if finding.remedy:
            screen.append(f"\n  {'':<{width}}  → ").append(printable(finding.remedy), "cyan")
        screen.append("\n")
    problems, warnings = (_count(findings, state) for state in ("problem", "warning"))
    if any(finding.state == "problem" for finding in findings):
        screen.append(f"{problems} and {warnings}: the run would fail", "bold red")
    else:
        screen.append(f"No problem and {warnings}: the run can start", "bold green")
    return screen


def _count(findings: Sequence[Finding], state: str) -> str:
    count = sum(finding.state == state for finding in findings)
    return f"{count} {state}{'' if count == 1 else 's'}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} doctor",
        description="Examine the machine, the weights and the data folder of a training run; KEY=VALUE are the "
        "overrides of `train`. The exit code is 2 if the run would fail.",
    )
    parser.add_argument(
        "--decode",
        type=int,
        default=64,
        metavar="N",
        help="decode N clips besides those that look damaged, for 20 s at most; 0 decodes none (default: %(default)s)",
    )
    add_printable_json_option(parser, "the report")
    return parser


if __name__ == "__main__":
    main()
