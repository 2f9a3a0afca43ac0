"""The values of a mask and the connected objects that they form, from its runs of equal pixels.

In masks there are a hundred times fewer runs than pixels, so that one pass over the pixels serves
counting and all values' objects: 0.25 ms for a mask of 512x512 with three classes and 2000 runs,
where `cv2.connectedComponentsWithStats` takes 0.6 to 2 ms for each of its values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.scan.records import Objects

MAX_RUNS = 2**22
"""Objects of masks with more runs of equal pixels are not counted: those are noise."""

Indices = npt.NDArray[np.int64]


class Runs(NamedTuple):
    """The runs of equal pixels in the rows of a mask, in reading order.

    starts: the place of the first pixel in the flattened mask. values: colours as 0xRRGGBB.
    width: of the mask.
    """

    starts: Indices
    lengths: Indices
    values: Indices
    width: int


def find_runs(values: npt.NDArray[Any]) -> Runs:
    """The runs of a mask (H, W), or of a coloured one (H, W, 3) uint8."""
    width = values.shape[1]
    if values.ndim == 3:  # bytes B, G, R, 255: one number 0xFFRRGGBB a pixel
        values = cv2.cvtColor(values, cv2.COLOR_RGB2BGRA).view("<u4")
    flat = np.ascontiguousarray(values).reshape(-1)
    differs = np.empty(flat.size, dtype=np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=differs[1:])
    differs[::width] = True
    starts = np.flatnonzero(differs)
    lengths = np.append(starts[1:], flat.size) - starts
    return Runs(starts, lengths, flat[starts].astype(np.int64) & 0xFFFFFF, width)


def count_pixels(runs: Runs) -> tuple[Indices, Indices]:
    """The values that occur, ascending, and the pixels of each."""
    if runs.values.max() < 65536:
        counts = np.bincount(runs.values, weights=runs.lengths)
        present = np.flatnonzero(counts)
        return present, counts[present].astype(np.int64)
    present, kind_of = np.unique(runs.values, return_inverse=True)
    return present, np.bincount(kind_of, weights=runs.lengths).astype(np.int64)


def count_objects(runs: Runs) -> dict[int, Objects] | None:
    """Number and sizes of the 8-connected objects of each value but 0; None for noise."""
    if len(runs.starts) > MAX_RUNS:
        return None
    shown = np.flatnonzero(runs.values)
    if not shown.size:
        return {}
    values, lengths = runs.values[shown], runs.lengths[shown]
    object_of = _join(runs.starts[shown], lengths, values, runs.width)
    sizes = np.bincount(object_of, weights=lengths).astype(np.int64)
    first = np.flatnonzero(object_of == np.arange(len(object_of)))
    sizes, values = sizes[first], values[first]
    order = np.lexsort((sizes, values))
    sizes, values = sizes[order], values[order]
    ends = np.append(np.flatnonzero(np.diff(values)) + 1, len(values)).tolist()
    found: dict[int, Objects] = {}
    start = 0
    for end in ends:
        own = sizes[start:end]
        middle = own[(len(own) - 1) // 2]
        found[int(values[start])] = Objects(len(own), int(own[0]), int(middle), int(own[-1]))
        start = end
    return found


def _join(starts: Indices, lengths: Indices, values: Indices, width: int) -> Indices:
    """For each run the first run of its object."""
    rows = starts // width
    stride = width + 2  # so that a run at the end of a row never touches one at the start
    begins = starts + 2 * rows
    ends = begins + lengths
    # Of the next row, those that begin no later than one pixel behind the end, and so on
    lowest = np.searchsorted(ends, begins + stride, "left")
    number = np.searchsorted(begins, ends + stride, "right") - lowest
    above = np.repeat(np.arange(len(starts)), number)
    offsets = np.cumsum(number) - number
    below = np.arange(len(above)) + np.repeat(lowest - offsets, number)
    alike = values[above] == values[below]
    return _roots(len(starts), above[alike], below[alike])


def _roots(count: int, above: Indices, below: Indices) -> Indices:
    """The smallest member of each member's component, of a graph with edges above - below."""
    parent = np.arange(count)
    while True:
        first, second = parent[above], parent[below]
        apart = first != second
        if not apart.any():
            return parent
        above, below = above[apart], below[apart]
        first, second = first[apart], second[apart]
        np.minimum.at(parent, np.maximum(first, second), np.minimum(first, second))
        while True:
            grand = parent[parent]
            if not (grand != parent).any():
                break
            parent = grand
