"""The same few cases of a split for every model: what a table in MLflow compares run by run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from unet_pipeline.classes import Classes
from unet_pipeline.evaluation.metrics import Counts, image_means
from unet_pipeline.evaluation.pictures import Picture, errors, fit, font, overlay, visible

NUM_CASES = 20
CASE_COLUMNS = ("case", "output", "mean IoU", "mean Dice")
"""MLflow compares runs by the column called "output" unless told otherwise: the pictures."""

# A row of MLflow's comparison shows the upper half of a square picture, at half this size (MLflow
# 3.17): errors and prediction stand there, truth and image below are seen after a click
_TILE = 256


def spread_cases(sample_ids: Sequence[str], *, count: int = NUM_CASES) -> list[str]:
    """At most `count` ids, spread evenly over all of them in their order by name.

    They depend on the names alone, so runs on the same data show the same cases.

    >>> spread_cases(["d", "a", "e", "c", "b"], count=3)
    ['a', 'c', 'e']
    """
    ordered = sorted(sample_ids)
    if len(ordered) <= count:
        return ordered
    return [ordered[round(n * (len(ordered) - 1) / (count - 1))] for n in range(count)]


class CaseTable:
    """Small pictures of what a model makes of some cases, and their scores.

    A picture is a square of four: where the prediction is right and wrong (`pictures.errors`), with
    the mean IoU in a corner, and the prediction; below, the truth and the image.
    """

    def __init__(self, cases: Sequence[str], classes: Classes) -> None:
        self._classes = classes
        self._cases = tuple(cases)
        self._wanted = frozenset(cases)
        self._pictures: dict[str, Picture] = {}

    def add(
        self,
        sample_id: str,
        image: npt.NDArray[Any],
        truth: npt.NDArray[Any],
        prediction: npt.NDArray[Any],
    ) -> None:
        """Keep a picture of the sample, if it is one of the cases."""
        if sample_id in self._wanted:
            tiles = (
                errors(image, truth, prediction),
                overlay(image, prediction, self._classes),
                overlay(image, truth, self._classes),
                visible(image),
            )
            sheet = Image.new("RGB", (2 * _TILE, 2 * _TILE), (255, 255, 255))
            for number, tile in enumerate(tiles):
                row, column = divmod(number, 2)
                sheet.paste(fit(tile, _TILE), (column * _TILE, row * _TILE))
            self._pictures[sample_id] = np.asarray(sheet)

    def rows(self, sample_ids: Sequence[str], matrices: Counts) -> list[list[Any]]:
        """A row a case, of `CASE_COLUMNS`; a case that was not scored has none.

        sample_ids, matrices: the n images that were scored and their confusion counts.
        """
        places = {sample_id: n for n, sample_id in enumerate(sample_ids)}
        mean_iou, mean_dice = image_means(matrices)
        return [
            [
                case,
                _labelled(self._pictures[case], mean_iou[n]),
                *_rounded(mean_iou[n], mean_dice[n]),
            ]
            for case in self._cases
            if case in self._pictures and (n := places.get(case)) is not None
        ]


def _labelled(picture: Picture, mean_iou: float) -> Picture:
    """The picture with its score in the upper left corner."""
    text, face = f"IoU {mean_iou:.3f}", font(26, bold=True)
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, face.getlength(text) + 12, 36), fill=(0, 0, 0))
    draw.text((6, 2), text, fill=(255, 255, 255), font=face)
    return np.asarray(image)


def _rounded(*values: float) -> list[float]:
    return [round(float(value), 4) for value in values]
