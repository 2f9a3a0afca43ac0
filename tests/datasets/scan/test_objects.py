"""The connected objects of masks, against OpenCV's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unet_pipeline.datasets.images import decode_mask
from unet_pipeline.datasets.scan.objects import count_objects, count_pixels, find_runs


def by_opencv(mask: Any) -> dict[int, tuple[int, int, int, int]]:
    found = {}
    for value in np.unique(mask[mask > 0]).tolist():
        here = (mask == value).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(here, connectivity=8)
        sizes = np.sort(stats[1:, cv2.CC_STAT_AREA]).tolist()
        found[value] = (count - 1, sizes[0], sizes[(len(sizes) - 1) // 2], sizes[-1])
    return found


def test_objects_are_those_of_opencv() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        shape = rng.integers(1, 14, 2)
        mask = rng.integers(0, rng.integers(2, 5), shape).astype(np.uint8)
        assert count_objects(find_runs(mask)) == by_opencv(mask), mask


def test_objects_of_a_real_mask_are_those_of_opencv(real_data: Callable[[str], Path]) -> None:
    for path in sorted((real_data("camvid") / "trainannot").iterdir())[:5]:
        mask = decode_mask(path.read_bytes(), source="").values
        runs = find_runs(mask)
        assert count_objects(runs) == by_opencv(mask)
        values, counts = np.unique(mask, return_counts=True)
        assert [part.tolist() for part in count_pixels(runs)] == [values.tolist(), counts.tolist()]
