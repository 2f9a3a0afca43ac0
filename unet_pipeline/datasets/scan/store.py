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
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.scan import tables
from unet_pipeline.datasets.scan.content import stamp_of
from unet_pipeline.datasets.scan.picture_hash import SIDE
from unet_pipeline.datasets.scan.pixels import Picture
from unet_pipeline.datasets.scan.reading import (
    Find,
    Reading,
    read_details,
    read_part,
    topic_of,
    topic_of_details,
)
from unet_pipeline.datasets.scan.records import PairScan
from unet_pipeline.files import cache_folder

logger = logging.getLogger(__name__)

SIZE_LIMIT = 256 * 2**20
"""Bytes beyond which what was not seen for longest is thrown out."""

FILE_NAME = "scans-1.sqlite"
"""To be changed with the tables, so that versions of the program do not disturb each other."""

_BATCH = 256  # readings a transaction
_FRESH_NS = 20_000_000  # the clock of file times ticks every 4 to 10 ms
_DAY_S = 86_400


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
        self._real: dict[str, str] = {}
        self._damaged: list[Path] = []
        self.paths: list[Path] = []
        folder = folder or cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open(folder / FILE_NAME)
        except (OSError, *tables.ERRORS) as error:
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
        row = tables.first(
            self._databases,
            "SELECT record, picture, scans.key, seen, stamp FROM files JOIN scans "
            "ON scans.key = files.key AND topic = ? WHERE path = ?",
            (topic, self._place(path)),
        )
        if row is None or not stamp or row[4] != stamp.encode():
            return None
        record = tables.sound(row[0], row[1])
        if record is None:
            self._fall_back(sqlite3.DatabaseError("a checksum is wrong"), damaged=True)
            return None
        if row[3] < time.time() - _DAY_S:
            self._seen.add(row[2])
        return row[2], record

    def find(self, topic: str, key: bytes) -> bytes | None:
        """The record of any file of equal content."""
        return tables.find(self._databases, topic, key)

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

        For uint8 from 0 to 255. Read anew where the cache has lost it; None where the file is gone.
        """
        picture = self._picture(scan)
        return None if picture is None else picture.histogram

    def thumbnail(self, scan: PairScan) -> npt.NDArray[np.uint8] | None:
        """The image in grey, 16x16; None where it was lost and the file is gone."""
        picture = self._picture(scan)
        return None if picture is None else picture.thumbnail

    def details(self, scan: PairScan) -> npt.NDArray[np.float16] | None:
        """`details_of` the image (SIDE, SIDE, C): kept once they were asked for, as few ever are.

        None where the file cannot be read, or is another one by now.
        """
        source, key = scan.pair.image, scan.image.key
        topic = topic_of_details(source)
        kept = self.find(topic, key)
        if kept is None:
            reading = read_details(source, key)
            if reading is None:
                return None
            self.add(topic, None, reading)
            kept = reading.record
        return np.frombuffer(kept, np.float16).reshape(SIDE, SIDE, -1)

    def flush(self) -> None:
        """Write what was added."""
        pending, self._pending = self._pending, []
        seen, self._seen = self._seen, set()
        if not pending and not seen:
            return
        while True:
            try:
                tables.write(self._databases[-1], pending, seen)
            except tables.ERRORS as error:
                self._fall_back(error)
            else:
                return

    def close(self) -> None:
        """Write what is left, throw out what is too much, close."""
        self.flush()
        for database in self._databases:
            with contextlib.suppress(*tables.ERRORS):
                tables.prune(database, SIZE_LIMIT)
            with contextlib.suppress(sqlite3.Error):
                database.close()
        for path in self._damaged:
            tables.remove(path)
        if self._temporary is not None:
            self._temporary.cleanup()

    def _open(self, path: Path) -> None:
        try:
            database = tables.connect(path)
        except tables.ERRORS as error:
            if not tables.is_damage(error):
                raise
            logger.debug("%s is damaged (%s) and is begun anew", path, error)
            tables.remove(path)
            database = tables.connect(path)
        self._databases.append(database)
        self.paths.append(path)

    def _fall_back(self, error: Exception, *, damaged: bool = False) -> None:
        """Go on with a temporary file, or where that fails too, in memory."""
        logger.debug("the cache of scans cannot be used (%s); a temporary one is", error)
        if self.paths and (damaged or tables.is_damage(error)):
            self._damaged.append(self.paths[-1])  # what it still has is read until the end
        if self._temporary is None:
            try:
                self._temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
                self._open(Path(self._temporary.name) / FILE_NAME)
            except (OSError, *tables.ERRORS) as second:
                logger.debug("nor can a temporary one (%s); memory is used", second)
            else:
                return
        memory = sqlite3.connect(":memory:", isolation_level=None)
        memory.executescript(tables.TABLES)
        self._databases.append(memory)

    def _picture(self, scan: PairScan) -> Picture | None:
        if self._pending:
            self.flush()
        query = "SELECT picture FROM scans WHERE key = ? AND topic = ?"
        values = (scan.image.key, topic_of("image", scan.pair.image))
        for (sealed,) in tables.rows(self._databases, query, values):
            content = None if sealed is None else tables.unseal(sealed)
            if content is not None:
                return Picture.from_bytes(content)
        # Damaged since, or thrown out by another process: measured once more
        again = read_part("image", scan.pair.image, (), lambda _, __: None)
        if isinstance(again, str) or again.picture is None or again.key != scan.image.key:
            return None
        return Picture.from_bytes(again.picture)

    def _place(self, path: Path) -> bytes:
        """The real path of a file, as bytes: not every name is text."""
        folder, name = os.path.split(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return os.fsencode(f"{self._real[folder]}{os.sep}{name}")


def finder(paths: Sequence[Path]) -> Find:
    """`ScanStore.find` for another process, which only reads."""
    databases = []
    for path in paths:
        with contextlib.suppress(sqlite3.Error):
            uri = f"{path.absolute().as_uri()}?mode=ro"
            databases.append(sqlite3.connect(uri, uri=True, timeout=tables.PATIENCE_S))
    return functools.partial(tables.find, databases)
