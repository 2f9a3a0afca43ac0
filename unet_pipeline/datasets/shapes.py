"""Polygons, lines, circles and run lengths -> masks, one set of rules for all annotation formats.

A pixel belongs to a polygon when it is inside or on the outline, the corners rounded to whole
pixels (`cv2.fillPoly`), as most labelling tools show it. pycocotools draws about half a pixel less
along each outline; on 165 polygons in 18 photos of 800x600 that is 0.44 % of the pixels, and the
same polygons then differ by as much between COCO and every other format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.images import probe
from unet_pipeline.datasets.raster import MAX_PIXELS
from unet_pipeline.errors import DatasetError

Canvas = npt.NDArray[np.uint8]
Ring = tuple[float, ...]
"""Corners of a polygon, x0, y0, x1, y1, ..., in pixels; (0, 0) is the centre of the first pixel."""

LARGEST = 2**20
"""Coordinates beyond this are cut, or OpenCV's fixed-point numbers would wrap."""


@dataclass(frozen=True, slots=True)
class Polygon:
    """The area of `rings` together, without `holes`. value: the mask value it is painted with."""

    value: int
    rings: tuple[Ring, ...]
    holes: tuple[Ring, ...] = ()

    def paint(self, canvas: Canvas) -> None:
        """Set the pixels of the shape in `canvas` (H, W) to `value`; what lies outside is cut."""
        if not self.holes:
            for ring in self.rings:
                cv2.fillPoly(canvas, [_corners(ring)], self.value)
            return
        inside, empty = np.zeros_like(canvas), np.zeros_like(canvas)
        for ring in self.rings:
            cv2.fillPoly(inside, [_corners(ring)], 1)
        for hole in self.holes:
            cv2.fillPoly(empty, [_corners(hole)], 1)
        for hole in self.holes:
            cv2.polylines(empty, [_corners(hole)], True, 0)  # an outline belongs to the shape
        inside[empty > 0] = 0
        canvas[inside > 0] = self.value

    def area(self) -> float:
        """Square pixels, by the corners."""
        return sum(map(_ring_area, self.rings)) - sum(map(_ring_area, self.holes))


@dataclass(frozen=True, slots=True)
class Line:
    """A line through the corners of `ring`, `width` pixels wide, with round ends.

    A pixel belongs to it when its centre is within half the width. cv2.polylines is not used: in
    OpenCV 5.0 a width of 3 gives 5 pixels, of 5 gives 7, and even widths are one or two wider.
    """

    value: int
    ring: Ring
    width: float

    def paint(self, canvas: Canvas) -> None:
        """Set the pixels of the line in `canvas` (H, W) to `value`; at least one pixel wide."""
        # moved by less than any tool writes: a line of width 2 through pixel centres touches
        # three rows, and so it takes two
        corners = np.asarray(self.ring, dtype=np.float64).reshape(-1, 2) - 1e-6
        radius = max(self.width, 1.0) / 2
        starts = corners[:-1] if len(corners) > 1 else corners
        ends = corners[1:] if len(corners) > 1 else corners
        for start, end in zip(starts, ends, strict=True):
            _paint_stroke(canvas, start, end, radius, self.value)

    def area(self) -> float:
        """Length times width, in square pixels."""
        corners = _cut(self.ring)
        return float(np.linalg.norm(np.diff(corners, axis=0), axis=1).sum() * self.width)


@dataclass(frozen=True, slots=True)
class Circle:
    """A filled circle, or an ellipse with its axes along the picture's; radii in pixels."""

    value: int
    center: tuple[float, float]
    radius_x: float
    radius_y: float

    def paint(self, canvas: Canvas) -> None:
        """Set the pixels whose centres are within the ellipse to `value`."""
        radius_x, radius_y = max(self.radius_x, 0.5), max(self.radius_y, 0.5)
        rows = _within(self.center[1], radius_y, canvas.shape[0])
        columns = _within(self.center[0], radius_x, canvas.shape[1])
        y = (np.arange(rows.start, rows.stop) - self.center[1]) / radius_y
        x = (np.arange(columns.start, columns.stop) - self.center[0]) / radius_x
        canvas[rows, columns][(y**2)[:, None] + x**2 <= 1] = self.value

    def area(self) -> float:
        """Square pixels."""
        return float(np.pi * self.radius_x * self.radius_y)


@dataclass(frozen=True, slots=True)
class Runs:
    """The pixels of a run-length code as COCO has it: column by column, off and on in turn.

    size: (height, width). counts: the compressed text of COCO, as bytes.
    """

    value: int
    size: tuple[int, int]
    counts: bytes

    def paint(self, canvas: Canvas) -> None:
        """Set the coded pixels to `value`. Raises ValueError where the sizes do not agree."""
        canvas[decode_runs(self.counts, self.size, canvas.shape) > 0] = self.value

    def area(self) -> float:
        """Square pixels."""
        return float(run_lengths(self.counts)[1::2].sum())


Shape = Polygon | Line | Circle | Runs


def decode_runs(
    counts: bytes, size: tuple[int, int], canvas: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    """The mask (H, W) of 0 and 1 behind a compressed run-length code.

    Raises ValueError where `size` is not that of the canvas or the runs do not fill it exactly.
    pycocotools 2.0.11 checks the latter only in part, and then gives what lay in memory; and its
    decoder warns under NumPy 2.
    """
    if tuple(size) != tuple(canvas):
        raise ValueError(
            f"a run-length code for {size[0]}x{size[1]} (height x width) on a picture of "
            f"{canvas[0]}x{canvas[1]}"
        )
    lengths = run_lengths(counts)
    if (lengths < 0).any() or int(lengths.sum()) != size[0] * size[1]:
        raise ValueError(f"a run-length code that does not fill its {size[0]}x{size[1]} pixels")
    values = (np.arange(len(lengths)) % 2).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(values, lengths).reshape(size[1], size[0]).T)


