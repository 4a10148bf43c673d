"""One context around a run, which records how it ended."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from lightning.pytorch.loggers import Logger

from affectgpt_r1.tracking.mlflow_logger import Terminated, mlflow_loggers, status_of

log = logging.getLogger(__name__)


@contextmanager
def tracked_run(loggers: Iterable[Logger] = ()) -> Iterator[None]:
    """Start the MLflow runs of ``loggers`` and set their final status on every way out.

    FINISHED at the end, KILLED by Ctrl-C and by SIGTERM, FAILED by any other exception, in ``fit`` or outside.
    SIGTERM is raised as :class:`~affectgpt_r1.tracking.mlflow_logger.Terminated` in the main thread, so that
    checkpoints, workers and files are closed in order; earlier handlers are restored afterwards. Without an MLflow
    logger only the signal handling remains.
    """
    tracked = mlflow_loggers(loggers)
    with _sigterm_raises() as received:
        for logger in tracked:
            logger.start()
            logger.status_is_set_outside = True
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            # A dying data worker may report the signal before the handler does.
            status = "KILLED" if received.is_set() else status_of(error)
            with _uninterrupted():
                for logger in tracked:
                    logger.status_is_set_outside = False
                    try:
                        logger.end(status)
                    except Exception as failed:
                        if error is None:
                            raise
                        # Such as a full disk: report the error that ended the run; the next start sets KILLED.
                        log.warning("MLflow run %s: its status cannot be set (%s)", logger.run_id, _first_line(failed))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextmanager
def _sigterm_raises() -> Iterator[threading.Event]:
    received = threading.Event()
    owner = os.getpid()

    def raise_terminated(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            os._exit(128 + signum)
        if received.is_set():
            return
        received.set()
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM while the status is written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
