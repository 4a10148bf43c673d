"""One-line explanations, with the remedy, of what libraries raise over a user's mistake or a machine's limit."""

from __future__ import annotations

import re
import sqlite3

from affectgpt_r1.errors import AffectGPTError
from affectgpt_r1.io.files import is_of_file_system, why_unwritable


def explain_library_error(error: BaseException) -> str | None:
    """Say in one line what an error of a library means; None where it is a bug, whose traceback is the right answer."""
    text = str(error)
    if isinstance(error, AffectGPTError):
        return worker_message(text)
    if isinstance(error, OSError) and is_of_file_system(error):
        name = str(error.filename or "a file")
        return f"{name if len(name) < 200 else name[:200] + '…'}: {why_unwritable(error)}"
    if said := _sqlite_error_in(error):
        return f"mlflow.db in paths.outputs: the MLflow database cannot be written ({said}); {_of_database(said)}"
    kind = type(error).__name__
    if kind == "OutOfMemoryError" or "not enough memory" in text or isinstance(error, MemoryError):
        return (
            f"out of memory ({_first_line(text) or kind}); lower data.batch_size and raise "
            "trainer.accumulate_grad_batches, or set model.gradient_checkpointing=true"
        )
    if kind == "PanicException":  # of the tokenizers library, above Exception
        return f"the tokenizer failed ({_first_line(text)}); its pattern cannot be used: take another tokenizer"
    if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
        return (
            f"a worker that reads clips died ({_first_line(text)}); it ran out of memory or a decoder crashed: lower "
            "data.num_workers or data.eval_batch_size, or find the clip with data.num_workers=0"
        )
    if kind in ("ScannerError", "ParserError", "ComposerError", "ConstructorError") and hasattr(error, "problem_mark"):
        mark = error.problem_mark  # of YAML
        where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a YAML file"
        return f"{where}: {getattr(error, 'problem', None) or 'this is not YAML'}; correct the file"
    return None


def _sqlite_error_in(error: BaseException | None) -> str | None:
    """Return SQLite's message inside of an error of MLflow's."""
    while error is not None and not isinstance(error, sqlite3.Error):
        error = error.__cause__ or error.__context__
    return None if error is None else str(error)


def _of_database(said: str) -> str:
    if "locked" in said:
        return "end the process that uses it"
    if "malformed" in said or "not a database" in said:
        return "it is damaged: move it away to log into a new one; checkpoints and run.json do not need it"
    return "make room, change its permissions, or choose another paths.outputs="


def worker_message(text: str) -> str:
    r"""Return the message of an error that torch raised again outside a worker, without the worker's traceback.

    >>> worker_message("Caught DataError in worker process 0.\nOriginal Traceback ...\nx.DataError: bad row")
    'bad row'
    """
    if "Original Traceback" not in text:
        return text
    lines = text.rstrip().splitlines()
    named = [number for number, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception): ", line)]
    return " ".join([lines[named[-1]].split(": ", 1)[1], *lines[named[-1] + 1 :]]) if named else lines[-1]


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
