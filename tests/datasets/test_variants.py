"""The same objects in four annotation formats give the same masks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.formats.catalogue import find_pairs
from unet_pipeline.datasets.images import read_mask

RealData = Callable[[str], Path]

VARIANTS = {
    "coco": {"format_name": "coco"},
    "labelme": {"format_name": "labelme"},
    "yolo": {"format_name": "yolo"},
    "palette PNG": {"masks": "masks_palette"},
}


def masks_of(source: Path, options: dict[str, str]) -> dict[str, npt.NDArray[np.integer]]:
    """Class names of every pixel, as numbers that are the same in all formats."""
    found = find_pairs(source, **options)
    order = ("background", "date", "fig", "hazelnut")
    listed = found.class_list
    values = listed.values if listed is not None and listed.values else (0, 1, 2, 3)
    names = listed.names if listed is not None and listed.values else order
    table = np.zeros(256, dtype=np.int64)
    for value, name in zip(values, names, strict=True):
        table[value] = order.index(name)
    return {
        Path(str(pair.image)).stem: table[
            read_mask(pair.mask) if isinstance(pair.mask, Path) else pair.mask.pixels()
        ]
        for pair in found.pairs
    }


def test_fruits_and_nuts_are_the_same_in_four_formats(real_data: RealData) -> None:
    """They differ where two fruits overlap: the PNG has the order of the file, we the larger first.

    Only picture 3 has so many of these pixels, 133 of 480,000.
    """
    source = real_data("fruits_nuts")
    masks = {name: masks_of(source, options) for name, options in VARIANTS.items()}
    for one, other in itertools.combinations(masks, 2):
        assert set(masks[one]) == set(masks[other])
        shares = {n: (masks[one][n] == masks[other][n]).mean() for n in masks[one]}
        assert min(shares.values()) >= 0.9997, (one, other, min(shares, key=shares.__getitem__))
        assert sum(share >= 0.9999 for share in shares.values()) >= 17
