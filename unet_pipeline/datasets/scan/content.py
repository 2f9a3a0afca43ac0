"""What tells whether a file, or what is made of files, is what it was: digests and stamps."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

MADE_RULES = ""
"""Of what is `Made`: to be changed when the same annotations come out as other pixels.

Caches and `prepare --update` would keep the former masks else. It is no part of the digests of
images, which splits are drawn by."""


def content_key(data: bytes) -> bytes:
    """16 bytes that stand for the content of a file."""
    return hashlib.sha256(data).digest()[:16]  # processors have instructions for SHA-256


def content_digest(image_key: bytes, mask_key: bytes, *, made: bool = False) -> str:
    """32 hexadecimal digits for the content of both files of a pair, by their `content_key`.

    made: image or mask is `Made`, so that the rules count too.
    """
    rules = MADE_RULES.encode() if made else b""
    return hashlib.blake2b(image_key + mask_key + rules, digest_size=16).hexdigest()


def stamp_of(path: Path) -> str:
    """What changes with the content of a file, as far as its folder knows.

    The time of the last change of its entry tells of files whose time was set back. Empty where
    there is no such file.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  three times as fast
    except (OSError, ValueError):  # ValueError: a null character in the name
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"
