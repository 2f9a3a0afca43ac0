"""What is kept of a file after it was read once: small in memory, and bytes for the cache.

Twenty thousand pairs are held at once, 1 KB each. So numbers are in arrays, which take a third of
tuples, and what is alike in many files (size, type, mask values) is one object for all of them.
"""

from __future__ import annotations

import functools
import json
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from unet_pipeline.datasets.images import Color, Encoding
from unet_pipeline.datasets.scan.content import content_digest

if TYPE_CHECKING:  # worker processes do without
    from unet_pipeline.datasets.formats import Pair

_SIZE_AND_KIND = ("height", "width", "kind", "bits", "orientation", "alpha")
_IMAGE_FACTS = (*_SIZE_AND_KIND, "channels", "dtype")
_MASK_FACTS = (*_SIZE_AND_KIND, "encoding", "lossy", "void", "num_values")


class Objects(NamedTuple):
    """The connected objects of one mask value: their number, and sizes in pixels."""

    number: int
    smallest: int
    median: int
    largest: int


@dataclass(frozen=True, slots=True)
class ImageScan:
    """Size, type, sums and hashes of one image.

    height, width: upright, in pixels; `stored_size` is (height, width) before `orientation` (EXIF
        or TIFF, 1..8) was applied. dtype, channels: as `read_image` gives it.
    kind: "png", "jpeg", ... or "made". bits: of one sample.
    alpha: the file has an alpha channel that is not opaque everywhere.
    measures: lowest and highest value of all channels; the sum of each channel, then of squares.
    phash: a 64-bit perceptual hash, 0 for a flat picture.
    picture: a digest of the decoded pixels, equal for equal pictures whatever their files.
    key: a digest of the file's bytes, for `ScanStore`.
    """

    height: int
    width: int
    channels: int
    dtype: str
    kind: str
    bits: int
    orientation: int
    alpha: bool
    measures: array[float]
    phash: int
    picture: bytes
    key: bytes = b""

    @property
    def low(self) -> float:
        return self.measures[0]

    @property
    def high(self) -> float:
        return self.measures[1]

    @property
    def sums(self) -> tuple[float, ...]:
        return tuple(self.measures[2 : 2 + self.channels])

    @property
    def squares(self) -> tuple[float, ...]:
        return tuple(self.measures[2 + self.channels :])

    @property
    def stored_size(self) -> tuple[int, int]:
        return _stored_size(self)

    def to_bytes(self) -> bytes:
        """All but the key."""
        own = (self.measures.tolist(), self.phash, self.picture.hex())
        return _record({name: getattr(self, name) for name in _IMAGE_FACTS}, own)

    @classmethod
    def from_bytes(cls, record: bytes, key: bytes) -> ImageScan:
        """The scan that `to_bytes` wrote."""
        facts, own = record.split(b"\n")
        measures, phash, picture = json.loads(own)
        return cls(
            **_shared_facts(facts),
            measures=array("d", measures),
            phash=phash,
            picture=bytes.fromhex(picture),
            key=key,
        )


@dataclass(frozen=True, slots=True)
class MaskScan:
    """Size, encoding and values of one mask.

    lossy, void: see `MaskPixels`. The rest that is not said here: see `ImageScan`.
    num_values: how many there are in all.
    values: the most frequent of them, ascending, a colour packed as 0xRRGGBB. pixels: of each.
    colors: where the values are palette indices, the colour of each.
    object_sizes: four numbers for each value but 0, see `Objects`; None for masks of more than 32
        values.
    """

    height: int
    width: int
    encoding: Encoding
    kind: str
    bits: int
    orientation: int
    alpha: bool
    lossy: bool
    void: bool
    num_values: int
    values: tuple[int, ...]
    colors: tuple[Color, ...] | None
    pixels: array[int]
    object_sizes: array[int] | None
    key: bytes = b""

    @property
    def wide(self) -> bool:
        """Whether the file holds more than 8 bits a pixel."""
        return self.bits > 8

    @property
    def counts(self) -> dict[int, int]:
        """The pixels of each listed value."""
        return dict(zip(self.values, self.pixels, strict=True))

    @property
    def palette(self) -> dict[int, Color]:
        """The colour of each listed value; empty where values are no palette indices."""
        return {} if self.colors is None else dict(zip(self.values, self.colors, strict=True))

    @property
    def objects(self) -> dict[int, Objects] | None:
        """The objects of each value but 0; None where there are too many values."""
        if self.object_sizes is None:
            return None
        numbers = iter(self.object_sizes)
        rows = zip(numbers, numbers, numbers, numbers, strict=True)
        shown = (value for value in self.values if value)
        return {value: Objects(*row) for value, row in zip(shown, rows, strict=True)}

    @property
    def stored_size(self) -> tuple[int, int]:
        return _stored_size(self)

    def to_bytes(self) -> bytes:
        """All but the key."""
        sizes = None if self.object_sizes is None else self.object_sizes.tolist()
        return _record(
            {name: getattr(self, name) for name in _MASK_FACTS},
            (self.values, self.colors),
            (self.pixels.tolist(), sizes),
        )

    @classmethod
    def from_bytes(cls, record: bytes, key: bytes) -> MaskScan:
        """The scan that `to_bytes` wrote."""
        facts, table, own = record.split(b"\n")
        pixels, sizes = json.loads(own)
        values, colors = _shared_values(table)
        return cls(
            **_shared_facts(facts),
            values=values,
            colors=colors,
            pixels=array("Q", pixels),
            object_sizes=None if sizes is None else array("I", sizes),
            key=key,
        )


@dataclass(frozen=True, slots=True)
class PairScan:
    """What was read of one pair."""

    pair: Pair
    image: ImageScan
    mask: MaskScan

    @property
    def content(self) -> str:
        """A digest of the bytes of both files."""
        return content_digest(self.image.key, self.mask.key)


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


def _stored_size(scan: ImageScan | MaskScan) -> tuple[int, int]:
    turned = scan.orientation >= 5
    return (scan.width, scan.height) if turned else (scan.height, scan.width)


def _record(*parts: object) -> bytes:
    """Each part as JSON, which gives floats back exactly, on a line of its own."""
    return "\n".join(json.dumps(part, separators=(",", ":")) for part in parts).encode()


@functools.lru_cache(maxsize=4096)
def _shared_facts(line: bytes) -> dict[str, Any]:
    """What files have in common; cached, so that those that are alike share numbers and words."""
    facts: dict[str, Any] = json.loads(line)
    return facts


@functools.lru_cache(maxsize=256)  # one entry may list 500 values
def _shared_values(line: bytes) -> tuple[tuple[int, ...], tuple[Color, ...] | None]:
    values, colors = json.loads(line)
    return tuple(values), None if colors is None else tuple((r, g, b) for r, g, b in colors)
