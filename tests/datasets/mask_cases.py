"""Masks by their values, and what is found in them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from unet_pipeline.classes import Classes
from unet_pipeline.datasets.images import MaskPixels, decode_mask
from unet_pipeline.datasets.mask_values import find_classes
from unet_pipeline.datasets.scan import MaskScan
from unet_pipeline.datasets.scan.pixels import scan_mask
from unet_pipeline.datasets.value_table import ValueTable, count_values

SOURCE = Path("data")


def scan(values: object, palette: object = None, *, lossy: bool = False) -> MaskScan:
    array = np.atleast_2d(np.array(values))
    array = array.astype(np.uint8 if array.max() < 256 else np.uint16)
    colors = None if palette is None else np.array(palette, np.uint8)
    return scan_mask(MaskPixels(array, colors, lossy))


def rgb(*colors: tuple[int, int, int]) -> MaskScan:
    return scan_mask(MaskPixels(np.array([colors], np.uint8)))


def table(*scans: MaskScan) -> ValueTable:
    return count_values([(f"s{i}", s) for i, s in enumerate(scans)])


def classes(*scans: MaskScan, **options: Any) -> Classes:
    return find_classes(table(*scans), source=SOURCE, **options)[0]


def held(values: list[int]) -> MaskScan:
    """A mask file of signed integers."""
    data = io.BytesIO()
    np.save(data, np.array([values]))
    return scan_mask(decode_mask(data.getvalue(), source="m"))
