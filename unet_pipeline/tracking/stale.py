"""Runs that were killed without a word: MLflow would show them as running for ever."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

from unet_pipeline.errors import UserError
from unet_pipeline.files import LOCK_NAME, folder_lock
from unet_pipeline.tracking.spool import Record, Spool

logger = logging.getLogger("unet_pipeline")


def mark_stale(own: Path, send: Callable[[Path], object]) -> list[Path]:
    """Mark the runs beside `own` that a kill has left as running as KILLED; their folders.

    Those are the ones whose folder has a lock that nobody holds: whoever ends in order removes it,
    so that a thousand folders cost a look at each and no more. A run of another machine is left
    alone, since locks need not reach so far; so is one whose process lives where they do not work.
    send: brings a run folder to the store; a failure of it ends the search, for the next training.
    """
    marked = []
    for folder in _left_locked(own):
        try:
            if not _is_ours(folder, own):
                continue
            with folder_lock(folder):
                if not _is_ours(folder, own):  # it was resumed, and has ended, meanwhile
                    continue
                _mark(folder)
            send(folder)
        except (UserError, OSError):  # it runs, or cannot be written to, or the store has gone
            continue
        except Exception:  # noqa: BLE001, whatever the store says: the training is not about that
            break
        marked.append(folder)
    if marked:
        names = ", ".join(folder.name for folder in marked[:5])
        logger.info("tracking: %s ended without a word: marked as KILLED", names)
    return marked


def _left_locked(own: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError), os.scandir(own.parent) as entries:
        for entry in entries:
            if entry.name != own.name and os.path.lexists(f"{entry.path}/{LOCK_NAME}"):
                yield Path(entry.path)


def _is_ours(folder: Path, own: Path) -> bool:
    """Whether the run was begun by this machine, never ended, and may be held by nobody."""
    last: Record = {}
    for record, _ in Spool(folder).read():
        if record.get("kind") == "status":
            last = record
    if last.get("status") != "RUNNING" or last.get("host") != platform.node():
        return False
    return _locks_work(own) or not _lives(last.get("pid"))


def _mark(folder: Path) -> None:
    """Note in the journal that the run was killed, when it was last heard of."""
    spool = Spool(folder)
    heard = max(int(record.get("t") or 0) for record, _ in spool.read())
    spool.append("status", status="KILLED", t=heard)
    spool.close()


def _locks_work(own: Path) -> bool:
    """Whether the lock that this run holds on its own folder keeps others out."""
    try:
        import fcntl

        with (own / LOCK_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False  # and closing the file gives the lock back


def _lives(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
