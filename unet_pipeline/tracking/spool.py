"""What a run has to tell, in its own folder first.

run.json        which run this is, and where it is in MLflow; changes only when it is created there
tracking.jsonl  everything the run has said, one record a line, in order; only ever appended to
tracking.sent   how far each MLflow run holds it: losing this file costs a second, harmless sending

A record is `{"t": milliseconds, "kind": ..., ...}`. Its files lie in the run folder too.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydantic

from unet_pipeline.files import write_atomic
from unet_pipeline.tracking.pulse import beat

logger = logging.getLogger("unet_pipeline")

Record = dict[str, Any]

IDENTITY = "run.json"
JOURNAL = "tracking.jsonl"
MARKS = "tracking.sent"
ATTACHMENTS = "attachments"
_LOOK_SECONDS = 0.05


class Identity(pydantic.BaseModel):
    """Which run a folder holds, and where it is in MLflow.

    key: our own id of the run, a tag there: it finds the run in any store it was copied to.
    tracking_uri: without credentials. started: milliseconds since 1970.
    leaderboard: what the experiment's saved view shows, `metrics.<key>` or `params.<key>`.
    pictures: keys of images that it shows without params.
    adopted: the run was made by `mlflow run`, which has named its source already.
    parent: the key of the run that this one is nested in.
    send: False keeps the run out of MLflow, until `sync` is asked to send it.
    experiment_id, run_id: None as long as no store has been reached.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    format_version: int = 1
    key: str = pydantic.Field(default_factory=lambda: uuid.uuid4().hex)
    tracking_uri: str
    experiment: str
    run_name: str
    started: int = pydantic.Field(default_factory=lambda: milliseconds())
    leaderboard: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    adopted: bool = False
    parent: str | None = None
    send: bool = True
    experiment_id: str | None = None
    run_id: str | None = None


class Spool:
    """The journal of one run folder. Writing to it never raises: the first failure is reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / JOURNAL
        self._lock = threading.Lock()
        self._file: io.FileIO | None = None
        self._complained = False

    def append(self, kind: str, **content: Any) -> None:
        """Add a record; safe from any thread, and from several processes on a local disk."""
        record = {"t": milliseconds(), "kind": kind, **content}
        line = json.dumps(record, ensure_ascii=False, default=_plain).encode() + b"\n"
        with self.guarded(f"a record of {kind}"), self._lock:
            if self._file is None:
                self._file = self._open()
            if self._file.write(line) < len(line):  # unbuffered: one system call, nothing to flush
                self._file.close()
                self._file = None  # opening it again ends the half line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self, offset: int = 0) -> Iterator[tuple[Record, int]]:
        """(record, offset behind it) for each whole line from `offset` on; damaged ones are empty.

        A line without its end is still being written, or was cut by a crash: it is left alone.
        """
        try:
            file = self.journal.open("rb")
        except OSError:  # not written yet, or its folder has gone
            return
        with file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                try:
                    record = json.loads(line, parse_constant=lambda _: None)  # NaN is no JSON
                except ValueError:
                    record = None
                yield (record if isinstance(record, dict) else {}), offset

    def put(self, path: Path, data: bytes) -> bool:
        """Write a file of the run folder whole; False where that fails, which is reported once."""
        with self.guarded(path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.write_bytes(data)
            temporary.replace(path)
            return True
        return False

    def stage(self, path: Path, folder: str) -> str | None:
        """The place of `path` relative to the run folder, copied into it where it lies outside.

        None where that fails, which is reported once.
        """
        with contextlib.suppress(ValueError):
            return path.resolve().relative_to(self.folder.resolve()).as_posix()
        with self.guarded(path.name):
            target = self.folder / ATTACHMENTS / folder / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            return target.relative_to(self.folder).as_posix()
        return None

    def load(self) -> Identity | None:
        """The identity of the run, or None where there is none that can be read."""
        try:
            return Identity.model_validate_json((self.folder / IDENTITY).read_bytes())
        except (OSError, ValueError):
            return None

    def save(self, identity: Identity) -> None:
        """Write the identity; it survives a power cut, and raises where it cannot be written."""
        write_atomic(self.folder / IDENTITY, identity.model_dump_json(indent=2) + "\n")

    def marks(self, run_id: str) -> dict[str, int]:
        """How many bytes of the journal the MLflow run `run_id` holds, for each lane."""
        marks = self._all_marks().get(run_id, {})
        return {str(lane): int(offset) for lane, offset in marks.items()}

    def set_mark(self, run_id: str, lane: str, offset: int) -> None:
        """Note that the MLflow run `run_id` holds the journal up to `offset`."""
        marks = self._all_marks()
        marks.setdefault(run_id, {})[lane] = offset
        self.put(self.folder / MARKS, json.dumps(marks).encode())

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Hold the right to send: one process at a time reads the marks, sends and moves them."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # no journal: there is nothing to send either
                file = stack.enter_context(self.journal.open("ab"))
                # the other one is at work as long as it moves the marks
                stack.enter_context(exclusive(file.fileno(), watch=(self.folder / MARKS,)))
            yield

    def close(self) -> None:
        """Close the journal; a later `append` opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Report instead of raise where the run folder refuses `what`: a full disk, no permission.

        A training may well go on without its records, and the disk may be freed again.
        """
        try:
            yield
        except OSError as error:
            if not self._complained:
                logger.warning(
                    "tracking: cannot keep %s in %s (%s): it will be missing in MLflow",
                    what,
                    self.folder,
                    error.strerror or error,
                )
            self._complained = True

    def _open(self) -> io.FileIO:
        file = io.FileIO(self.journal, "a+")
        if file.tell() > 0:  # a crash may have cut the last line: begin on a new one
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        return file

    def _all_marks(self) -> dict[str, dict[str, int]]:
        try:
            marks = json.loads((self.folder / MARKS).read_bytes())
        except (OSError, ValueError):
            return {}
        return marks if isinstance(marks, dict) else {}


@contextlib.contextmanager
def exclusive(descriptor: int, *, watch: Sequence[Path] = ()) -> Iterator[None]:
    """Hold the kernel's lock on an open file or folder; nothing where the system has none.

    Network file systems refuse it for folders: there, everything we do under it is safe to repeat.
    watch: files that its holder writes; while it does, the wait counts as progress.
    """
    try:
        import fcntl

        seen: list[tuple[int, int] | None] = []
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if (now := [_version(path) for path in watch]) != seen:
                    seen = now
                    beat()
                time.sleep(_LOOK_SECONDS)
    except (ImportError, OSError):
        yield
        return
    try:
        yield
    finally:
        # Said aloud, not left to closing: a forked worker holds a copy of the descriptor
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _version(path: Path) -> tuple[int, int] | None:
    """What changes when `path` is written to."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    return None


def _plain(value: object) -> object:
    """A number or array of numpy or torch as JSON has it, anything else as text."""
    as_list = getattr(value, "tolist", None)
    return as_list() if callable(as_list) else str(value)


def milliseconds() -> int:
    """Now, as MLflow counts time."""
    return int(time.time() * 1000)
