"""Whether two pictures that are alike at large are alike in detail too, channel by channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST_AGREEMENT = 0.8
"""Correlation of details, the mean over the channels, from which two pictures may be one.

Measured on photographs of cells and streets: one picture as JPEG of quality 50, scaled to 48
pixels, darkened, cut by 1 % has 0.92 to 1.00, neighbouring frames of a video 0.92; two cells of
one kind with backgrounds of their own 0.64, though their thumbnails in grey agree by 0.976.
"""

_MOST_PICTURES = 2000  # are asked for; all others are taken for what their thumbnails say
_FAINT = 0.5  # details below this part of 255 levels are noise


class Details:
    """The details of pictures, each asked for when it is first needed.

    read: gives the details (H, W, C) of a picture by its number, None where it cannot be read.
    """

    def __init__(self, read: Callable[[int], npt.NDArray[Any] | None]) -> None:
        self._read = read
        self._held: dict[int, npt.NDArray[np.float32] | None] = {}

    def agree(self, first: int, second: int) -> bool:
        """Whether two pictures are alike in detail.

        True where one cannot be told: it cannot be read, has no details, or too many were read.
        """
        one, other = self._details(first), self._details(second)
        if one is None or other is None:
            return True
        if one.shape != other.shape:  # grey beside colour
            one, other = (form.mean(axis=2, keepdims=True) for form in (one, other))
        products = (one * other).sum(axis=(0, 1))
        lengths = np.sqrt((one**2).sum(axis=(0, 1)) * (other**2).sum(axis=(0, 1)))
        height, width = one.shape[:2]
        if lengths.min() < _FAINT**2 * height * width:
            return True
        return bool((products / lengths).mean() >= LEAST_AGREEMENT)

    def _details(self, number: int) -> npt.NDArray[np.float32] | None:
        if number not in self._held:
            if len(self._held) >= _MOST_PICTURES:
                return None
            details = self._read(number)
            self._held[number] = None if details is None else details.astype(np.float32)
        return self._held[number]
