"""Where a training crop lies: anywhere, or where a pixel of a chosen class is seen.

Classes are drawn alike, so that one of a few pixels is trained on as often as one of millions. Only
`class_points` looks at a whole mask, once; a crop is placed from the few pixels that it notes.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets.keys import Key, key_to_seed

Image = npt.NDArray[Any]
"""(H, W, C), uint8, uint16 or float32."""

Mask = npt.NDArray[np.uint8]
"""(H, W) class indices, 255 where a pixel counts for nothing."""

Place = tuple[int, int]
"""Row and column; negative where a crop begins above or left of its image."""

POINTS_A_CLASS = 64
_TRIES = 16  # of a turned crop: at 45 degrees, the worst, half of them show the point


class ClassPoints(NamedTuple):
    """Up to 64 pixels of each class of a mask: 0.5 KB a class, to be kept beside the mask.

    Class 0 is among them only where it is the only class, and void (255) never is.
    """

    pixels: npt.NDArray[np.int32]
    """(P, 2) rows and columns, class after class."""
    starts: npt.NDArray[np.int32]
    """(K + 1,): the pixels of the k-th class present are `pixels[starts[k]:starts[k + 1]]`."""

    @property
    def num_bytes(self) -> int:
        """The memory that they take."""
        return int(self.pixels.nbytes + self.starts.nbytes)

    def draw(self, rng: np.random.Generator) -> Place | None:
        """A pixel of a class, all classes alike, all its pixels alike; None if all is void."""
        num_classes = len(self.starts) - 1
        if not num_classes:
            return None
        k = rng.integers(num_classes)
        row, column = self.pixels[rng.integers(self.starts[k], self.starts[k + 1])]
        return int(row), int(column)


def class_points(mask: Mask) -> ClassPoints:
    """Pixels of each class of `mask`: all of a class of up to 64, of a larger one a sample of 64.

    A function of the mask alone: whoever computes them, and when, draws the same crops. Each pixel
    of a larger class is as likely to be among them as any other. Costs one pass over the mask and
    one for each class in it.
    """
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()
    present = [int(k) for k in np.flatnonzero(counts) if k != IGNORE_INDEX]
    chosen = [k for k in present if k != 0] or present
    pixels = [_some_pixels(mask, k) for k in chosen]
    starts = np.cumsum([0, *(len(some) for some in pixels)], dtype=np.int32)
    none = np.empty((0, 2), dtype=np.int32)
    return ClassPoints(np.concatenate([none, *pixels]), starts)


class PointsOfMasks:
    """The `class_points` of masks, found once for each mask array that is still alive.

    A mask must not be written to once it was asked about. A copy sent to another process starts
    empty.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[weakref.ref[Mask], ClassPoints]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __call__(self, mask: Mask) -> ClassPoints:
        """The points of `mask`, from memory or found now."""
        number = id(mask)
        held = self._held.get(number)
        if held is not None and held[0]() is mask:
            return held[1]
        points = class_points(mask)
        forget = functools.partial(_forget, self._held, number)
        self._held[number] = weakref.ref(mask, forget), points
        return points

    def __reduce__(self) -> tuple[type[PointsOfMasks], tuple[()]]:
        return PointsOfMasks, ()


class ClassBalance:
    """Says, for some crops, which pixel they must show: of a class drawn from all classes alike."""

    def __init__(self, probability: float) -> None:
        """probability: that a crop is one of them."""
        self.probability = probability
        self._points_of = PointsOfMasks()

    def __call__(
        self, mask: Mask, seen: tuple[float, float], *, key: Key
    ) -> tuple[Place, np.random.Generator] | None:
        """The pixel, and the generator to place the crop with: a function of `mask` and `key`.

        seen: the height and width, in pixels of the mask, that the crop looks at.
        None for a crop that may lie anywhere: by chance, because it shows all of the mask anyway,
        or because all is void.
        """
        rows, columns = (size - 1e-6 for size in mask.shape)  # less: `seen` was rounded
        if not self.probability or (rows <= seen[0] and columns <= seen[1]):
            return None
        # A stream of its own: crops that may lie anywhere lie where they would without balance
        rng = np.random.default_rng(key_to_seed((*key, "class balance")))
        if rng.random() >= self.probability:
            return None
        point = self._points_of(mask).draw(rng)
        return None if point is None else (point, rng)


class Corners(NamedTuple):
    """Where the upper left corner of a crop may lie: rows and columns, both ends included."""

    low: Place
    high: Place


def corners(
    shape: tuple[int, ...],
    crop: tuple[int, int],
    *,
    seen: tuple[float, float] | None = None,
    beyond: float = 0.0,
) -> Corners:
    """The corners at which a crop of `crop` pixels lies inside an image of `shape`.

    Where the crop is larger than the image, it holds all of it, somewhere.
    seen: the height and width, in pixels of the image, that a crop looks at which is zoomed about
    its middle: these lie inside the image then. As a rule the crop's own.
    beyond: how far a crop may reach over the border besides, as a share of its height and width.
    """
    low, high = [], []
    for size, side, view in zip(shape, crop, seen or crop, strict=False):
        ends = (view - side) / 2, size - (view + side) / 2
        first, last = np.ceil(min(ends) - 1e-6), np.floor(max(ends) + 1e-6)
        if first > last:  # less than a pixel apart, and no whole number between them
            first = last = round(sum(ends) / 2)
        low.append(int(first) - round(beyond * side))
        high.append(int(last) + round(beyond * side))
    return Corners((low[0], low[1]), (high[0], high[1]))


