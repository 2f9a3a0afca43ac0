"""A warning for images that are cut into windows smaller than what the model has learned from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from unet_pipeline.inference.sliding_window import fits_whole

if TYPE_CHECKING:
    from unet_pipeline.models.segmenter import ModelCard

logger = logging.getLogger(__name__)

_LEARNED_SIDE = 64  # of models that do not say; smaller crops are rare


class SmallWindows:
    """Told the size of each image, warns once, where a window shows less than a training crop.

    What a model has learned to see around a pixel is missing then, and its masks are worse.
    """

    def __init__(self, window: int, card: ModelCard) -> None:
        self._window = window
        self._learned = learned_side(card)
        self._said = False

    def look(self, height: int, width: int) -> None:
        """Take note of an image."""
        if self._said or self._window >= min(self._learned, max(height, width)):
            return
        if fits_whole(height, width, window=self._window):
            return
        self._said = True
        logger.warning(
            "windows of %d pixels are smaller than the crops of %d that the model was trained on: "
            "masks get worse; leave --window out, or take at least %d",
            self._window,
            self._learned,
            self._learned,
        )


def learned_side(card: ModelCard) -> int:
    """The shorter side of the crops that a model was trained on, as far as its card says."""
    size = card.facts.get("image_size")
    sides = [side for side in size if isinstance(side, int)] if isinstance(size, list) else []
    return min(sides, default=_LEARNED_SIDE)
