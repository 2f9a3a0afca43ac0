"""Whether two pictures that are alike at large are alike in detail too, channel by channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.formats.contract import Made
from unet_pipeline.datasets.images import read_image
from unet_pipeline.datasets.scan.picture_hash import to_grey
from unet_pipeline.errors import DatasetError

LEAST_AGREEMENT = 0.8
"""Correlation of details, the mean over the channels, from which two pictures may be one.

Measured on photographs of cells and streets: one picture as JPEG of quality 50, scaled to 48
pixels, darkened, cut by 1 % has 0.92 to 1.00, neighbouring frames of a video 0.92; two cells of
one kind with backgrounds of their own 0.64, though their thumbnails in grey agree by 0.976.
"""

_SIDE = 32
_BLUR = 2.0  # standard deviation, in cells of the small picture, of what is not detail
_MOST_PICTURES = 2000  # are read once more; all others are taken for what their thumbnails say
_FAINT = 0.5  # details below this part of 255 levels are noise


class Details:
    """The details of pictures, each read when it is first asked for."""

    def __init__(self) -> None:
        self._held: dict[int, npt.NDArray[np.float32] | None] = {}

    def agree(self, first: tuple[int, Path | Made], second: tuple[int, Path | Made]) -> bool:
        """Whether two pictures, each with the number that it is known by, are alike in detail.

        True where one cannot be told: it cannot be read, has no details, or too many were read.
        """
        one, other = self._details(*first), self._details(*second)
        if one is None or other is None:
            return True
        if one.shape != other.shape:  # grey beside colour
            one, other = (form.mean(axis=2, keepdims=True) for form in (one, other))
        products = (one * other).sum(axis=(0, 1))
        lengths = np.sqrt((one**2).sum(axis=(0, 1)) * (other**2).sum(axis=(0, 1)))
        if lengths.min() < _FAINT**2 * _SIDE**2:
            return True
        return bool((products / lengths).mean() >= LEAST_AGREEMENT)

    def _details(self, number: int, picture: Path | Made) -> npt.NDArray[np.float32] | None:
        if number not in self._held:
            if len(self._held) >= _MOST_PICTURES:
                return None
            try:
                pixels = read_image(picture) if isinstance(picture, Path) else picture.pixels()
            except DatasetError:  # it was there a moment ago
                self._held[number] = None
            else:
                self._held[number] = _details_of(pixels)
        return self._held[number]


def _details_of(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(32, 32, C) of an image (H, W, C) without what is smooth, in 255 levels; C is 1 or 3."""
    channels = image if image.shape[2] == 3 else to_grey(image)
    small = cv2.resize(channels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    spread = float(image.max()) - float(image.min())
    if image.dtype != np.uint8 and spread > 0:
        small *= 255 / spread
    smooth = cv2.GaussianBlur(small, (0, 0), _BLUR)
    return np.asarray(small - smooth, dtype=np.float32).reshape(_SIDE, _SIDE, -1)
