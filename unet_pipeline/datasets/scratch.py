"""A folder of a run's own for files that can be computed again; gone when the run is over."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import weakref
from collections.abc import Callable
from pathlib import Path

SUFFIX = ".unet-scratch"
"""Of every file in such a folder. No file without it is ever removed."""

_LOCK_NAME = f"lock{SUFFIX}"
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


class Scratch:
    """A folder of temporary files, removed when the last process that opened it closes it.

    Processes that open the same path share it. What killed ones have left there, and in folders
    beside it, is removed first. Children of a process may use it too; their `close` does nothing.
    Where a process ends without `close`, the end of the interpreter does it.
    Whether a folder is in use, a lock of the kernel tells; where the file system has no locks
    (some network shares), whether the last process that opened it lives, for those of this machine.

    folder: absolute. prepare: called before the folder is shared, while it is empty.
    Raises `OSError` where it cannot be made or written to.
    """

    def __init__(self, folder: Path, *, prepare: Callable[[], None]) -> None:
        descriptor = None
        while descriptor is None:
            descriptor = _enter(folder, prepare)
        self._leave = weakref.finalize(self, _leave, folder, descriptor, os.getpid())
        _remove_abandoned(folder)

    def close(self) -> None:
        """Remove the folder, unless another process has it open; not to be used any more."""
        self._leave()


def lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool | None:
    """Whether the kernel gave the lock on an opened file; None where the file system has none."""
    import fcntl  # not on Windows

    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, operation if wait else operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return None
    return True


def _enter(folder: Path, prepare: Callable[[], None]) -> int | None:
    """The lock file, opened and held with others; None where it must be tried again."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / _LOCK_NAME
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except FileNotFoundError:  # removed between our two steps
        return None
    with contextlib.ExitStack() as otherwise:
        otherwise.callback(os.close, descriptor)
        if _is_unused(descriptor) and _is_at(descriptor, path):
            try:
                _remove_files(folder)
                prepare()
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
            except OSError:
                _remove(folder)
                raise
        # Only those who clear or remove a folder keep others waiting, for as long as that takes
        lock(descriptor, shared=True, wait=True)
        # Nothing is written there yet where one who looked for abandoned folders was in our way
        if not _is_at(descriptor, path) or not os.pread(descriptor, 1, 0):
            return None
        otherwise.pop_all()
    return descriptor


def _leave(folder: Path, descriptor: int, owner: int) -> None:
    if os.getpid() != owner:  # a forked child, at its end
        return
    with contextlib.suppress(OSError):
        if _is_unused(descriptor, by_others=True) and _is_at(descriptor, folder / _LOCK_NAME):
            _remove(folder)
    os.close(descriptor)


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left in the folders beside `folder`."""
    with contextlib.suppress(OSError), os.scandir(folder.parent) as entries:
        for entry in entries:
            if entry.name != folder.name and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):  # as a rule: no folder of this kind
                    _remove_if_abandoned(Path(entry.path))


def _remove_if_abandoned(folder: Path) -> None:
    path = folder / _LOCK_NAME
    descriptor = os.open(path, os.O_RDWR)
    try:
        # One that says nothing is just being made
        if _is_unused(descriptor) and os.pread(descriptor, 1, 0) and _is_at(descriptor, path):
            _remove(folder)
    finally:
        os.close(descriptor)


def _is_unused(descriptor: int, *, by_others: bool = False) -> bool:
    """Whether no process has the folder open, or none but this one; if so, it is locked."""
    locked = lock(descriptor)
    if locked is not None:
        return locked
    found = re.fullmatch(rb"process (\d+) on (.*)", os.pread(descriptor, 999, 0))
    if found is None:
        return True
    if os.fsencode(os.uname().nodename) != found[2]:
        return False
    holder = int(found[1])
    return (by_others and holder == os.getpid()) or not _is_alive(holder)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the opened file is still the one at `path`."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _remove_files(folder: Path) -> None:
    """Remove all that was written here but the lock."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        if name.endswith(SUFFIX) and name != _LOCK_NAME:
            (folder / name).unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    """Remove the folder, or of one that holds anything else, all that was written here."""
    with contextlib.suppress(OSError):
        _remove_files(folder)
        (folder / _LOCK_NAME).unlink()
        folder.rmdir()
