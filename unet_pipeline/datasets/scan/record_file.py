"""Bytes of many records, which go to a temporary file before they fill memory."""

from __future__ import annotations

import tempfile
import threading
import weakref

_MOST_HELD = 2**19  # bytes, of a few thousand records
_PAGE = 2**16  # bytes that are read at a time: records are mostly asked for in their order


class RecordFile:
    """Records one behind the other; a record is known by where it starts and ends.

    Where the disk takes no more, what comes is held in memory. To be used by several threads.
    """

    def __init__(self) -> None:
        self._held = bytearray()  # from `_written` on
        self._written = 0
        self._may_write = True
        self._page_start, self._page = 0, b""
        self._lock = threading.Lock()

    def append(self, record: bytes) -> int:
        """Add a record; where it ends, which is where the next one starts."""
        with self._lock:
            self._held += record
            if len(self._held) >= _MOST_HELD and self._may_write:
                self._write()
            return self._written + len(self._held)

    def read(self, start: int, end: int) -> bytes:
        """Records that came one after the other, from the start of one to the end of another."""
        with self._lock:
            if start >= self._written:
                return bytes(self._held[start - self._written : end - self._written])
            if end > self._written:
                return self._read(start, self._written) + self._held[: end - self._written]
            return self._read(start, end)

    def _write(self) -> None:
        try:
            if not self._written:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  until the end
                weakref.finalize(self, self._file.close)
            self._file.seek(self._written)
            left = memoryview(self._held)
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            self._may_write = False
        else:
            self._written += len(self._held)
            self._held = bytearray()

    def _read(self, start: int, end: int) -> bytes:
        place = start - self._page_start
        if place < 0 or end > self._page_start + len(self._page):
            self._file.seek(start)
            self._page = self._file.read(max(_PAGE, end - start))
            self._page_start, place = start, 0
        return self._page[place : place + end - start]
