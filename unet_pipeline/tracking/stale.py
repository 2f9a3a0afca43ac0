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
from unet_pipeline.tracking.senders import LANES
from unet_pipeline.tracking.spool import Record, Spool

logger = logging.getLogger("unet_pipeline")


def mark_stale(
    own: Path, send: Callable[[Path], object], *, stopped: Callable[[], bool] = lambda: False
) -> list[Path]:
    """Mark the runs beside `own` that a kill has left as running as KILLED; their folders.

    Those are the ones whose folder has a lock that nobody holds: whoever ends in order removes it,
    so that a thousand folders cost a look at each and no more. A run of another machine is left
    alone, since locks need not reach so far; so is one whose process lives where they do not work.
    One that was killed while it closed has said how it ended, but perhaps not to the store: it is
    sent as it is.
    send: brings a run folder to the store; a failure of it ends the search, for the next training.
    stopped: asked before each folder, whether to leave the rest to the next training.
    """
    marked = []
    for folder in _left_locked(own):
        if stopped():
            break
        try:
            if not _is_ours(folder, own):
                continue
            with folder_lock(folder):
                if not _is_ours(folder, own):  # it was resumed, and has ended, meanwhile
                    continue
                if killed := _last_status(folder).get("status") == "RUNNING":
                    _mark(folder)
            try:
                send(folder)
            except Exception:
                (folder / LOCK_NAME).touch()  # by which the next training finds it
                raise
        except (UserError, OSError):  # it runs, or cannot be written to, or the store has gone
            continue
        except Exception:  # noqa: BLE001, whatever the store says: the training is not about that
            break
        if killed:
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
    """Whether this machine ran it, its end is not in the store, and nobody may hold it."""
    begun = _last_status(folder, "RUNNING")
    if begun.get("host") != platform.node():
        return False
    if _last_status(folder) != begun and not _has_unsent_status(folder):
        return False
    return _locks_work(own) or not _lives(begun.get("pid"))


def _last_status(folder: Path, status: str | None = None) -> Record:
    """The last word about how the run is, or the last of that status; empty without one."""
    last: Record = {}
    for record, _ in Spool(folder).read():
        if record.get("kind") == "status" and status in (None, record.get("status")):
            last = record
    return last


def _has_unsent_status(folder: Path) -> bool:
    """Whether the store, to which the run is to go, lacks a word about how it is."""
    spool = Spool(folder)
    identity = spool.load()
    if identity is None or not identity.send:
        return False
    (lane,) = (lane for lane, kinds in LANES.items() if "status" in kinds)
    sent = spool.marks(identity.run_id or "").get(lane, 0)
    return any(record.get("kind") == "status" for record, _ in spool.read(sent))


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
