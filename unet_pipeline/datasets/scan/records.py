"""What is kept of a file after it was read once: small in memory, and bytes for the cache.

What is known of twenty thousand pairs is held at once (`ScanTable`). So the numbers of a file are
packed into one `bytes`, the same in memory, in a file and in the cache, and what is alike in many
files (size, type, mask values) is one object for all of them.

A check makes each scan anew two dozen times. They are not frozen, which would triple the time of
making one; nothing changes them, and the table would not see it.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from unet_pipeline.datasets.images import Color, Encoding
from unet_pipeline.datasets.scan.content import content_digest

if TYPE_CHECKING:  # worker processes do without
    from unet_pipeline.datasets.formats import Pair

_DIGEST = 16  # bytes of `picture_digest`
_HASHES = struct.Struct(f"<Q{_DIGEST}s")  # perceptual hash, digest of the pixels


class Objects(NamedTuple):
    """The connected objects of one mask value: their number, and sizes in pixels."""

    number: int
    smallest: int
    median: int
    largest: int


class ImageFacts(NamedTuple):
    """What many images have in common; see `ImageScan`."""

    height: int
    width: int
    kind: str
    bits: int
    orientation: int
    alpha: bool
    channels: int
    dtype: str


class MaskFacts(NamedTuple):
    """What many masks have in common; see `MaskScan`."""

    height: int
    width: int
    kind: str
    bits: int
    orientation: int
    alpha: bool
    encoding: Encoding
    lossy: bool
    void: bool
    num_values: int
    has_objects: bool
    overlap: int


class MaskValues(NamedTuple):
    """The values that a mask lists, ascending; of palette indices, the colour of each."""

    values: tuple[int, ...]
    colors: tuple[Color, ...] | None


class _File:
    """What is said alike of images and masks.

    height, width: upright, in pixels; `stored_size` is (height, width) before `orientation` (EXIF
        or TIFF, 1..8) was applied.
    kind: "png", "jpeg", ... or "made". bits: of one sample.
    alpha: the file has an alpha channel that is not opaque everywhere.
    """

    __slots__ = ()
    facts: ImageFacts | MaskFacts

    @property
    def height(self) -> int:
        return self.facts.height

    @property
    def width(self) -> int:
        return self.facts.width

    @property
    def kind(self) -> str:
        return self.facts.kind

    @property
    def bits(self) -> int:
        return self.facts.bits

    @property
    def orientation(self) -> int:
        return self.facts.orientation

    @property
    def alpha(self) -> bool:
        return self.facts.alpha

    @property
    def stored_size(self) -> tuple[int, int]:
        turned = self.orientation >= 5
        return (self.width, self.height) if turned else (self.height, self.width)


@dataclass(slots=True, unsafe_hash=True)
class ImageScan(_File):
    """Size, type, sums and hashes of one image.

    dtype, channels: as `read_image` gives it.
    low, high: lowest and highest value of all channels. sums, squares: of each channel.
    phash: a 64-bit perceptual hash, 0 for a flat picture.
    picture: a digest of the decoded pixels, equal for equal pictures whatever their files.
    key: a digest of the file's bytes, for `ScanStore`; empty until it is known.
    """

    facts: ImageFacts
    packed: bytes

    @classmethod
    def pack(
        cls, facts: ImageFacts, measures: Sequence[float], *, phash: int, picture: bytes
    ) -> ImageScan:
        """measures: low, high, then the sums, then the squares."""
        return cls(
            facts, _HASHES.pack(phash, picture) + struct.pack(f"<{len(measures)}d", *measures)
        )

    @property
    def channels(self) -> int:
        return self.facts.channels

    @property
    def dtype(self) -> str:
        return self.facts.dtype

    @property
    def low(self) -> float:
        return self._measures(0, 1)[0]

    @property
    def high(self) -> float:
        return self._measures(1, 1)[0]

    @property
    def is_flat(self) -> bool:
        """Whether all pixels are alike: of one value, or of one colour in whole numbers."""
        if self.low == self.high:
            return True
        if self.channels == 1 or self.dtype == "float32":
            return False
        count = self.height * self.width
        rows = zip(self.sums, self.squares, strict=True)
        return all(not total % count and (total / count) ** 2 * count == s for total, s in rows)

    @property
    def sums(self) -> tuple[float, ...]:
        return self._measures(2, self.channels)

    @property
    def squares(self) -> tuple[float, ...]:
        return self._measures(2 + self.channels, self.channels)

    @property
    def phash(self) -> int:
        return int(_HASHES.unpack_from(self.packed)[0])

    @property
    def picture(self) -> bytes:
        return self.packed[_HASHES.size - _DIGEST : _HASHES.size]

    @property
    def key(self) -> bytes:
        return self.packed[self._end :]

    @property
    def _end(self) -> int:
        """Where the numbers end and the key begins."""
        return _HASHES.size + 8 * (2 + 2 * self.channels)

    def _measures(self, first: int, count: int) -> tuple[float, ...]:
        return struct.unpack_from(f"<{count}d", self.packed, _HASHES.size + 8 * first)

    def to_bytes(self) -> bytes:
        """The record: the facts as a line of JSON, then what is packed, but for the key."""
        return _line(self.facts) + self.packed[: self._end]

    @classmethod
    def from_bytes(cls, record: bytes, key: bytes) -> ImageScan:
        """The scan whose record `to_bytes` wrote."""
        line, _, packed = record.partition(b"\n")
        return cls(_image_facts(line), packed + key)


@dataclass(slots=True, unsafe_hash=True)
class MaskScan(_File):
    """Size, encoding and values of one mask.

    lossy, void: see `MaskPixels`. overlap: pixels that several objects claim, where each has a
        file of its own.
    num_values: how many there are in all.
    values: the most frequent of them, ascending, a colour packed as 0xRRGGBB. pixels: of each.
    colors: where the values are palette indices, the colour of each.
    key: see `ImageScan`.
    """

    facts: MaskFacts
    listed: MaskValues
    packed: bytes

    @classmethod
    def pack(
        cls,
        facts: MaskFacts,
        listed: MaskValues,
        *,
        pixels: Sequence[int],
        objects: Sequence[Objects],
    ) -> MaskScan:
        """pixels: of each value. objects: of each value but 0, where `facts.has_objects`."""
        sizes = [number for row in objects for number in row]
        return cls(facts, listed, struct.pack(f"<{len(pixels)}Q{len(sizes)}I", *pixels, *sizes))

    @property
    def encoding(self) -> Encoding:
        return self.facts.encoding

    @property
    def lossy(self) -> bool:
        return self.facts.lossy

    @property
    def void(self) -> bool:
        return self.facts.void

    @property
    def overlap(self) -> int:
        return self.facts.overlap

    @property
    def num_values(self) -> int:
        return self.facts.num_values

    @property
    def values(self) -> tuple[int, ...]:
        return self.listed.values

    @property
    def wide(self) -> bool:
        """Whether the file holds more than 8 bits a pixel."""
        return self.bits > 8

    @property
    def counts(self) -> dict[int, int]:
        """The pixels of each listed value."""
        values = self.values
        return dict(zip(values, struct.unpack_from(f"<{len(values)}Q", self.packed), strict=True))

    @property
    def palette(self) -> dict[int, Color]:
        """The colour of each listed value; empty where values are no palette indices."""
        colors = self.listed.colors
        return {} if colors is None else dict(zip(self.values, colors, strict=True))

    @property
    def objects(self) -> dict[int, Objects] | None:
        """The objects of each value but 0; None for masks of more than 32 values."""
        if not self.facts.has_objects:
            return None
        shown = [value for value in self.values if value]
        sizes = self.packed[8 * len(self.values) : self._end]
        return dict(zip(shown, map(Objects._make, struct.iter_unpack("<4I", sizes)), strict=True))

    @property
    def key(self) -> bytes:
        return self.packed[self._end :]

    @property
    def _end(self) -> int:
        """Where the numbers end and the key begins."""
        values = self.values
        num_rows = len(values) - (0 in values) if self.facts.has_objects else 0
        return 8 * len(values) + 16 * num_rows

    def to_bytes(self) -> bytes:
        """The record: facts and values as lines of JSON, then what is packed, but for the key."""
        return _line(self.facts) + _line(self.listed) + self.packed[: self._end]

    @classmethod
    def from_bytes(cls, record: bytes, key: bytes) -> MaskScan:
        """The scan whose record `to_bytes` wrote."""
        facts, listed, packed = record.split(b"\n", 2)
        return cls(_mask_facts(facts), _mask_values(listed), packed + key)


@dataclass(slots=True, unsafe_hash=True)
class PairScan:
    """What was read of one pair."""

    pair: Pair
    image: ImageScan
    mask: MaskScan

    @property
    def content(self) -> str:
        """A digest of the bytes of both files, or of what they are made of."""
        made = not (isinstance(self.pair.image_file, str) and isinstance(self.pair.mask_file, str))
        return content_digest(self.image.key, self.mask.key, made=made)


@dataclass(frozen=True, slots=True)
class BadPair:
    """A pair of which a file cannot be read; image, mask: the sentence that says why, or None."""

    pair: Pair
    image: str | None
    mask: str | None

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each unreadable file."""
        return tuple(reason for reason in (self.image, self.mask) if reason is not None)


def _line(facts: tuple[object, ...]) -> bytes:
    return json.dumps(facts, separators=(",", ":")).encode() + b"\n"


# Cached, so that files that are alike share one object


@functools.lru_cache(maxsize=4096)
def _image_facts(line: bytes) -> ImageFacts:
    return ImageFacts(*json.loads(line))


@functools.lru_cache(maxsize=4096)
def _mask_facts(line: bytes) -> MaskFacts:
    return MaskFacts(*json.loads(line))


@functools.lru_cache(maxsize=256)  # one entry may list 500 values
def _mask_values(line: bytes) -> MaskValues:
    values, colors = json.loads(line)
    return MaskValues(
        tuple(values), None if colors is None else tuple((r, g, b) for r, g, b in colors)
    )
