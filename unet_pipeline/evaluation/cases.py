"""The same few cases of a split for every model: what a table in MLflow compares run by run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from unet_pipeline.evaluation.metrics import Counts, image_means
from unet_pipeline.evaluation.pictures import Picture, errors, fit

NUM_CASES = 20
CASE_COLUMNS = ("case", "mean IoU", "mean Dice", "overlay")

_SIDE = 256  # MLflow's tables show pictures of that size


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

    A picture shows where the prediction is right and wrong, as `pictures.errors` does, at most 256
    pixels long.
    """

    def __init__(self, cases: Sequence[str]) -> None:
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
            drawn = fit(errors(image, truth, prediction), _SIDE)
            self._pictures[sample_id] = np.asarray(drawn)

    def rows(self, sample_ids: Sequence[str], matrices: Counts) -> list[list[Any]]:
        """A row a case, of `CASE_COLUMNS`; a case that was not scored has none.

        sample_ids, matrices: the n images that were scored and their confusion counts.
        """
        places = {sample_id: n for n, sample_id in enumerate(sample_ids)}
        mean_iou, mean_dice = image_means(matrices)
        return [
            [case, _rounded(mean_iou[n]), _rounded(mean_dice[n]), self._pictures[case]]
            for case in self._cases
            if case in self._pictures and (n := places.get(case)) is not None
        ]


def _rounded(value: float) -> float:
    return round(float(value), 4)
