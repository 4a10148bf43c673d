"""Start vLLM for the rollouts of a run: ``affectgpt-r1 rollout-server experiment=affectgpt_r1/grpo``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from affectgpt_r1.cli.command import PROGRAM, lazy
from affectgpt_r1.cli.composed_command import run_composed_command

server_command = lazy("config.rollout_server:server_command")
serve = lazy("config.rollout_server:serve")
write_requirements = lazy("config.rollout_server:write_requirements")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        SystemExit: With code 2 after bad input or where vLLM ends by itself.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = any(argument.startswith("rollout=") for argument in arguments)
    run_composed_command(_parser(), rollout_server, arguments, () if chosen else ("rollout=vllm",))


def rollout_server(options: argparse.Namespace, config: DictConfig) -> None:
    """Write the requirements, print the command, or run it."""
    if options.requirements is not None:
        print(write_requirements(options.requirements))
        return
    command: list[str] = server_command(config, options.python, shlex.split(options.vllm))
    print(shlex.join(command), flush=True)
    if not options.dry_run:
        serve(config, command, lambda line: print(line, flush=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} rollout-server",
        usage="%(prog)s [KEY=VALUE ...] [options]",
        description="Serve a run's language model by vLLM, from an environment of its own, for training with "
        "rollout=vllm and the same overrides. It listens at rollout.server.url until Ctrl-C or SIGTERM.",
    )
    parser.add_argument(
        "--requirements", type=Path, metavar="FILE", help="write the requirements of vLLM's environment, and end"
    )
    parser.add_argument(
        "--python",
        default="vllm-env/bin/python",
        metavar="FILE",
        help="Python of vLLM's environment (default: %(default)s)",
    )
    parser.add_argument(
        "--vllm", default="", metavar="OPTIONS", help="more options for vLLM, as '--gpu-memory-utilization 0.5'"
    )
    parser.add_argument("--dry-run", action="store_true", help="print vLLM's command, and start nothing")
    return parser


if __name__ == "__main__":
    main()
