"""Decode in another process: a decoder that crashes or never ends costs a clip, not the run.

FFmpeg, decord and libsndfile are native code that reads strangers' files. The process is forked at the first file and
reads the following ones, too, so that a clip costs one message each way; each DataLoader worker has its own. It uses
one thread and may take ``MAX_BYTES`` of memory.

It guards against crashes and is not a sandbox. Where forking is not safe (macOS, Windows) this process decodes.
"""

from __future__ import annotations

import faulthandler
import gc
import itertools
import mmap
import os
import pickle
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from multiprocessing.connection import Connection, Pipe
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch

from affectgpt_r1.errors import MediaError

MAX_BYTES = 1 << 30  # of memory
MAX_SECONDS = 60.0  # and one more for each megabyte of the file

P = ParamSpec("P")
T = TypeVar("T")


def in_decoding_process(read: Callable[Concatenate[Path, P], T]) -> Callable[Concatenate[Path, P], T]:
    """Let ``read`` run in the decoding process.

    Where its decoder crashes, does not end or takes too much memory, it raises :class:`MediaError`.
    """

    @wraps(read)
    def sent(path: Path, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if _process.is_child or sys.platform != "linux":
            return read(path, *args, **kwargs)
        result: T = _process.call(path, (sent, args, kwargs))
        return result

    return sent


class _DecodingProcess:
    is_child = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._connection: Connection | None = None

    def call(self, path: Path, request: Any) -> Any:
        """Raise or return what the other process does."""
        seconds = MAX_SECONDS
        with suppress(OSError, ValueError):  # the reader says what is wrong with it
            seconds += os.stat(path).st_size / 1e6
        with self._lock:
            # A crash may be due to what an earlier file left in memory: only the second one is due to this file.
            for _ in range(2):
                try:
                    folder = "/" if path.is_absolute() else os.getcwd()  # it may have changed since the fork
                    succeeded, result = self._answer(path, pickle.dumps((seconds, folder, path, *request)), seconds)
                    break
                except (EOFError, ConnectionError):
                    cause = self.stop(kill=False)
            else:
                raise MediaError(f"{path}: its decoder crashed ({cause}): the file is damaged, or made to do so")
        if succeeded:
            return result
        raise result

    def _answer(self, path: Path, request: bytes, seconds: float) -> Any:
        connection = self._connection or self._start()
        try:
            connection.send_bytes(request)
            if not connection.poll(seconds):
                raise MediaError(f"{path}: decoding it did not end within {seconds:.0f} s: the file is damaged")
            head, sizes = connection.recv()
            ends = [*itertools.accumulate(sizes, initial=0)]
            shared = np.frombuffer(self._shared, np.uint8)
            buffers = [shared[start:end].copy() for start, end in itertools.pairwise(ends)]
        except (EOFError, ConnectionError):
            raise
        except BaseException:  # Ctrl-C, too: a late answer must not be taken for the next file's
            self.stop()
            raise
        succeeded, is_tensor, result = pickle.loads(head, buffers=buffers)
        return succeeded, torch.from_numpy(result) if is_tensor else result

    def _start(self) -> Connection:
        self._connection, theirs = Pipe()
        self._shared = mmap.mmap(-1, MAX_BYTES)  # takes memory only as far as it is written to
        self._pid = os.fork()
        if self._pid == 0:
            try:
                _serve(theirs, self._shared)
            finally:
                os._exit(0)  # it owns nothing that exit handlers would clean up
        theirs.close()
        Finalize(None, stop_decoding_process, exitpriority=10)
        return self._connection

    def stop(self, *, kill: bool = True) -> str:
        """Wait for the process's end and return its cause."""
        if self._connection is None:
            return ""
        self._connection.close()
        self._connection = None
        with suppress(ChildProcessError, ProcessLookupError):  # another part of the program waited for all processes
            if kill:
                os.kill(self._pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            return signal.Signals(-status).name if status < 0 else f"exit code {status}"
        return "unknown"


def stop_decoding_process() -> None:
    """End the decoding process; the next file starts another."""
    _process.stop()


def _serve(connection: Connection, shared: mmap.mmap) -> None:
    """Answer requests until the other end is closed."""
    _process.is_child = True
    gc.freeze()
    # Or locks and pipes of the forked process would stay open as long as this one, which may outlive it for a moment.
    os.closerange(3, connection.fileno())
    os.closerange(connection.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    faulthandler.disable()
    for crash in (signal.SIGALRM, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        signal.signal(crash, signal.SIG_DFL)
    for request in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(request, signal.SIG_IGN)  # the parent handles them; its end ends this process
    torch.set_num_threads(1)  # the parent's threads do not survive the fork
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + MAX_BYTES, resource.RLIM_INFINITY))
    with suppress(EOFError, ConnectionError):
        while True:
            answer = _answer(shared, *pickle.loads(connection.recv_bytes()))
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(answer)


def _answer(
    shared: mmap.mmap, seconds: float, folder: str, path: Path, read: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[bytes, list[int]]:
    """Leave the arrays in ``shared``, forty times as fast as through a pipe; return the rest, and their sizes."""
    sizes: list[int] = []

    def write(buffer: pickle.PickleBuffer) -> None:
        raw: Any = buffer.raw()
        shared.write(raw)
        sizes.append(raw.nbytes)

    signal.setitimer(signal.ITIMER_REAL, seconds + 1)  # ends this process where the parent is gone
    try:
        os.chdir(folder)
        shared.seek(0)
        result = read(path, *args, **kwargs)
        is_tensor = isinstance(result, torch.Tensor)
        packed = (True, is_tensor, result.numpy() if is_tensor else result)
        return pickle.dumps(packed, protocol=5, buffer_callback=write), sizes
    except Exception as error:
        failure = error
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # torch's
            failure = MediaError(f"{path}: decoding it takes more than {MAX_BYTES >> 20} MiB of memory")
        elif not isinstance(error, MediaError):
            failure.add_note(traceback.format_exc())
        return pickle.dumps((False, False, failure)), []


def _data_bytes() -> int:
    """Return the memory that the process holds, as ``RLIMIT_DATA`` counts it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmData:")[2].split()[0]) << 10


def _forget() -> None:
    global _process
    _process = _DecodingProcess()  # the decoding process belongs to the one that forked it


_process = _DecodingProcess()
if sys.platform == "linux":
    os.register_at_fork(after_in_child=_forget)
