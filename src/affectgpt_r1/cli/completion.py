"""Completion by Tab of commands, options, keys and choices: ``eval "$(affectgpt-r1 completion)"``."""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module

from affectgpt_r1.cli.command import PROGRAM, lazy, run_command

choices_of = lazy("config.keys:choices_of")
config_keys = lazy("config.keys:config_keys")

HYDRA = ("train", "evaluate", "render")
COMPOSED = (*HYDRA, "plan", "doctor", "export", "rollout-server")
"""Commands that take overrides."""

# Bash ends a word at `=` (COMP_WORDBREAKS), zsh does not; where it does, what is before it must not be repeated.
SCRIPT = """\
if [ -n "$ZSH_VERSION" ]; then
  autoload -Uz compinit bashcompinit
  command -v compdef >/dev/null || compinit
  bashcompinit
fi
_affectgpt_r1() {
  local IFS=$'\\n' line="${COMP_LINE:0:$COMP_POINT}"
  COMPREPLY=($(affectgpt-r1 completion --line "$line" 2>/dev/null))
  local word="${line##* }"
  if [ -n "$BASH_VERSION" ] && [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
    COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
  fi
}
complete -o nospace -o default -F _affectgpt_r1 affectgpt-r1
"""


def complete(line: str, commands: Iterable[str]) -> list[str]:
    """Return what the last word of a command line may become; nothing where it is the name of a file.

    >>> complete("affectgpt-r1 pre", ["predict", "prefer", "train"])
    ['predict ', 'prefer ']
    """
    words = re.split(r"\s+", line.lstrip())
    command, word = words[1] if len(words) > 2 else "", words[-1]
    if not command:
        return [f"{name} " for name in commands if name.startswith(word)]
    if word.startswith("-"):
        return [f"{option} " for option in _options(command) if option.startswith(word)]
    if command not in COMPOSED:
        return []
    key, is_chosen, choice = word.partition("=")
    if is_chosen:
        return [f"{key}={name} " for name in choices_of(key) if name.startswith(choice)]
    return _next_parts(config_keys(), key)


def _next_parts(keys: Iterable[str], typed: str) -> list[str]:
    """Return the keys that begin as typed, up to their next dot, as a shell shows folders."""
    found = set()
    for key in keys:
        if key.startswith(typed):
            head, dot, _ = key[len(typed) :].partition(".")
            found.add(f"{typed}{head}{dot or '='}")
    return sorted(found)


def _options(command: str) -> list[str]:
    if command in HYDRA:
        return ["--cfg", "--help", "--info", "--multirun", "--resolve"]
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        import_module(f"affectgpt_r1.cli.{command.replace('-', '_')}").main(["--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text.getvalue())))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the shell's script, or with ``--line`` the completions of a line, one per line."""
    from affectgpt_r1.cli.main import COMMANDS

    parser = argparse.ArgumentParser(
        f"{PROGRAM} completion", description='Print a script for bash and zsh: eval "$(affectgpt-r1 completion)"'
    )
    parser.add_argument("--line", help="print what the last word of this command line may become")

    def work(options: argparse.Namespace) -> None:
        print(SCRIPT if options.line is None else "\n".join(complete(options.line, COMMANDS)))

    run_command(parser, work, arguments)


if __name__ == "__main__":
    main()
