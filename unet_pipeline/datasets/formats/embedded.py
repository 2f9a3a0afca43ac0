"""What lies inside a labelme file: the shapes, and sometimes the image as text.

Facts of the format: github.com/wkentaro/labelme, `_label_file.py` and `utils/shape.py`.
"""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.formats.faults import ring_of
from unet_pipeline.datasets.formats.json_file import read_json
from unet_pipeline.datasets.images import ImageArray, decode_image, decode_mask
from unet_pipeline.datasets.raster import MAX_PIXELS
from unet_pipeline.datasets.shapes import Circle, Line, Polygon, Runs, Shape
from unet_pipeline.errors import DatasetError

LINE_WIDTH = 10.0
"""Pixels: so wide does labelme's own conversion to masks draw a line. A key `line_width`, of the
shape or of the file, says otherwise; labelme keeps such a key but writes none."""

POINTS = ("point", "points")
"""Types of shapes that have no area."""


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """The image in the key `imageData` of the labelme file `path`, in base64. Is `Made`."""

    path: Path

    @property
    def source(self) -> str:
        """The file, and the place inside."""
        return f"{self.path} (imageData)"

    def digest(self) -> bytes:
        """16 bytes over the encoded image: an edit of the shapes leaves them as they are."""
        return hashlib.blake2b(self._text().encode(), digest_size=16).digest()

    def pixels(self) -> ImageArray:
        """The image (H, W, C), as `read_image` gives it."""
        try:
            content = _decode_base64(self._text())
        except ValueError as error:
            raise DatasetError(f"{self.source}: is no base64 text: {error}") from error
        return decode_image(content, source=self.source)

    def _text(self) -> str:
        content = read_json(self.path)
        text = content.get("imageData") if isinstance(content, dict) else None
        if not isinstance(text, str):
            raise DatasetError(f"{self.source}: holds no image")
        return text


def shape_of(
    entry: Any, value: int, *, size: tuple[int, int] | None, line_width: Any = None
) -> Shape:
    """The shape that one entry of `shapes` describes, painted with `value`.

    size: (height, width) of the picture, which pixel masks need. line_width: of the file.
    Raises ValueError with what is wrong: corners missing or not finite, a type that is not known.
    """
    kind = entry.get("shape_type") or "polygon"
    corners = _corners(entry.get("points"))
    if kind == "mask":
        return _pixels(entry.get("mask"), corners, value, size)
    if kind == "circle":
        if len(corners) != 2:
            raise ValueError(f"a circle of {len(corners)} points, where 2 are needed")
        radius = math.dist(*corners)
        if radius == 0:
            raise ValueError("a circle without a radius")
        return Circle(value, (float(corners[0][0]), float(corners[0][1])), radius, radius)
    if kind in ("line", "linestrip"):
        width = next(filter(_is_width, (entry.get("line_width"), line_width)), LINE_WIDTH)
        return Line(value, ring_of(corners.ravel().tolist(), least=2), float(width))
    if kind == "rectangle" and len(corners) == 2:
        (left, top), (right, bottom) = corners.tolist()
        return Polygon(value, ((left, top, right, top, right, bottom, left, bottom),))
    if kind not in ("polygon", "rectangle", "oriented_rectangle", "rotation"):
        raise ValueError(f"the type {kind!r} is not known")
    least = 2 if kind == "rectangle" else 3
    return Polygon(value, (ring_of(corners.ravel().tolist(), least=least),))


def _corners(points: Any) -> npt.NDArray[np.float64]:
    """Points (N, 2), x before y."""
    try:
        corners = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("points that are no pairs of numbers") from error
    if corners.ndim != 2 or corners.shape[1] != 2:
        raise ValueError("points that are no pairs of numbers" if corners.size else "no points")
    if not np.isfinite(corners).all():
        raise ValueError("a corner that is not finite")
    return corners


def _pixels(
    text: Any, corners: npt.NDArray[np.float64], value: int, size: tuple[int, int] | None
) -> Runs:
    """The pixel mask in `text`, a PNG in base64; its first pixel lies at the first corner."""
    from pycocotools import mask as coco

    if not isinstance(text, str):
        raise ValueError("a mask without pixels")
    if size is None or size[0] * size[1] > MAX_PIXELS:
        raise ValueError("a mask for a picture of unknown or impossible size")
    try:
        patch = decode_mask(_decode_base64(text), source="mask").values
    except DatasetError as error:
        raise ValueError(str(error)) from error
    if patch.ndim != 2:
        raise ValueError("a mask in colours")
    rows, columns = np.nonzero(patch)
    left, top = np.clip(corners[0], -MAX_PIXELS, MAX_PIXELS).astype(np.int64)
    rows, columns = rows + top, columns + left
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    if len(rows) and not inside.any():
        raise ValueError(f"lies outside the picture of {size[1]}x{size[0]} pixels")
    canvas = np.zeros(size, dtype=np.uint8, order="F")
    canvas[rows[inside], columns[inside]] = 1
    return Runs(value, size, coco.encode(canvas)["counts"])


def _decode_base64(text: str) -> bytes:
    """The bytes behind the text, after a prefix such as `data:image/png;base64,` if it has one."""
    return base64.b64decode(text.rpartition(",")[2])


def _is_width(number: Any) -> bool:
    return isinstance(number, int | float) and math.isfinite(number) and number > 0
