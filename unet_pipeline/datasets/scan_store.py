"""What was read of files, kept in the user's cache under a digest of their content.

A file that was not touched since is not even opened; one that was moved or copied is read but not
decoded. The cache is a convenience: where it cannot be used, a temporary one takes its place.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import platformdirs

from unet_pipeline.datasets.scan_pixels import Find, Picture, Reading, stamp_of, topic_of

if TYPE_CHECKING:  # which imports this
    from unet_pipeline.datasets.scan import PairScan

logger = logging.getLogger(__name__)

SIZE_LIMIT = 256 * 2**20
"""Bytes beyond which what was not seen for longest is thrown out."""

FILE_NAME = "scans-1.sqlite"
"""To be changed with the tables, so that versions of the program do not disturb each other."""

_TABLES = """
CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, stamp BLOB, key BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scans (
    key BLOB, topic TEXT, record BLOB, picture BLOB, seen INTEGER, PRIMARY KEY (key, topic));
"""

_BATCH = 256  # readings a transaction
_PATIENCE_S = 2.0  # until another process has written its batch, which takes milliseconds
_FRESH_NS = 20_000_000  # the clock of file times ticks every 4 to 10 ms
_DAY_S = 86_400
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_ERRORS = (sqlite3.Error, UnicodeError)  # a damaged file has damaged text


def cache_folder() -> Path:
    """Where this program keeps what it can compute again: $UNET_CACHE_DIR, or the user's cache."""
    named = os.environ.get("UNET_CACHE_DIR")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("unet-pipeline")


