import os
import subprocess
import sys
from importlib import import_module
from inspect import getsource

import pytest

from affectgpt_r1.cli.main import COMMANDS, EXAMPLES, main, module_of

ENDING = '\n\nif __name__ == "__main__":\n    main()\n'
MODULES = {command: import_module(module_of(command)) for command in COMMANDS}


def test_every_command_has_a_module_with_a_main():
    assert [command for command in COMMANDS if not callable(MODULES[command].main)] == []
    # `python -m` would do nothing, in silence.
    ended = [command for command in COMMANDS if getsource(MODULES[command]).endswith(ENDING)]
    assert ended == list(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_command_runs_its_module_with_the_overrides(command, monkeypatch):
    seen = []
    monkeypatch.setattr(MODULES[command], "main", lambda: seen.append(list(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["/somewhere/affectgpt-r1", command, "seed=3", "--cfg", "job"])

    main()

    assert seen == [[f"affectgpt-r1 {command}", "seed=3", "--cfg", "job"]]


@pytest.mark.parametrize(
    ("old", "given", "new", "passed"),
    [
        ("answer", ["--data", "ROOT"], "predict", ["--data", "ROOT"]),
        ("submit", ["--predictions", "P", "--output", "a=b"], "score", ["--predictions", "P", "--submission", "a=b"]),
        ("submit", ["--output=a-openset.npz"], "score", ["--submission=a-openset.npz"]),
        ("import-affectgpt", ["C", "--output", "RUN"], "convert", ["--to", "run", "C", "--output", "RUN"]),
        ("convert-weights", ["smol"], "convert", ["--to", "safetensors", "smol"]),
    ],
)
def test_an_old_command_does_what_replaced_it_and_says_so(old, given, new, passed, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(MODULES[new], "main", lambda: seen.append(list(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["affectgpt-r1", old, *given])

    main()

    assert seen == [[f"affectgpt-r1 {new}", *passed]]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"affectgpt-r1 {old}: is `affectgpt-r1 {new}")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_commands(flag, capsys):
    main([flag])

    printed = capsys.readouterr().out
    assert all(f"  {command} " in printed for command in COMMANDS)


@pytest.mark.parametrize(("typed", "nearest"), [("trian", "train"), ("eval", "evaluate"), ("rendr", "render")])
def test_unknown_command_names_the_nearest(typed, nearest, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([typed, "seed=3"])

    assert stopped.value.code == 2
    assert f"the nearest is {nearest!r}" in capsys.readouterr().err


def test_help_into_a_closed_pipe_says_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    code = "from affectgpt_r1.cli.main import main; main(['--help'])"
    ended = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_no_command_is_an_error_with_the_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])

    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out) == (2, "")
    assert "commands:" in printed.err


@pytest.mark.parametrize("arguments", ["['--help']", "['score', '--help']", "['predict', '--help']"])
def test_help_waits_for_no_large_library(arguments):
    program = (
        "import sys; from affectgpt_r1.cli.main import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as stopped: assert stopped.code == 0\n"
        "print([name for name in ('torch', 'lightning', 'hydra', 'mlflow', 'pandas') if name in sys.modules])"
    )

    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert finished.stdout.splitlines()[-1] == "[]"


def test_overrides_reach_the_composed_configuration():
    program = "from affectgpt_r1.cli.main import main; main()"
    arguments = ["train", "experiment=demo/grpo", "stage.beta=0.25", "seed=7", "--cfg", "job"]

    finished = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)

    lines = finished.stdout.splitlines()
    assert "seed: 7" in lines
    assert "  beta: 0.25" in lines
    assert "  name: grpo" in lines


@pytest.mark.parametrize("command", ["score", "completion"])
def test_help_of_a_command_ends_with_examples(command):
    code = f"from affectgpt_r1.cli.main import main; main(['{command}', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, _, examples = done.stdout.partition("\nexamples:\n")
    assert examples.startswith(f"  affectgpt-r1 {command}")
    assert all(word in before for word in examples.split() if word.startswith("--"))


def test_every_command_has_an_example():
    assert EXAMPLES.keys() == COMMANDS.keys()
