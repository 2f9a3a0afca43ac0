"""Processes that read files for a scan: one a core, each fed through its own pair of pipes.

They are started as new interpreters and not by `multiprocessing`, which forks a process that may
hold torch's threads, or runs the caller's script a second time. A pipe also ties their lives
together: a worker whose parent is gone, however that came, reads the end of its input and exits.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2

from unet_pipeline.datasets.array_files import Role
from unet_pipeline.datasets.scan.reading import Find, Reading, read_part
from unet_pipeline.datasets.scan.store import finder
from unet_pipeline.errors import ResourceError

if TYPE_CHECKING:
    from unet_pipeline.datasets.formats import Made

_MALLOC_OPTIONS = {
    # glibc gives the memory of each picture back to the system and asks for it again: the page
    # faults of that take a third of the time of decoding. Other allocators know no such variables
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
}

_CODE = "from unet_pipeline.datasets.scan.workers import serve; serve()"


class Question(NamedTuple):
    """One file to read."""

    role: Role
    source: Path | Made


Answer = Reading | str


class Workers:
    """A number of processes that answer questions; a context manager, to be used by threads.

    caches: the files of the store in which they look for equal content.
    """

    def __init__(self, count: int, keep: Sequence[int], caches: Sequence[Path]) -> None:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # noqa: PTH109
        environment = _MALLOC_OPTIONS | os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        try:
            for _ in range(count):
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _CODE],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                )
                self._processes.append(process)
                _send(process.stdin, (tuple(keep), tuple(caches)))
                self._idle.put(process)
        except OSError as error:
            self.close()
            raise ResourceError(
                f"no process to read files with can be started: {error.strerror}"
            ) from error

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers of whichever process is free; waits for one.

        Raises `ResourceError` where the process has died, and what it raised itself.
        """
        if not questions:
            return []
        process = self._idle.get()
        try:
            _send(process.stdin, list(questions))
            assert process.stdout is not None
            answers: list[Answer] | Exception = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            names = ", ".join(str(getattr(q.source, "source", q.source)) for q in questions[:2])
            raise ResourceError(
                f"a process that reads files was killed while it read {names}, ...: most probably "
                "memory ran out; close other programs, or cut huge images into tiles"
            ) from error
        finally:
            self._idle.put(process)
        if isinstance(answers, Exception):
            raise answers
        return answers

    def close(self) -> None:
        """End all processes; what one is reading is given up."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):  # what was not sent to a dead process
                    pipe.close()


def serve() -> None:
    """The life of a worker: answer what comes from stdin until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent will end this
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    cv2.setNumThreads(1)
    try:
        keep, caches = pickle.load(sys.stdin.buffer)
        find = finder(caches)
        while True:
            _send(output, _answer(keep, find))
    except (EOFError, BrokenPipeError):
        return


def _answer(keep: Sequence[int], find: Find) -> list[Answer] | Exception:
    try:
        questions = pickle.load(sys.stdin.buffer)
        return [read_part(role, source, keep, find) for role, source in questions]
    except EOFError:
        raise
    except Exception as error:  # noqa: BLE001  it is raised in the parent
        error.add_note(traceback.format_exc())
        return error


def _send(pipe: Any, message: object) -> None:
    pipe.write(pickle.dumps(message))
    pipe.flush()