def place(allowed: Corners, rng: np.random.Generator) -> Place:
    """One of the corners, all alike."""
    row, column = (
        int(rng.integers(low, high + 1))
        for low, high in zip(allowed.low, allowed.high, strict=True)
    )
    return row, column


def place_around(
    point: Place,
    allowed: Corners,
    crop: tuple[int, int],
    rng: np.random.Generator,
    *,
    matrix: npt.NDArray[np.float64] | None = None,
    margin: float = 0.0,
) -> Place:
    """One of the corners at which a crop of `crop` pixels shows `point`, all alike.

    matrix: (2, 2), how far in the image (rows, columns) a step in the crop leads, for one that is
    turned or zoomed about its middle; None for a plain cut.
    margin: so many pixels of the crop along its border may show something else than `matrix` says.
    Where no corner of `allowed` shows the point, as in the corner of an image that is turned, the
    crop moves over the border as far as it must.
    """
    turn = np.eye(2) if matrix is None else matrix
    middle = (np.array(crop) - 1) / 2
    half = np.maximum(middle - margin, np.minimum(middle, 0.5))
    reach = np.abs(turn) @ half
    centre = point - middle  # the corner of a crop that has the point in its middle
    low = np.maximum(allowed.low, np.ceil(centre - reach - 1e-6)).astype(np.int64)
    high = np.minimum(allowed.high, np.floor(centre + reach + 1e-6)).astype(np.int64)
    back = np.linalg.inv(turn).T
    if (low <= high).all():
        tries = rng.integers(low, high + 1, size=(_TRIES, 2))
        shown = (np.abs((centre - tries) @ back) <= half + 1e-6).all(axis=1)
        if shown.any():
            row, column = tries[shown.argmax()]
            return int(row), int(column)
    nearest = np.clip(centre, allowed.low, allowed.high)
    inner = np.maximum(half - 2, 1e-3)  # 2: what comes is rounded to a whole pixel of the image
    excess = max(1.0, float((np.abs((centre - nearest) @ back) / inner).max()))
    row, column = np.round(centre - (centre - nearest) / excess).astype(np.int64)
    return int(row), int(column)


def cut(image: Image, mask: Mask, corner: Place, size: tuple[int, int]) -> tuple[Image, Mask]:
    """The crop at `corner`: where it leaves the image, reflected pixels and a void mask."""
    height, width = mask.shape
    top, left = corner
    bottom, right = top + size[0], left + size[1]
    if top >= 0 and left >= 0 and bottom <= height and right <= width:
        return image[top:bottom, left:right], mask[top:bottom, left:right]
    rows, cols = np.arange(top, bottom), np.arange(left, right)
    # take after take: 4 times as fast as one indexing with both
    image = image.take(_reflect(rows, height), axis=0).take(_reflect(cols, width), axis=1)
    void = np.full(size, IGNORE_INDEX, dtype=np.uint8)
    inner_rows, inner_cols = slice(max(0, -top), height - top), slice(max(0, -left), width - left)
    part = mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    void[inner_rows, inner_cols] = part
    return image, void


def _some_pixels(mask: Mask, k: int) -> npt.NDArray[np.int32]:
    """Rows and columns (P, 2) of up to 64 pixels of class `k`, which occurs, in reading order."""
    found = cv2.inRange(mask, k, k)  # 255 where it is
    ends = np.cumsum(cv2.reduce(found, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() // 255)
    total = int(ends[-1])
    if total <= POINTS_A_CLASS:
        return np.argwhere(found).astype(np.int32)
    rng = np.random.default_rng([*mask.shape, k, total])
    ranks = np.sort(rng.choice(total, POINTS_A_CLASS, replace=False, shuffle=False))
    rows = np.searchsorted(ends, ranks, side="right")
    pixels = np.empty((POINTS_A_CLASS, 2), dtype=np.int32)
    for number, (row, rank) in enumerate(zip(rows, ranks, strict=True)):
        columns = np.flatnonzero(found[row])
        pixels[number] = row, columns[rank - ends[row]]  # counted from the end of the row
    return pixels


def _forget(held: dict[int, Any], number: int, _: object) -> None:
    held.pop(number, None)


def _reflect(index: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Indices inside 0..size-1, as between two mirrors: -1 is 1, size is size - 2, and so on."""
    if size == 1:
        return np.zeros_like(index)
    folded = np.abs(index) % (2 * size - 2)
    inside: npt.NDArray[np.int64] = np.minimum(folded, 2 * size - 2 - folded)
    return inside
