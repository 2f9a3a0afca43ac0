"""What the head of a file says that its pixels do not: format, bits, orientation, alpha."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "npz"),
    (b"MATLAB", "mat"),
    (b"\x89HDF", "mat"),
)

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_BITS, _ORIENTATION, _EXTRA_SAMPLES = 258, 274, 338
_ALPHA = (1, 2)  # associated and unassociated; 0 is unspecified data


class FileKind(NamedTuple):
    """What a file is.

    name: "png", "jpeg", ...; empty for what is not known here. bits: of one sample, 0 where the
    format leaves that to the type of its numbers. orientation: EXIF or TIFF, 1..8.
    may_hold_alpha: there is an alpha channel, or colours are declared transparent; whether any
        pixel is, `Raster.alpha` says.
    """

    name: str
    bits: int = 0
    orientation: int = 1
    may_hold_alpha: bool = False


def file_kind(data: bytes) -> FileKind:
    """What the file with the content `data` is; it has been decoded before, so it is sound."""
    try:
        if data.startswith(_TIFF):
            return _tiff(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        name = next((name for head, name in _SIGNATURES if data.startswith(head)), "")
        if name == "png":
            return _png(data)
        if name == "jpeg":
            return FileKind(name, 8, _jpeg_orientation(data))
        if name == "gif":
            return FileKind(name, 8, may_hold_alpha=True)
        if name == "npy":
            number = re.search(rb"'descr': *'[<>|=]?[a-z](\d+)'", data[:1024])
            return FileKind(name, 8 * int(number[1]) if number else 0)
        return FileKind(name, 8 if name == "bmp" else 0)
    except struct.error:  # a list of parts that ends early, which decoders may forgive
        return FileKind("")


def _png(data: bytes) -> FileKind:
    depth, color = data[24], data[25]
    orientation, alpha = 1, color in (4, 6)
    place = 8
    while place < len(data):
        length, chunk = struct.unpack_from(">I4s", data, place)
        if chunk == b"eXIf":
            orientation = _orientation(data[place + 8 : place + 8 + length])
        alpha = alpha or chunk == b"tRNS"
        place += 12 + length
    return FileKind("png", depth, orientation, alpha)


def _webp(data: bytes) -> FileKind:
    orientation, alpha = 1, False
    place = 12
    while place + 8 <= len(data):
        chunk, length = struct.unpack_from("<4sI", data, place)
        if chunk == b"EXIF":
            orientation = _orientation(data[place + 8 : place + 8 + length])
        elif chunk == b"VP8X":
            alpha = alpha or bool(data[place + 8] & 0x10)
        elif chunk == b"VP8L":
            alpha = alpha or bool(data[place + 12] & 0x10)
        place += 8 + length + length % 2
    return FileKind("webp", 8, orientation, alpha)


def _jpeg_orientation(data: bytes) -> int:
    place = 2
    while data[place : place + 1] == b"\xff":
        marker, length = struct.unpack_from(">xBH", data, place)
        if marker == 0xDA:  # the pixels begin
            break
        if marker == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            return _orientation(data[place + 10 : place + 2 + length])
        place += 2 + length
    return 1


def _tiff(data: bytes) -> FileKind:
    tags = dict(_short_tags(data))
    orientation = tags.get(_ORIENTATION, (1,))[0]
    return FileKind(
        "tiff",
        tags.get(_BITS, (1,))[0],
        orientation if 1 <= orientation <= 8 else 1,
        tags.get(_EXTRA_SAMPLES, (0,))[-1] in _ALPHA,
    )


def _orientation(exif: bytes) -> int:
    """The orientation in a block of EXIF data; 1 where there is none or the block is damaged."""
    block = exif.removeprefix(b"Exif\0\0")
    if not block.startswith((b"II", b"MM")):
        return 1
    try:
        for tag, values in _short_tags(block):
            if tag == _ORIENTATION:
                return values[0] if 1 <= values[0] <= 8 else 1
    except struct.error:
        pass
    return 1


def _short_tags(data: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The tags of 16-bit numbers in the first directory of a TIFF or EXIF block."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\0", b"\0+"):  # BigTIFF
        start, head, entry, word = struct.unpack_from(order + "Q", data, 8)[0], "Q", "HHQ", "Q"
    else:
        start, head, entry, word = struct.unpack_from(order + "I", data, 4)[0], "H", "HHI", "I"
    (count,) = struct.unpack_from(order + head, data, start)
    start += struct.calcsize("=" + head)
    inline, step = struct.calcsize("=" + word), struct.calcsize("=" + entry + word)
    for place in range(start, start + step * count, step):
        tag, kind, number = struct.unpack_from(order + entry, data, place)
        if kind != 3 or not number:
            continue
        at = place + step - inline
        if 2 * number > inline:
            (at,) = struct.unpack_from(order + word, data, at)
        yield tag, struct.unpack_from(f"{order}{min(number, 1024)}H", data, at)
