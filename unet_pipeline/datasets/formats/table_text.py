"""The text of a table, which spreadsheets write in several encodings, and the names in it."""

from __future__ import annotations

import codecs
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from unet_pipeline.errors import DatasetError

WINDOWS = "cp1252"
"""What Excel takes for CSV in Western Europe and the Americas."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded(content: bytes, path: Path, *, whole: bool = True) -> tuple[str, str]:
    """The text of a table and its encoding; whole: where not, the last character may be cut.

    That is what a byte order mark says (Excel writes "Unicode text" as UTF-16), or UTF-8, or
    `WINDOWS`. Raises `DatasetError` where it is none of them.
    """
    marked = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    for encoding in (marked,) if marked else ("utf-8", WINDOWS):
        with contextlib.suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(encoding)().decode(content, whole)
            if "\0" not in text:
                return text, encoding
    names = marked or f"utf-8 or {WINDOWS}"
    raise DatasetError(f"{path}: is no text in {names}: save it as CSV UTF-8")


def spellings(cell: str) -> Iterator[str]:
    """What the name of a file may be where a cell says so: as it is, or of Windows."""
    yield from (cell, cell.replace("\\", "/"))
    with contextlib.suppress(UnicodeEncodeError):  # unpacked of an old archive, byte by byte
        yield os.fsdecode(cell.replace("\\", "/").encode(WINDOWS))


def readable(path: Path) -> str:
    """A path as text that can be written: names that are no UTF-8 as Windows takes them."""
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError:
        return os.fsencode(path).decode(WINDOWS, "replace")
