"""The shapes in a file of CVAT for images.

Coordinates have (0, 0) at the corner of the first pixel; polygons and boxes are rounded to whole
pixels as those of every other format.
"""

from __future__ import annotations

import contextlib
import math
from xml.etree import ElementTree

import numpy as np

from unet_pipeline.datasets.formats.faults import ring_of
from unet_pipeline.datasets.raster import MAX_PIXELS
from unet_pipeline.datasets.shapes import Circle, Line, Polygon, Runs, Shape


def shape_of(element: ElementTree.Element, size: tuple[int, int] | None) -> Shape:
    """What an element draws, with the value 0. Raises ValueError with what is wrong with it."""
    if element.tag == "mask":
        return _mask(element, size)
    if element.tag == "box":
        left, top, right, bottom = _numbers(element, "xtl", "ytl", "xbr", "ybr")
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return Polygon(0, (_turned(corners, element),))
    if element.tag == "ellipse":
        return _ellipse(element)
    corners_text = element.get("points", "").split(";")
    coordinates = [_number(number) for corner in corners_text for number in corner.split(",")]
    if element.tag == "polyline":
        return Line(0, ring_of(coordinates, least=2), 1)
    return Polygon(0, (ring_of(coordinates),))


def _ellipse(element: ElementTree.Element) -> Shape:
    x, y, radius_x, radius_y = _numbers(element, "cx", "cy", "rx", "ry")
    if radius_x <= 0 or radius_y <= 0:
        raise ValueError("an ellipse without a radius")
    x, y = x - 0.5, y - 0.5  # shapes have (0, 0) at the centre of the first pixel
    if _angle(element) == 0:
        return Circle(0, (x, y), radius_x, radius_y)
    angles = np.linspace(0, 2 * math.pi, 180, endpoint=False)
    corners = [(x + radius_x * math.cos(a), y + radius_y * math.sin(a)) for a in angles.tolist()]
    return Polygon(0, (_turned(corners, element),))


def _turned(corners: list[tuple[float, float]], element: ElementTree.Element) -> tuple[float, ...]:
    """A ring of corners after the rotation of the element: degrees, clockwise as seen."""
    angle = _angle(element)
    if angle == 0:
        return tuple(number for corner in corners for number in corner)
    center_x = sum(x for x, _ in corners) / len(corners)
    center_y = sum(y for _, y in corners) / len(corners)
    cos, sin = math.cos(angle), math.sin(angle)
    ring: list[float] = []
    for x, y in corners:
        x, y = x - center_x, y - center_y
        ring += [center_x + x * cos - y * sin, center_y + x * sin + y * cos]
    return tuple(ring)


def _mask(element: ElementTree.Element, size: tuple[int, int] | None) -> Shape:
    """The pixels of a mask: runs of off and on in turn, row by row inside its box."""
    from pycocotools import mask as coco

    if size is None:
        raise ValueError("a mask on an image without a size")
    left, top, width, height = (int(n) for n in _numbers(element, "left", "top", "width", "height"))
    if width * height > MAX_PIXELS:
        raise ValueError("a box larger than any picture")
    runs = [-1]
    with contextlib.suppress(ValueError):
        runs = [int(run) for run in element.get("rle", "").split(",")]
    if min(width, height) < 1 or min(runs) < 0 or sum(runs) != width * height:
        raise ValueError("a run-length code that does not fill its box")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    whole = np.zeros(size, dtype=np.uint8, order="F")
    rows = slice(max(top, 0), min(top + height, size[0]))
    columns = slice(max(left, 0), min(left + width, size[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise ValueError(f"lies outside the picture of {size[1]}x{size[0]} pixels")
    whole[rows, columns] = inside[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    return Runs(0, size, coco.encode(whole)["counts"])


def _numbers(element: ElementTree.Element, *keys: str) -> list[float]:
    return [_number(element.get(key, "")) for key in keys]


def _number(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(number := float(text)):
            return number
    raise ValueError(f"{text[:20]!r} is no finite number")


def _angle(element: ElementTree.Element) -> float:
    """The rotation of an element in radians."""
    return math.radians(_number(element.get("rotation", "0")))
