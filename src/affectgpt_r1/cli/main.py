"""The console script: ``affectgpt-r1 <command> [overrides]``.

A command's module is imported only when it is asked for, so that ``--help`` and a mistyped command answer at once.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

from affectgpt_r1 import __version__

PROGRAM = "affectgpt-r1"

COMMANDS = {
    "prepare": "make a data folder of your videos and tables: DATA looks, DATA --output FOLDER writes",
    "crop-faces": "add the face crops that a data folder lacks: ROOT [--names FILE]",
    "render": "render the synthetic clips (overrides: configs/render.yaml)",
    "train": "train one stage (overrides: configs/train.yaml), as in `experiment=demo/grpo stage.beta=0.04`",
    "plan": "parameters, memory, steps and hours of a run: experiment=NAME [--tflops N] [--json FILE]",
    "doctor": "say what a run lacks before it starts: experiment=NAME [--decode N] [--json [FILE]]",
    "evaluate": "compare trained policies on the test split (overrides: configs/evaluate.yaml)",
    "predict": "label videos, or the clips of a data folder: FILE|FOLDER... | --data ROOT [--checkpoint C]",
    "score": "score a file of predictions: --predictions P --targets T, or --submission NAME-openset.npz",
    "merge": "merge several systems' answers: A.jsonl B.jsonl ... --rule union|vote|cap --output FILE",
    "unibench": "score folders of predictions on MER-UniBench: --predictions FOLDER --data FOLDER",
    "prefer": "score preferences between two descriptions: --predictions P --targets T [--swapped S]",
    "app": "a page on this machine: try policies, compare answers, judge them: [--port N]",
    "report": "write the report on evaluated policies and ablation sweeps: --outputs outputs",
    "export": "write a Hugging Face folder: init_from=CKPT --output FOLDER [--kind adapter|merged]",
    "gpu-check": "check the paper's model on this machine's GPU, in minutes: [--budget S] [--json FILE] [--tiny]",
    "rollout-server": "start vLLM, in its own environment, for training with rollout=vllm: experiment=NAME",
    "convert": "make safetensors of weights, or a run of a released AffectGPT checkpoint: FOLDER|FILE|smol",
    "completion": 'completion by Tab in bash and zsh: eval "$(affectgpt-r1 completion)"',
}
"""What each command does; a command is a module of this package with a ``main()`` on Hydra or argparse."""

EXAMPLES = {
    "prepare": ("my-videos", "my-videos --output my-set"),
    "crop-faces": ("/data/mer2026-dataset --names track1_track2_candidate.csv",),
    "render": ("", "noise=hard num_exact=200"),
    "train": (
        "experiment=demo/sft",
        "experiment=demo/grpo stage.beta=0.04 penalty=ratio",
        "-m ablation=reward",
    ),
    "plan": ("experiment=affectgpt_r1/grpo --tflops 150 --gpus 8",),
    "doctor": ("experiment=demo/sft paths.data=my-data",),
    "evaluate": ("", "split=validation num_clips=100"),
    "predict": ('clip.mp4 --subtitle "I am fine."', "talks/ --output answers.jsonl"),
    "score": ("--predictions answers.jsonl --targets labels.csv --json scores.json",),
    "merge": ("seed1.jsonl seed2.jsonl seed3.jsonl --rule vote --output merged.jsonl --targets labels.csv",),
    "unibench": ("--predictions answers --data /data/unibench --lexicon mer2025",),
    "prefer": ("--predictions preferences.csv --targets preferences.csv",),
    "report": ("--outputs outputs",),
    "export": ("init_from=outputs/demo-no_think-seed1/grpo/checkpoints/best.ckpt --output my-model",),
    "convert": ("smol", "data/pretrained/chinese-hubert-large"),
    "gpu-check": ("--json gpu.json", "--tiny"),
    "rollout-server": ("--requirements vllm.txt", "experiment=affectgpt_r1/grpo --python vllm-env/bin/python"),
    "app": ("", "--port 7861"),
    "completion": ("",),
}
"""What follows a command in the examples that its ``--help`` ends with."""

SCORERS = ("score", "merge", "unibench", "prefer")


class Replacement(NamedTuple):
    """A command, its first arguments, and its options by their old name, that do what an old command did."""

    command: str
    first: tuple[str, ...] = ()
    options: Mapping[str, str] = {}


REPLACED = {
    "answer": Replacement("predict"),
    "submit": Replacement("score", options={"--output": "--submission"}),
    "import-affectgpt": Replacement("convert", ("--to", "run")),
    "convert-weights": Replacement("convert", ("--to", "safetensors")),
}
"""Commands of earlier versions, which work for one more release."""


def module_of(command: str) -> str:
    """Return the name of a command's module."""
    return f"affectgpt_r1.cli.{command.replace('-', '_')}"


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
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if command in ("-h", "--help"):
        try:
            print(usage(), flush=True)
        except BrokenPipeError:
            _leave_closed_pipe()
        return
    if command == "--version":
        print(f"{PROGRAM} {__version__}")
        return
    if command in REPLACED:
        command, rest = _translate(command, rest)
    if command not in COMMANDS:
        print(_complaint(command), file=sys.stderr)
        raise SystemExit(2)
    sys.argv = [f"{PROGRAM} {command}", *rest]
    _run(command)


def _translate(old: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command and the arguments that replace an old command's, and say so."""
    new = REPLACED[old]
    options = "".join(f", with {option} for {name}" for name, option in new.options.items())
    called = " ".join((PROGRAM, new.command, *new.first))
    print(f"{PROGRAM} {old}: is `{called}` now{options}; the old name will go", file=sys.stderr)
    translated = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        translated.append(f"{new.options.get(name, name)}{equals}{value}")
    return new.command, [*new.first, *translated]


def _run(command: str) -> None:
    # Processes that Lightning, joblib or MLflow start by `python -m` would else import from the current folder, which
    # may be one that was unpacked to be looked at.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    if command in SCORERS:  # before numpy is loaded: a second thread costs the resampling more than it saves
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        try:
            import_module(module_of(command)).main()
        finally:  # help ends by SystemExit
            if {"-h", "--help"} & set(sys.argv[1:]):
                print("\n".join(["", "examples:", *_examples(command)]), flush=True)
    except KeyboardInterrupt:
        print(f"{PROGRAM} {command}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "affectgpt_r1":
            raise
        extra = "app" if package == "gradio" else "train"
        print(f"{PROGRAM} {command}: {package} is not installed: pip install 'affectgpt-r1[{extra}]'", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        _leave_closed_pipe()


def _examples(command: str) -> list[str]:
    return [f"  {PROGRAM} {command} {example}".rstrip() for example in EXAMPLES[command]]


def _leave_closed_pipe() -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it flushes at exit
    raise SystemExit(141) from None


def _complaint(command: str) -> str:
    if not command:
        return usage()
    nearest = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.0)[0]
    return f"{PROGRAM}: there is no command {command!r}; the nearest is {nearest!r}\n\n{usage()}"


if __name__ == "__main__":
    main()
