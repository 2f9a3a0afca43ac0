"""The facts of one decoded image or mask, measured in one pass over its pixels or two."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.file_kind import FileKind
from unet_pipeline.datasets.images import Color, ImageArray, MaskPixels
from unet_pipeline.datasets.scan.objects import count_objects, count_pixels, find_runs
from unet_pipeline.datasets.scan.picture_hash import (
    perceptual_hash,
    picture_digest,
    shrink,
    thumbnail,
    to_grey,
)
from unet_pipeline.datasets.scan.records import (
    ImageFacts,
    ImageScan,
    MaskFacts,
    MaskScan,
    MaskValues,
)

MAX_LISTED_VALUES = 512
"""Mask values kept of one file, the most frequent: a photograph has a hundred thousand."""

MAX_OBJECT_VALUES = 32
"""Masks of more values number their objects, or are no masks of classes."""

Counts = npt.NDArray[np.int64]


class Picture(NamedTuple):
    """What the cache keeps of an image beside its scan.

    histogram: (C, 256) pixels at each of 256 steps from the lowest to the highest value of the
        image (0 to 255 for uint8). thumbnail: (16, 16), grey.
    """

    histogram: Counts
    thumbnail: npt.NDArray[np.uint8]

    def to_bytes(self) -> bytes:
        """The thumbnail, the size of a number, the histogram."""
        kind = "<u2" if self.histogram.max() < 2**16 else "<u4"
        counts = self.histogram.astype(kind).tobytes()
        return self.thumbnail.tobytes() + kind[-1:].encode() + counts

    @classmethod
    def from_bytes(cls, data: bytes) -> Picture:
        """What `to_bytes` wrote."""
        counts = np.frombuffer(data, f"<u{data[256:257].decode()}", offset=257)
        thumbnail = np.frombuffer(data, np.uint8, 256).reshape(16, 16)
        return cls(counts.reshape(-1, 256).astype(np.int64), thumbnail)


def scan_image(
    image: ImageArray, kind: FileKind, *, alpha: bool = False
) -> tuple[ImageScan, Picture]:
    """The facts of an image (H, W, C)."""
    measure = _measure_floats if image.dtype == np.float32 else _measure_integers
    low, high, sums, squares, histogram = measure(image)
    grey = to_grey(image)
    small = shrink(grey, low, high)
    height, width, channels = image.shape
    facts = ImageFacts(
        height=height,
        width=width,
        kind=kind.name,
        bits=kind.bits or 8 * image.dtype.itemsize,
        orientation=kind.orientation,
        alpha=alpha,
        channels=channels,
        dtype=str(image.dtype),
    )
    scan = ImageScan.pack(
        facts,
        [low, high, *sums, *squares],
        phash=perceptual_hash(small),
        picture=picture_digest(image, grey, small, histogram),
    )
    return scan, Picture(histogram, thumbnail(small))


def scan_mask(
    mask: MaskPixels,
    keep: Sequence[int] = (),
    kind: FileKind = FileKind(""),  # noqa: B008  immutable
    *,
    overlap: int = 0,
) -> MaskScan:
    """The facts of a mask; keep: values that are counted however rare they are.

    overlap: its pixels that several objects claim.
    """
    runs = find_runs(mask.values)
    found, counts = count_pixels(runs)
    num_values = len(found)
    if num_values > MAX_LISTED_VALUES:
        chosen = np.sort(np.argsort(-counts, kind="stable")[:MAX_LISTED_VALUES])
        chosen = np.union1d(chosen, np.flatnonzero(np.isin(found, list(keep))))
        found, counts = found[chosen], counts[chosen]
    values = tuple(found.tolist())
    colors: tuple[Color, ...] | None = None
    if mask.palette is not None:
        colors = tuple((r, g, b) for r, g, b in mask.palette[list(values)].tolist())
    objects = count_objects(runs) if num_values <= MAX_OBJECT_VALUES else None
    facts = MaskFacts(
        height=mask.values.shape[0],
        width=mask.values.shape[1],
        kind=kind.name,
        bits=kind.bits or 8 * mask.values.dtype.itemsize,
        orientation=kind.orientation,
        alpha=mask.alpha,
        encoding=mask.encoding,
        lossy=mask.lossy,
        void=mask.void,
        num_values=num_values,
        has_objects=objects is not None,
        overlap=overlap,
    )
    return MaskScan.pack(
        facts,
        MaskValues(values, colors),
        pixels=counts.tolist(),
        objects=[] if objects is None else [objects[value] for value in values if value],
    )


_Measured = tuple[float, float, list[float], list[float], Counts]


def _measure_integers(image: npt.NDArray[Any]) -> _Measured:
    """Ends, sums, squares and histogram of uint8 or uint16, all of them exact."""
    num_levels = 2 ** (8 * image.dtype.itemsize)
    counts = np.zeros((image.shape[2], num_levels), dtype=np.int64)
    for band in _bands(image):
        for c, row in enumerate(counts):
            row += _histogram(band, c, num_levels)
    present = np.flatnonzero(counts.any(axis=0))
    low, high = int(present[0]), int(present[-1])
    sums, squares = (counts @ _powers(num_levels)).T.tolist()
    if image.dtype != np.uint8:
        steps = np.rint(np.arange(high - low + 1) * (255 / max(high - low, 1)))
        places = steps.astype(np.int64)
        counts = np.stack([_binned(row[low : high + 1], places) for row in counts])
    return float(low), float(high), sums, squares, counts


def _measure_floats(image: npt.NDArray[Any]) -> _Measured:
    """Ends, sums, squares (in float64) and histogram of finite float32."""
    low, high = float(image.min()), float(image.max())
    channels = image.shape[2]
    scale = 255 / (high - low) if high > low else 0.0
    sums, squares = np.zeros(channels), np.zeros(channels)
    counts = np.zeros((channels, 256), dtype=np.int64)
    for band in _bands(image, 2**18):
        wide = band.astype(np.float64)
        sums += wide.sum(axis=(0, 1))
        squares += np.einsum("hwc,hwc->c", wide, wide)
        steps = np.rint((wide - low) * scale).astype(np.uint8)
        for c, row in enumerate(counts):
            row += _histogram(steps, c, 256)
    return low, high, sums.tolist(), squares.tolist(), counts


def _histogram(image: npt.NDArray[Any], channel: int, num_levels: int) -> Counts:
    if image.shape[2] > 512:  # more than OpenCV takes
        image, channel = np.ascontiguousarray(image[..., channel : channel + 1]), 0
    counts = cv2.calcHist([image], [channel], None, [num_levels], [0, num_levels])
    return np.asarray(counts).reshape(-1).astype(np.int64)


@functools.cache
def _powers(num_levels: int) -> Counts:
    """Each level and its square; sums of squares of 2**28 16-bit numbers fit into 64 bits."""
    levels = np.arange(num_levels, dtype=np.int64)
    return np.stack([levels, levels**2], axis=1)


def _binned(counts: Counts, places: Counts) -> Counts:
    return np.bincount(places, weights=counts, minlength=256).astype(np.int64)


def _bands(image: npt.NDArray[Any], num_pixels: int = 2**24) -> list[npt.NDArray[Any]]:
    """`image` in bands of rows of at most about `num_pixels`.

    OpenCV counts in float32, which knows no odd number beyond 2**24.
    """
    rows = max(num_pixels // image.shape[1], 1)
    if rows >= image.shape[0]:
        return [image]
    return [image[start : start + rows] for start in range(0, image.shape[0], rows)]
