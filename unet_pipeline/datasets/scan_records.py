"""What is kept of a file after it was read once: small in memory, and bytes for the cache.

Ten thousand pairs are held at once. As dataclasses of tuples and dicts a pair took 1.6 KB; here
numbers are packed, and what many files share (size, type, kind) is one object: 0.7 KB with the
digests.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, cast

from unet_pipeline.datasets.images import Color, Encoding

Objects = tuple[int, int, int, int]
"""The connected objects of one mask value: their number; smallest, median, largest in pixels."""

_NO_OBJECTS = 2**32 - 1  # instead of their number where they were not counted


class _ImageForm(NamedTuple):
    height: int
    width: int
    channels: int
    dtype: str
    kind: str
    bits: int
    orientation: int
    alpha: bool


class _MaskForm(NamedTuple):
    height: int
    width: int
    encoding: Encoding
    lossy: bool
    void: bool
    kind: str
    bits: int
    orientation: int
    alpha: bool


_Form = TypeVar("_Form", _ImageForm, _MaskForm)


class ImageScan:
    """Size, type, sums and hashes of one image; sums and squares hold one number a channel.

    height, width: upright, in pixels; `stored_size` is (height, width) before `orientation` (EXIF
        or TIFF, 1..8) was applied. dtype, channels: as `read_image` gives it.
    low, high: of all channels. picture: a digest of the decoded pixels, equal for equal pictures
        whatever their files. key: a digest of the file's bytes, for `ScanStore`.
    phash: a 64-bit perceptual hash, 0 for a flat picture. alpha: the file has an alpha channel
        that is not opaque everywhere. kind: "png", "jpeg", ... or "made"; bits: of one sample.
    """

    __slots__ = ("_form", "_numbers", "key", "picture")

    height = cast(int, property(attrgetter("_form.height")))
    width = cast(int, property(attrgetter("_form.width")))
    channels = cast(int, property(attrgetter("_form.channels")))
    dtype = cast(str, property(attrgetter("_form.dtype")))
    kind = cast(str, property(attrgetter("_form.kind")))
    bits = cast(int, property(attrgetter("_form.bits")))
    orientation = cast(int, property(attrgetter("_form.orientation")))
    alpha = cast(bool, property(attrgetter("_form.alpha")))

    def __init__(
        self,
        height: int,
        width: int,
        channels: int,
        dtype: str,
        low: float,
        high: float,
        sums: Sequence[float],
        squares: Sequence[float],
        picture: bytes,
        *,
        key: bytes = b"",
        phash: int = 0,
        kind: str = "",
        bits: int = 8,
        orientation: int = 1,
        alpha: bool = False,
    ) -> None:
        form = _ImageForm(height, width, channels, dtype, kind, bits, orientation, alpha)
        self._form = _shared(form)
        self._numbers = struct.pack(f"<Qdd{2 * channels}d", phash, low, high, *sums, *squares)
        self.key = key
        self.picture = picture

    @property
    def phash(self) -> int:
        return int.from_bytes(self._numbers[:8], "little")

    @property
    def low(self) -> float:
        return cast(float, struct.unpack_from("<d", self._numbers, 8)[0])

    @property
    def high(self) -> float:
        return cast(float, struct.unpack_from("<d", self._numbers, 16)[0])

    @property
    def sums(self) -> tuple[float, ...]:
        return struct.unpack_from(f"<{self.channels}d", self._numbers, 24)

    @property
    def squares(self) -> tuple[float, ...]:
        return struct.unpack_from(f"<{self.channels}d", self._numbers, 24 + 8 * self.channels)

    @property
    def stored_size(self) -> tuple[int, int]:
        return _stored_size(self._form)

    def to_bytes(self) -> bytes:
        """All but the key."""
        return _join(self._form, self.picture, self._numbers)

    @classmethod
    def from_bytes(cls, record: bytes, key: bytes) -> ImageScan:
        """The scan that `to_bytes` wrote. Raises ValueError or struct.error for other bytes."""
        self = cls.__new__(cls)
        head, self.picture, self._numbers = _part(record)
        self._form = _image_form(head)
        self.key = key
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageScan) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self._all())

    def _all(self) -> tuple[object, ...]:
        return self._form, self._numbers, self.picture, self.key


class MaskScan:
    """Size, encoding and values of one mask.

    counts: pixels of each value, a colour packed as 0xRRGGBB; the most frequent values only.
    num_values: how many there are in all. palette: the colours of the indices in `counts`.
    objects: of each value but 0, for masks of at most 32 values; None where there are more.
    void: the file marks void pixels itself (-1). wide: it holds more than 8 bits a pixel. The rest:
        see `ImageScan`.
    """

    __slots__ = ("_form", "_numbers")

    height = cast(int, property(attrgetter("_form.height")))
    width = cast(int, property(attrgetter("_form.width")))
    encoding = cast(Encoding, property(attrgetter("_form.encoding")))
    lossy = cast(bool, property(attrgetter("_form.lossy")))
    void = cast(bool, property(attrgetter("_form.void")))
    kind = cast(str, property(attrgetter("_form.kind")))
    bits = cast(int, property(attrgetter("_form.bits")))
    orientation = cast(int, property(attrgetter("_form.orientation")))
    alpha = cast(bool, property(attrgetter("_form.alpha")))

    def __init__(
        self,
        height: int,
        width: int,
        encoding: Encoding,
        counts: Mapping[int, int],
        num_values: int,
        palette: Mapping[int, Color],
        lossy: bool,
        *,
        objects: Mapping[int, Objects] | None = None,
        void: bool = False,
        kind: str = "",
        bits: int = 8,
        orientation: int = 1,
        alpha: bool = False,
    ) -> None:
        form = _MaskForm(height, width, encoding, lossy, void, kind, bits, orientation, alpha)
        self._form = _shared(form)
        colors = [(r << 16) | (g << 8) | b for r, g, b in palette.values()]
        rows = objects or {}
        self._numbers = struct.pack(
            f"<IIII{len(counts)}I{len(counts)}Q{2 * len(colors)}I{5 * len(rows)}I",
            *(num_values, len(counts), len(colors)),
            _NO_OBJECTS if objects is None else len(rows),
            *counts.keys(),
            *counts.values(),
            *palette.keys(),
            *colors,
            *(number for value, row in rows.items() for number in (value, *row)),
        )

    @property
    def num_values(self) -> int:
        return self._heads()[0]

    @property
    def wide(self) -> bool:
        return self.bits > 8

    @property
    def counts(self) -> dict[int, int]:
        count = self._heads()[1]
        numbers = struct.unpack_from(f"<{count}I{count}Q", self._numbers, 16)
        return dict(zip(numbers[:count], numbers[count:], strict=True))

    @property
    def palette(self) -> dict[int, Color]:
        _, num_counts, count, _ = self._heads()
        numbers = struct.unpack_from(f"<{2 * count}I", self._numbers, 16 + 12 * num_counts)
        return {
            value: (color >> 16, (color >> 8) & 255, color & 255)
            for value, color in zip(numbers[:count], numbers[count:], strict=True)
        }

    @property
    def objects(self) -> dict[int, Objects] | None:
        _, num_counts, num_colors, count = self._heads()
        if count == _NO_OBJECTS:
            return None
        start = 16 + 12 * num_counts + 8 * num_colors
        rows = struct.iter_unpack("<5I", self._numbers[start : start + 20 * count])
        return {value: (number, low, mid, high) for value, number, low, mid, high in rows}

    @property
    def stored_size(self) -> tuple[int, int]:
        return _stored_size(self._form)

    def to_bytes(self) -> bytes:
        """All of it."""
        return _join(self._form, b"", self._numbers)

    @classmethod
    def from_bytes(cls, record: bytes) -> MaskScan:
        """The scan that `to_bytes` wrote. Raises ValueError or struct.error for other bytes."""
        self = cls.__new__(cls)
        head, _, self._numbers = _part(record)
        self._form = _mask_form(head)
        return self

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, MaskScan)
            and self._form == other._form
            and self._numbers == other._numbers
        )

    def __hash__(self) -> int:
        return hash((self._form, self._numbers))

    def _heads(self) -> tuple[int, int, int, int]:
        """Number of values; rows of counts, colours and objects."""
        return cast("tuple[int, int, int, int]", struct.unpack_from("<4I", self._numbers))


def _stored_size(form: _ImageForm | _MaskForm) -> tuple[int, int]:
    turned = form.orientation >= 5
    return (form.width, form.height) if turned else (form.height, form.width)


def _shared(form: _Form) -> _Form:
    """One object for equal forms."""
    return cast(_Form, _one(form))


@functools.lru_cache(maxsize=4096)
def _one(form: object) -> object:
    return form


@functools.lru_cache(maxsize=4096)
def _image_form(head: bytes) -> _ImageForm:
    return _shared(_ImageForm(*json.loads(head)))


@functools.lru_cache(maxsize=4096)
def _mask_form(head: bytes) -> _MaskForm:
    return _shared(_MaskForm(*json.loads(head)))


@functools.lru_cache(maxsize=4096)
def _head(form: tuple[Any, ...]) -> bytes:
    return json.dumps(form).encode()


def _join(form: tuple[Any, ...], picture: bytes, numbers: bytes) -> bytes:
    head = _head(form)
    return struct.pack("<HH", len(head), len(picture)) + head + picture + numbers


def _part(record: bytes) -> tuple[bytes, bytes, bytes]:
    head, picture = struct.unpack_from("<HH", record)
    return record[4 : 4 + head], record[4 + head : 4 + head + picture], record[4 + head + picture :]
