"""The two tables of the cache of scans, in an SQLite file that may be damaged, locked or full.

`scans` has the record of each content, `files` the content that each path held when it was read.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unet_pipeline.datasets.scan.reading import Reading

TABLES = """
CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, stamp BLOB, key BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scans (
    key BLOB, topic TEXT, record BLOB, picture BLOB, seen INTEGER, PRIMARY KEY (key, topic));
"""

PATIENCE_S = 2.0
"""Until another process has written its batch, which takes milliseconds."""

ERRORS = (sqlite3.Error, UnicodeError)
"""What reading and writing raise: a damaged file has damaged text."""

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def find(databases: Sequence[sqlite3.Connection], topic: str, key: bytes) -> bytes | None:
    """The record of equal content, from any of the databases."""
    query = "SELECT record, picture FROM scans WHERE key = ? AND topic = ?"
    row = first(databases, query, (key, topic))
    return None if row is None else sound(*row)


def first(
    databases: Sequence[sqlite3.Connection], query: str, values: tuple[object, ...]
) -> tuple[Any, ...] | None:
    """The first row that any of the databases has, the newest first."""
    return next(rows(databases, query, values), None)


def rows(
    databases: Sequence[sqlite3.Connection], query: str, values: tuple[object, ...]
) -> Iterator[tuple[Any, ...]]:
    """One row of each of the databases that has one, the newest database first."""
    for database in reversed(databases):
        try:
            row: tuple[Any, ...] | None = database.execute(query, values).fetchone()
        except ERRORS:  # damaged or locked: as if it were not there
            continue
        if row is not None:
            yield row


def connect(path: Path) -> sqlite3.Connection:
    """The database in a file, with its tables; the file is made where there is none."""
    database = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
    try:
        # Before any table: the file shrinks when rows are thrown out
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(TABLES)
    except BaseException:
        database.close()
        raise
    return database


def is_damage(error: Exception) -> bool:
    """Whether an error says that the file is damaged, and not locked, full or read-only."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says where
    return code in _DAMAGED or isinstance(error, UnicodeError)


def remove(path: Path) -> None:
    """Delete a database with what lies beside it, as far as that can be."""
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(OSError):  # another process may have it open, or removed it
            path.with_name(path.name + suffix).unlink()


def write(
    database: sqlite3.Connection,
    pending: list[tuple[str, bytes | None, Reading]],
    seen: set[bytes],
) -> None:
    """Keep readings, each with its topic and the place of its file; seen: keys that were used."""
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
    except ERRORS:
        with contextlib.suppress(sqlite3.Error):  # some errors have rolled back already
            database.execute("ROLLBACK")
        raise


def prune(database: sqlite3.Connection, limit: int) -> None:
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


def sound(record: bytes, picture: bytes | None) -> bytes | None:
    """The record, where neither it nor what belongs to it is damaged."""
    return None if picture is not None and unseal(picture) is None else unseal(record)


def unseal(sealed: bytes) -> bytes | None:
    """What was sealed; None where it is damaged."""
    content = sealed[4:]
    return content if sealed[:4] == struct.pack("<I", zlib.crc32(content)) else None