def run_lengths(counts: bytes) -> npt.NDArray[np.int64]:
    """The lengths of the runs in a compressed code of COCO, the first of zeros.

    Each number is written in groups of five bits, the lowest first, as characters from 48 on; bit
    5 says that another group follows, bit 4 of the last is the sign. From the fourth number on it
    is the difference to the number two places before. Raises ValueError for other text.
    """
    groups = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if not len(groups):
        return groups
    if groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise ValueError("a damaged run-length code")
    first = np.flatnonzero(np.r_[True, (groups[:-1] & 32) == 0])
    place = np.arange(len(groups)) - np.repeat(first, np.diff(np.r_[first, len(groups)]))
    if place.max() > 6:  # seven groups hold any number of pixels that is read
        raise ValueError("a damaged run-length code")
    numbers = np.add.reduceat((groups & 31) << (5 * place), first)
    last = np.r_[first[1:], len(groups)] - 1
    numbers -= np.where(groups[last] & 16, np.int64(32) << (5 * place[last]), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])  # 1, 3, 5, ...
    numbers[2::2] = np.cumsum(numbers[2::2])  # 2, 4, 6, ...; the first stands for itself
    return numbers


@dataclass(frozen=True, slots=True)
class Drawing:
    """A mask drawn from shapes, the first at the bottom; 0 where none is. Is `Made`.

    image: the picture that it belongs to. size: (height, width) as the annotation says, None where
    it does not and the picture's own size counts. source: the file of the annotation.
    """

    source: str
    image: Path
    shapes: tuple[Shape, ...]
    size: tuple[int, int] | None

    def digest(self) -> bytes:
        """16 bytes over shapes and size."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self._size(), self.shapes)).encode())
        return digest.digest()

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The mask (H, W), uint8. Raises `DatasetError` for a size or a run-length code that fails.

        No shape gives a picture without a value: what lies outside is cut.
        """
        height, width = self._size()
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            raise DatasetError(
                f"{self.source}: gives the size {width}x{height}, which no picture that is read "
                "has; correct it"
            )
        canvas = np.zeros((height, width), dtype=np.uint8)
        for shape in self.shapes:
            try:
                shape.paint(canvas)
            except ValueError as error:
                raise DatasetError(f"{self.source}: holds {error}; correct it") from error
        return canvas

    def _size(self) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        header = probe(self.image)
        return header.height, header.width


def largest_first(shapes: Iterable[Shape]) -> tuple[Shape, ...]:
    """In the order to paint them: by area, so that a window is seen on its facade."""
    return tuple(sorted(shapes, key=lambda shape: -shape.area()))


def _corners(ring: Ring) -> npt.NDArray[Any]:
    return np.rint(_cut(ring)).astype(np.int32).reshape(-1, 1, 2)


def _cut(ring: Ring) -> npt.NDArray[np.float64]:
    """The corners (N, 2), none of them further away than is drawn."""
    return np.clip(np.asarray(ring, dtype=np.float64).reshape(-1, 2), -LARGEST, LARGEST)


def _ring_area(ring: Ring) -> float:
    x, y = _cut(ring).T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def _within(center: float, radius: float, length: int) -> slice:
    """The pixels 0..length-1 of one axis that may be nearer to `center` than `radius`."""
    low, high = np.clip([np.floor(center - radius), np.ceil(center + radius) + 1], 0, length)
    return slice(int(low), int(high))


def _paint_stroke(
    canvas: Canvas,
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    radius: float,
    value: int,
) -> None:
    """Paint the pixels nearer than `radius` to the segment, row by row: it is convex.

    A row of it is one interval, from the outermost left to the outermost right point of the two
    round ends and of the rectangle between them; memory for distances is never needed.
    """
    low, high = min(start[1], end[1]) - radius, max(start[1], end[1]) + radius
    rows = np.arange(max(0, np.ceil(low)), min(canvas.shape[0] - 1, np.floor(high)) + 1)
    lefts, rights = [], []
    for x, y in (start, end):
        reach = np.sqrt(np.where(abs(rows - y) <= radius, radius**2 - (rows - y) ** 2, np.nan))
        lefts.append(x - reach)
        rights.append(x + reach)
    along = end - start
    length = float(np.hypot(*along))
    if length > 0:
        across = np.array([-along[1], along[0]]) * (radius / length)
        corners = [start + across, end + across, end - across, start - across]
        for one, other in zip(corners, corners[1:] + corners[:1], strict=True):
            if one[1] != other[1]:
                share = (rows - one[1]) / (other[1] - one[1])
                x = np.where((share >= 0) & (share <= 1), one[0] + share * (other - one)[0], np.nan)
                lefts.append(x)
                rights.append(x)
    left = np.fmin.reduce(lefts)
    right = np.fmax.reduce(rights)
    for row, x0, x1 in zip(rows, left, right, strict=True):
        if x1 >= 0 and x0 < canvas.shape[1]:
            canvas[int(row), max(0, int(np.ceil(x0))) : int(np.floor(x1)) + 1] = value
