"""Masks whose values are no classes but shades around them: soft edges, or noise on colours."""

from __future__ import annotations

import contextlib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from unet_pipeline.classes import MaskValue, color_points, pack_colors, pack_value
from unet_pipeline.datasets.formats.contract import Pair
from unet_pipeline.datasets.images import Encoding, read_mask
from unet_pipeline.datasets.value_histograms import MAX_FOUND_CLASSES, blurred_classes
from unet_pipeline.datasets.value_table import ValueTable
from unet_pipeline.errors import DatasetError

_LOOKED_AT = 8  # masks, evenly over all of them
_LEAST_SHADES = 3  # fewer values on edges are what somebody drew
_LARGEST_SHARE = 0.5  # of the pixels; of photographs nearly all lie between their neighbours
_BETWEEN = 0.9  # of the pixels of shades, that lie between their neighbours
_LEAST_CLASS = 0.001  # of the pixels: what is rarer and solid may be the inside of a wide edge
_NEAR_GREY, _NEAR_COLOR = 12, 24  # how far a value that is named may be from the one that is seen


def with_shades(table: ValueTable, pairs: Sequence[Pair]) -> ValueTable:
    """`table` with the values around which the others lie, as `shades_of`; some masks are read."""
    numbers_objects = table.numbering is not None and table.numbering.sure
    if table.lossy or table.encoding == "palette" or numbers_objects or len(table.uses) < 5:
        return table
    places = array("Q", (i for i, p in enumerate(pairs) if isinstance(p.mask_file, str)))
    masks = []
    for place in places[:: max(1, len(places) // _LOOKED_AT)][:_LOOKED_AT]:
        with contextlib.suppress(DatasetError):  # the file is reported when all are read
            path = Path(str(pairs[place].mask_file))
            masks.append(read_mask(path, encoding=table.encoding))
    return replace(table, shades_of=_solid_values(masks, table.encoding) or _centers(table))


def lie_around(table: ValueTable, values: Sequence[MaskValue]) -> bool:
    """Whether the values of the masks are shades of `values`, so that each has a nearest one."""
    if not table.shades_of or not values:
        return False
    seen = color_points(np.array(table.shades_of), table.encoding)
    named = color_points(np.array([pack_value(value) for value in values]), table.encoding)
    away = np.sqrt(((seen[:, None] - named[None]) ** 2).sum(axis=2)).min(axis=1)
    return bool(away.max() <= (_NEAR_COLOR if table.encoding == "rgb" else _NEAR_GREY))


def _solid_values(masks: Sequence[npt.NDArray[Any]], encoding: Encoding) -> tuple[int, ...]:
    """The values that fill a square of 3x3 pixels somewhere, where all others lie on their edges.

    Empty where they do not: where fewer than three values fill no square, or these are not
    between the values beside them, as shades on an edge are.
    """
    pixels, solid = Counter[int](), Counter[int]()
    shades: list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]] = []
    for mask in masks:
        keys: npt.NDArray[Any] = pack_colors(mask) if encoding == "rgb" else mask
        if keys.ndim != 2 or min(keys.shape) < 3:
            continue
        layers = mask if mask.ndim == 3 else mask[..., None]
        low, high = _around(layers)
        flat = (low == high).all(axis=2)
        between = np.asarray(((low < layers) & (layers < high)).any(axis=2))
        shades.append((keys, between))
        for counter, chosen in ((pixels, keys), (solid, keys[flat])):
            found, counts = np.unique(chosen, return_counts=True)
            counter.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    total = sum(pixels.values())
    classes = [value for value in solid if pixels[value] >= _LEAST_CLASS * total]
    soft = total - sum(pixels[value] for value in classes)
    if len(classes) < 2 or len(pixels) - len(classes) < _LEAST_SHADES:
        return ()
    if len(classes) > MAX_FOUND_CLASSES or soft > _LARGEST_SHARE * total:
        return ()
    beside = sum(int((between & ~np.isin(keys, classes)).sum()) for keys, between in shades)
    return tuple(sorted(classes)) if beside >= _BETWEEN * soft else ()


def _around(layers: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The lowest and the highest value of each layer (H, W, C) in the 3x3 pixels around each."""
    square = np.ones((3, 3), np.uint8)
    planes = [np.ascontiguousarray(layers[..., c]) for c in range(layers.shape[2])]
    planes = [p if p.dtype in (np.uint8, np.uint16) else p.astype(np.float32) for p in planes]
    low = [cv2.erode(plane, square) for plane in planes]
    high = [cv2.dilate(plane, square) for plane in planes]
    return np.stack(low, axis=2), np.stack(high, axis=2)


def _centers(table: ValueTable) -> tuple[int, ...]:
    """The values around which too many to be classes lie, as those under the blur of JPEG."""
    if table.complete and len(table.uses) <= MAX_FOUND_CLASSES:
        return ()
    pixels = {key: use.pixels for key, use in table.uses.items()}
    centers = blurred_classes(pixels, table.num_pixels, table.encoding)
    return centers if len(centers) > 1 else ()