class ScanStore:
    """Records of scans by content, and by place for files that did not change; a context manager.

    folder: of the file; `cache_folder()` where None. Nothing here raises because of the cache: a
    damaged file is replaced, one that is locked, full or read-only is read as far as possible and
    completed by a temporary one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._databases: list[sqlite3.Connection] = []
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._pending: list[tuple[str, bytes | None, Reading]] = []
        self._seen: set[bytes] = set()
        self._real: dict[Path, str] = {}
        self._damaged: list[Path] = []
        self.paths: list[Path] = []
        folder = folder or cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open(folder / FILE_NAME)
        except (OSError, *_ERRORS) as error:
            self._fall_back(error)

    def __enter__(self) -> ScanStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def recall(self, path: Path, topic: str) -> tuple[bytes, bytes] | None:
        """Key and record of a file that did not change since it was read."""
        stamp = stamp_of(path)
        row = _first(
            self._databases,
            "SELECT record, picture, scans.key, seen, stamp FROM files JOIN scans "
            "ON scans.key = files.key AND topic = ? WHERE path = ?",
            (topic, self._place(path)),
        )
        if row is None or not stamp or row[4] != stamp.encode():
            return None
        record = _sound(row[0], row[1])
        if record is None:
            self._fall_back(sqlite3.DatabaseError("a checksum is wrong"), damaged=True)
            return None
        if row[3] < time.time() - _DAY_S:
            self._seen.add(row[2])
        return row[2], record

    def find(self, topic: str, key: bytes) -> bytes | None:
        """The record of any file of equal content."""
        return _find(self._databases, topic, key)

    def add(self, topic: str, path: Path | None, reading: Reading) -> None:
        """Keep what was read; path: of the file, None for what has none."""
        place = None
        if path is not None and reading.stamp:
            modified = int(reading.stamp.split(":")[1])
            # A second change within one tick of the clock would leave no trace
            if not 0 <= time.time_ns() - modified < _FRESH_NS:
                place = self._place(path)
        self._pending.append((topic, place, reading))
        if len(self._pending) >= _BATCH:
            self.flush()

    def histogram(self, scan: PairScan) -> npt.NDArray[np.int64] | None:
        """Pixels (C, 256) of the image at each step from its lowest to its highest value.

        For uint8 from 0 to 255. None where it was lost.
        """
        picture = self._picture(scan)
        return None if picture is None else picture.histogram

    def thumbnail(self, scan: PairScan) -> npt.NDArray[np.uint8] | None:
        """The image in grey, 16x16; None where it was lost."""
        picture = self._picture(scan)
        return None if picture is None else picture.thumbnail

    def flush(self) -> None:
        """Write what was added."""
        pending, self._pending = self._pending, []
        seen, self._seen = self._seen, set()
        if not pending and not seen:
            return
        while True:
            try:
                _write(self._databases[-1], pending, seen)
            except _ERRORS as error:
                self._fall_back(error)
            else:
                return

    def close(self) -> None:
        """Write what is left, throw out what is too much, close."""
        self.flush()
        for database in self._databases:
            with contextlib.suppress(*_ERRORS):
                _prune(database, SIZE_LIMIT)
            with contextlib.suppress(sqlite3.Error):
                database.close()
        for path in self._damaged:
            _remove(path)
        if self._temporary is not None:
            self._temporary.cleanup()

    def _open(self, path: Path) -> None:
        try:
            database = _connect(path)
        except _ERRORS as error:
            if not _is_damage(error):
                raise
            logger.debug("%s is damaged (%s) and is begun anew", path, error)
            _remove(path)
            database = _connect(path)
        self._databases.append(database)
        self.paths.append(path)

    def _fall_back(self, error: Exception, *, damaged: bool = False) -> None:
        """Go on with a temporary file, or where that fails too, in memory."""
        logger.debug("the cache of scans cannot be used (%s); a temporary one is", error)
        if self.paths and (damaged or _is_damage(error)):
            self._damaged.append(self.paths[-1])  # what it still has is read until the end
        if self._temporary is None:
            try:
                self._temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
                self._open(Path(self._temporary.name) / FILE_NAME)
            except (OSError, *_ERRORS) as second:
                logger.debug("nor can a temporary one (%s); memory is used", second)
            else:
                return
        memory = sqlite3.connect(":memory:", isolation_level=None)
        memory.executescript(_TABLES)
        self._databases.append(memory)

    def _picture(self, scan: PairScan) -> Picture | None:
        if self._pending:
            self.flush()
        query = "SELECT picture FROM scans WHERE key = ? AND topic = ?"
        values = (scan.image.key, topic_of("image", scan.pair.image))
        for (sealed,) in _rows(self._databases, query, values):
            content = None if sealed is None else _unseal(sealed)
            if content is not None:
                return Picture.from_bytes(content)
        return None

    def _place(self, path: Path) -> bytes:
        """The real path of a file, as bytes: not every name is text."""
        folder = path.parent
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return os.fsencode(f"{self._real[folder]}{os.sep}{path.name}")


def finder(paths: Sequence[Path]) -> Find:
    """`ScanStore.find` for another process, which only reads."""
    databases = []
    for path in paths:
        with contextlib.suppress(sqlite3.Error):
            uri = f"{path.absolute().as_uri()}?mode=ro"
            databases.append(sqlite3.connect(uri, uri=True, timeout=_PATIENCE_S))
    return functools.partial(_find, databases)


def _find(databases: Sequence[sqlite3.Connection], topic: str, key: bytes) -> bytes | None:
    query = "SELECT record, picture FROM scans WHERE key = ? AND topic = ?"
    row = _first(databases, query, (key, topic))
    return None if row is None else _sound(*row)


def _first(
    databases: Sequence[sqlite3.Connection], query: str, values: tuple[object, ...]
) -> tuple[Any, ...] | None:
    """The first row that any of the databases has, the newest first."""
    return next(_rows(databases, query, values), None)


def _rows(
    databases: Sequence[sqlite3.Connection], query: str, values: tuple[object, ...]
) -> Iterator[tuple[Any, ...]]:
    for database in reversed(databases):
        try:
            row: tuple[Any, ...] | None = database.execute(query, values).fetchone()
        except _ERRORS:  # damaged or locked: as if it were not there
            continue
        if row is not None:
            yield row


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None)
    try:
        # Before any table: the file shrinks when rows are thrown out
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_TABLES)
    except BaseException:
        database.close()
        raise
    return database


def _is_damage(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says where
    return code in _DAMAGED or isinstance(error, UnicodeError)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(OSError):  # another process may have it open, or removed it
            path.with_name(path.name + suffix).unlink()


def _write(
    database: sqlite3.Connection,
    pending: list[tuple[str, bytes | None, Reading]],
    seen: set[bytes],
) -> None:
    now = int(time.time())
    files = [(place, r.stamp.encode(), r.key) for _, place, r in pending if place is not None]
    scans = [
        (r.key, topic, _seal(r.record), None if r.picture is None else _seal(r.picture), now)
        for topic, _, r in pending
        if r.decoded
    ]
    database.execute("BEGIN IMMEDIATE")
    try:
        database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", files)
        database.executemany("INSERT OR REPLACE INTO scans VALUES (?, ?, ?, ?, ?)", scans)
        database.executemany("UPDATE scans SET seen = ? WHERE key = ?", [(now, k) for k in seen])
        database.execute("COMMIT")
    except _ERRORS:
        with contextlib.suppress(sqlite3.Error):  # some errors have rolled back already
            database.execute("ROLLBACK")
        raise


def _prune(database: sqlite3.Connection, limit: int) -> None:
    """Throw out the scans that were not seen for longest, until the rest takes `limit` bytes."""
    while _size(database) > limit:
        (count,) = database.execute("SELECT count(*) FROM scans").fetchone()
        if not count:
            return
        database.execute("BEGIN IMMEDIATE")
        database.execute(
            "DELETE FROM scans WHERE (key, topic) IN "
            "(SELECT key, topic FROM scans ORDER BY seen LIMIT ?)",
            (count // 10 + 1,),
        )
        database.execute("DELETE FROM files WHERE key NOT IN (SELECT key FROM scans)")
        database.execute("COMMIT")
        database.executescript("PRAGMA incremental_vacuum")  # `execute` gives back one page only


def _size(database: sqlite3.Connection) -> int:
    total, free, page = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (total - free) * page


def _seal(content: bytes) -> bytes:
    """`content` with its checksum: a damaged page of the file must not become a fact."""
    return struct.pack("<I", zlib.crc32(content)) + content


def _sound(record: bytes, picture: bytes | None) -> bytes | None:
    """The record, where neither it nor what belongs to it is damaged."""
    return None if picture is not None and _unseal(picture) is None else _unseal(record)


def _unseal(sealed: bytes) -> bytes | None:
    content = sealed[4:]
    return content if sealed[:4] == struct.pack("<I", zlib.crc32(content)) else None
