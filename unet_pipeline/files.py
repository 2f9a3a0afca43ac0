"""Files whole or absent: atomic writes, a lock on a folder, clear words for a full disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import platformdirs

from unet_pipeline.errors import OutputInUseError, ResourceError, UserError

# What the operating system says when the machine, not the program, is at fault.
_RESOURCE_ERRNOS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the size limit",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
}

_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


LOCK_NAME = ".lock"
"""The file by which a process holds a folder."""


def cache_folder() -> Path:
    """Where this program keeps what it can get again: $UNET_CACHE_DIR, or the user's cache."""
    named = os.environ.get("UNET_CACHE_DIR")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("unet-pipeline")


def resource_reason(error: OSError) -> str | None:
    """What is wrong with the machine, in words; None where the program is at fault."""
    return _RESOURCE_ERRNOS.get(error.errno or 0)


@contextlib.contextmanager
def resource_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write at `path` into one-line `ResourceError`s."""
    try:
        yield
    except OSError as error:
        reason = resource_reason(error)
        if reason is None:
            raise
        raise _refused(path, reason) from error


def _refused(path: Path, reason: str) -> ResourceError:
    return ResourceError(f"cannot write {path}: {reason}; free or choose another place")


@contextlib.contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it becomes `path` in one step.

    Readers see the old file or the whole new one, also after a power cut: the file and its folder
    are flushed to the disk. durable: False leaves that to whoever writes thousands of files and
    flushes all of them before the one that counts. On any exception the temporary file is
    removed and `path` is untouched. A symbolic link at `path` is replaced, never followed.
    """
    # A name of its own length: `path.name` may already be as long as names may be
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    with resource_errors(path):
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with resource_errors(path):
            yield temporary
            if durable:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
            if durable:
                _fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Write `data` to `path` so that the file is either the old one or the whole new one.

    Text is UTF-8; what names of files hold instead comes out as it went in. durable: see
    `atomic_path`.
    """
    with atomic_path(path, durable=durable) as temporary:
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogateescape")
        temporary.write_bytes(data)


def make_writable_folder(folder: Path) -> Path:
    """Create `folder` and prove that files can be made in it, before any work is spent.

    Raises `UserError` where a file is in the way and `ResourceError` where writing is refused.
    """
    with _folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    return folder


@contextlib.contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    """`resource_errors`, and one line too for all else that hinders the making of `folder`."""
    try:
        with resource_errors(folder):
            yield
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"cannot make the folder {folder}: a file is in the way; choose another folder"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder}: {error.strerror}; choose another"
        ) from error


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make `folder` as `make_writable_folder`, and remove it where an error leaves it empty."""
    existed = folder.exists()
    make_writable_folder(folder)
    try:
        yield
    except BaseException:
        if not existed:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def require_writable(folder: Path) -> None:
    """Raise `ResourceError` or `UserError` where `folder` could not be made; makes nothing."""
    existing = folder.absolute()
    with _folder_errors(folder):
        while not _is_there(existing):
            existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"cannot make the folder {folder}: {existing} is a file; choose another")
    if not os.access(existing, os.W_OK | os.X_OK):
        reason = _RESOURCE_ERRNOS[errno.EROFS if _is_read_only(existing) else errno.EACCES]
        raise _refused(folder, reason)
    with _folder_errors(folder):
        for name in folder.absolute().relative_to(existing).parts:
            _is_there(existing / name)  # file systems differ in how long names may be


def _is_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _is_there(path: Path) -> bool:
    """As `path.exists()`, which keeps to itself, by the version of Python, why it cannot know."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; raises `OutputInUseError` where another one holds it.

    The lock is the kernel's, so it vanishes with its process, however that ends. Where the file
    system has no locks (some network shares), the folder is used without one.
    """
    import fcntl  # not on Windows; the lock is the only thing here that needs it

    path = folder / LOCK_NAME
    while True:
        with resource_errors(path):
            file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().decode(errors="replace").strip() or "another process"
            file.close()
            raise OutputInUseError(
                f"{folder} is in use by {holder}: wait for it to end, or choose another folder"
            ) from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                file.close()
                raise
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # its last holder removed it between our two steps: once more
    with file:
        try:
            with resource_errors(path):
                file.truncate(0)
                os.write(file.fileno(), f"process {os.getpid()} on {os.uname().nodename}".encode())
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(folder: Path, *, last: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty hidden folder; on success what was put there is in `folder`, all at once.

    `folder` exists, and is held by `folder_lock`; names that are put there are not in it yet.
    Where it holds nothing but that lock, the hidden folder beside it takes its name in one step,
    so that however the process ends, there is never half of it. Else, and where `folder` is a
    mount or the folder above cannot be written, its entries are moved, those in `last` at the end.
    What an earlier process has left under the hidden name is removed. On any exception, and where
    nothing was put there, `folder` stays as it was.
    """
    target = Path(os.path.realpath(folder))
    staged = _hidden_place(target)
    with resource_errors(folder):
        _remove(staged)
        staged.mkdir()
    try:
        with _errors_of(folder, staged):
            yield staged
        with resource_errors(folder):
            _move_into(staged, target, last)
    finally:
        _remove(staged)


@contextlib.contextmanager
def _errors_of(folder: Path, staged: Path) -> Iterator[None]:
    """Tell refusals to write in `staged`, which nobody has heard of, as ones of `folder`."""
    try:
        yield
    except ResourceError as error:
        if str(staged) not in str(error):
            raise
        raise ResourceError(str(error).replace(str(staged), str(folder))) from error
    except OSError as error:
        reason = resource_reason(error)
        if reason is None or str(staged) not in str(error.filename or staged):
            raise
        place = str(error.filename or folder).replace(str(staged), str(folder))
        raise _refused(Path(place), reason) from error


def holds_nothing(folder: Path) -> bool:
    """Whether `folder` is empty but for what `folder_lock` and `staged_folder` leave there."""
    own = {LOCK_NAME, _hidden_place(Path(os.path.realpath(folder))).name}
    return {entry.name for entry in folder.iterdir()} <= own


def _hidden_place(target: Path) -> Path:
    """Beside `target` where it can be renamed from there, else in it; the same for everyone."""
    above = target.parent
    beside = not target.is_mount() and os.access(above, os.W_OK | os.X_OK)
    # of one length: the name of the folder may be as long as names may be
    name = hashlib.blake2b(os.fsencode(target.name), digest_size=6).hexdigest()
    return (above if beside else target) / f".unfinished-{name}"


def _move_into(staged: Path, target: Path, last: Sequence[str]) -> None:
    names = sorted((path.name for path in staged.iterdir()), key=lambda n: (n in last, n))
    if not names:
        return
    if staged.parent != target and holds_nothing(target):
        (target / LOCK_NAME).unlink(missing_ok=True)
        target.rmdir()
        staged.rename(target)
        _fsync_folder(target.parent)
        return
    for name in names:
        (staged / name).rename(target / name)
    _fsync_folder(target)


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:  # some network shares flush no folders
            raise
    finally:
        os.close(descriptor)
