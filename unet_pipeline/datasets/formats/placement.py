"""Whether a shape lies in the picture that it belongs to: outlines of another scale do not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from unet_pipeline.datasets.formats.faults import Faults
from unet_pipeline.datasets.raster import MAX_PIXELS
from unet_pipeline.datasets.shapes import LARGEST, Circle, Polygon, Runs, Shape

_TOLERANCE_PIXELS = 2.0
_TOLERANCE_FRACTION = 0.05
"""How far a corner may lie outside, in pixels or in parts of the side: tools let a hand slip."""

_FAR = 10
"""Sides of the picture beyond which a corner is a mistake: pixels taken for fractions, say."""

Corner = tuple[float, float]


def note_place(shape: Shape, size: tuple[int, int] | None, where: str, faults: Faults) -> None:
    """Note a shape that reaches beyond its picture, where it is cut, as `outside-image`.

    size: (height, width) of the picture, None where it is not known; where: what the note begins
    with. Circles are cut at the border by right, as their centre says where they are.
    Raises ValueError where the place cannot be right: a corner more than ten sides away, or
    nothing of the shape inside the picture.
    """
    if isinstance(shape, Runs):
        return  # a run-length code fills its picture exactly
    left, top, right, bottom = _bounds(shape)
    height, width = size or (LARGEST, LARGEST)
    if min(left, top) >= -0.5 and right <= width - 0.5 and bottom <= height - 0.5:
        return
    if (far := _beyond(shape, height, width, _FAR * height, _FAR * width)) is not None:
        raise ValueError(f"{_shown(far)} lies far outside the picture{_of(size)}")
    if size is None:
        return
    if right < -0.5 or bottom < -0.5 or left > width or top > height or not _touches(shape, size):
        raise ValueError(f"lies outside the picture{_of(size)}")
    tolerances = (max(_TOLERANCE_PIXELS, _TOLERANCE_FRACTION * side) for side in size)
    if not isinstance(shape, Circle) and (out := _beyond(shape, *size, *tolerances)) is not None:
        faults["outside-image"].append(
            f"{where}: {_shown(out)} lies outside the picture{_of(size)}"
        )


def _corners(shape: Shape) -> list[Corner]:
    """The corners of a shape; of a circle those of the box around it."""
    if isinstance(shape, Circle):
        (x, y), reach_x, reach_y = shape.center, shape.radius_x, shape.radius_y
        return [(x - reach_x, y - reach_y), (x + reach_x, y + reach_y)]
    assert not isinstance(shape, Runs)
    rings = shape.rings if isinstance(shape, Polygon) else (shape.ring,)
    return [corner for ring in rings for corner in zip(ring[::2], ring[1::2], strict=True)]


def _bounds(shape: Shape) -> tuple[float, float, float, float]:
    xs, ys = zip(*_corners(shape), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _beyond(
    shape: Shape, height: int, width: int, tolerance_y: float, tolerance_x: float
) -> Corner | None:
    """The first corner that is not within the tolerances of the picture."""
    for x, y in _corners(shape):
        near_x = -tolerance_x <= x <= width + tolerance_x
        if not (near_x and -tolerance_y <= y <= height + tolerance_y):  # also where one is NaN
            return x, y
    return None


def _touches(shape: Shape, size: tuple[int, int]) -> bool:
    """Whether anything of a shape is inside; painted where no corner is: it may span it all."""
    height, width = size
    inside = (0 <= x <= width - 1 and 0 <= y <= height - 1 for x, y in _corners(shape))
    if not isinstance(shape, Circle) and any(inside):  # the corners of a circle are not part of it
        return True
    if height * width > MAX_PIXELS:
        return True  # refused where it is drawn
    canvas = np.zeros(size, dtype=np.uint8)
    replace(shape, value=1).paint(canvas)
    return bool(canvas.any())


def _shown(corner: Corner) -> str:
    x, y = (f"{number:.6g}" if math.isfinite(number) else "infinity" for number in corner)
    return f"the corner ({x}, {y})"


def _of(size: tuple[int, int] | None) -> str:
    return "" if size is None else f" of {size[1]}x{size[0]} pixels"
