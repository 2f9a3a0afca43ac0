"""What training sees: each sample as it is, and beside it as augmentation changes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from unet_pipeline.classes import Classes
from unet_pipeline.evaluation.pictures import Picture, fit, font, overlay, shorten, visible

Pair = tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]
"""An image (H, W, C) of any type and its mask (H, W) of class indices, 255 where void."""

_PAPER = (255, 255, 255)
_INK = (40, 40, 40)
_GAP = 6
_LINE = 20


def augmentation_grid(
    originals_and_variants: Sequence[Sequence[Pair]],
    classes: Classes,
    *,
    labels: Sequence[str] = (),
    tile_side: int = 192,
) -> Picture:
    """A row for each sample: the original, then its variants, with their classes: RGB uint8.

    originals_and_variants: a row each, the original first; rows may differ in length and pictures
    in size. What training will see of a sample in its first epochs:
    `[sample, *(transform(*sample, key=(seed, epoch, sample_id)) for epoch in range(4))]`.
    labels: a line above each row, such as the names of the samples.
    tile_side: the longer side of each picture comes as near to this as crisp scaling allows.
    The pictures of a row share one range of values, so that a darker variant looks darker. Void
    pixels, such as those beyond an image's border, are greyed.
    """
    rows = [_row(row, classes, tile_side) for row in originals_and_variants]
    line = _LINE if labels else 0
    width = _GAP + max((len(row) for row in rows), default=0) * (tile_side + _GAP)
    height = _GAP + len(rows) * (line + tile_side + _GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    face = font(13)
    for number, row in enumerate(rows):
        top = _GAP + number * (line + tile_side + _GAP)
        if number < len(labels):
            draw.text((_GAP, top), shorten(labels[number], face, width), fill=_INK, font=face)
        for column, tile in enumerate(row):
            left = _GAP + column * (tile_side + _GAP)
            middle = (tile_side - tile.width) // 2, (tile_side - tile.height) // 2
            sheet.paste(tile, (left + middle[0], top + line + middle[1]))
    return np.array(sheet)


def _row(pairs: Sequence[Pair], classes: Classes, side: int) -> list[Image.Image]:
    """The pictures of one row, all made visible at once."""
    if not pairs:
        return []
    images = [image[..., None] if image.ndim == 2 else image for image, _ in pairs]
    pixels = [image.reshape(-1, 1, image.shape[2]) for image in images]
    shown = visible(np.concatenate(pixels))
    ends = np.cumsum([len(part) for part in pixels])[:-1]
    tiles = []
    for image, (_, mask), part in zip(images, pairs, np.split(shown, ends), strict=True):
        picture = part.reshape(*image.shape[:2], 3)
        tiles.append(fit(overlay(picture, mask, classes), side))
    return tiles
