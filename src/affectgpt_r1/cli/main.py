"""The console script: ``affectgpt-r1 <command> [overrides]``.

A command's module is imported only when it is asked for, so that ``--help`` and a mistyped command answer at once.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

PROGRAM = "affectgpt-r1"

COMMANDS = {
    "render": "render the synthetic clips (overrides: configs/render.yaml)",
    "train": "train one stage (overrides: configs/train.yaml), as in `experiment=grpo stage.beta=0.04`",
    "plan": "parameters, memory, steps and hours of a run: experiment=NAME [--tflops N] [--json FILE]",
    "export": "write a Hugging Face folder: init_from=CKPT --output FOLDER [--kind adapter|merged]",
    "import-affectgpt": "make a released AffectGPT checkpoint a run of ours: CKPT --output RUN",
    "convert-weights": "make safetensors of a pytorch_model.bin or GGUF file: FOLDER | FILE | smol",
    "evaluate": "compare trained policies on held-out clips (overrides: configs/evaluate.yaml)",
    "predict": "answer any video: VIDEO... [--checkpoint C] [--subtitle TEXT|FILE.srt]",
    "answer": "answer the clips of a data folder: --checkpoint C --data FOLDER --output FILE|FOLDER [--names FILE]",
    "score": "score a file of predictions: --predictions P --targets T",
    "report": "write the report on the ablation sweeps: --outputs outputs",
    "unibench": "score folders of predictions on MER-UniBench: --predictions FOLDER --data FOLDER",
    "submit": "write a challenge's -openset.npz: --predictions P --output NAME-openset.npz",
}
"""What each command does; a command is a module of this package with a ``main()`` on Hydra or argparse."""


def usage() -> str:
    """Return the help text."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [KEY=VALUE ... | --OPTION ...]",
            "",
            "commands:",
            *lines,
            "",
            f"`{PROGRAM} COMMAND --help` shows a command's options or configuration, `--cfg job` the composed one.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        arguments: The command and its overrides or options; by default those of the process.

    Raises:
        SystemExit: With code 2 after an unknown or missing command, 130 after Ctrl-C, 141 where the reader of a pipe
            has gone, as in ``affectgpt-r1 score ... | head``.
    """
    command, *overrides = (sys.argv[1:] if arguments is None else arguments) or [""]
    if command in ("-h", "--help"):
        print(usage())
    elif command in COMMANDS:
        sys.argv = [f"{PROGRAM} {command}", *overrides]
        _run(command)
    else:
        print(_complaint(command), file=sys.stderr)
        raise SystemExit(2)


def _run(command: str) -> None:
    # Processes that Lightning, joblib or MLflow start by `python -m` would else import from the current folder, which
    # may be one that was unpacked to be looked at.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        import_module(f"affectgpt_r1.cli.{command.replace('-', '_')}").main()
    except KeyboardInterrupt:
        print(f"{PROGRAM} {command}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it flushes at exit
        raise SystemExit(141) from None


def _complaint(command: str) -> str:
    if not command:
        return usage()
    nearest = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.0)[0]
    return f"{PROGRAM}: there is no command {command!r}; the nearest is {nearest!r}\n\n{usage()}"
