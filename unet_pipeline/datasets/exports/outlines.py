"""Regions of a mask -> outlines that give back exactly these pixels when they are filled.

An outline has no holes. A region with holes is cut by vertical lines, each through one hole or
more: what lies left of the line opens the hole to the right, what lies right of it to the left,
and no new hole can arise, so that all pieces together are the region.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Outline = npt.NDArray[np.int32]
"""(N, 2) with N >= 3: column and row of each corner, which is the centre of a pixel."""


def outlines(region: npt.NDArray[Any]) -> list[Outline]:
    """Outlines that cover the pixels of `region` (H, W) that are not 0, and no others.

    Filled by `cv2.fillPoly`, which paints what is inside and on the outline. Each connected
    region (8 neighbours) without holes gives one outline.
    """
    pixels = np.ascontiguousarray(region != 0).astype(np.uint8)
    rings, tree = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not rings:
        return []
    holes: dict[int, list[tuple[int, int]]] = {}
    for ring, (_, _, _, parent) in zip(rings, tree[0].tolist(), strict=True):
        if parent >= 0:  # the pixels around a hole; it lies between them
            columns = ring[..., 0]
            span = int(columns.min()) + 1, int(columns.max()) - 1
            holes.setdefault(parent, []).append(span)
    if not holes:
        return [_with_corners(ring) for ring in rings]
    found = []
    _, labels = cv2.connectedComponents(pixels, connectivity=8)
    for place, (ring, (_, _, _, parent)) in enumerate(zip(rings, tree[0].tolist(), strict=True)):
        if place in holes:
            left, top, width, height = cv2.boundingRect(ring)
            column, row = ring[0, 0].tolist()
            box = labels[top : top + height, left : left + width] == labels[row, column]
            cuts = [cut - left for cut in _cuts(holes[place])]
            found += [piece + np.array([left, top], dtype=np.int32) for piece in _pieces(box, cuts)]
        elif parent < 0:
            found.append(_with_corners(ring))
    return found


def _cuts(holes: Iterable[tuple[int, int]]) -> Iterator[int]:
    """The fewest columns that meet every hole, given as its first and last column."""
    low, high = 0, -1
    for first, last in sorted(holes, key=lambda span: span[1]):
        if first > high:
            if high >= 0:
                yield (low + high) // 2
            low, high = first, last
        low = max(low, first)
    yield (low + high) // 2


def _pieces(region: npt.NDArray[np.bool_], cuts: Iterable[int]) -> Iterator[Outline]:
    """The outlines of `region`, cut behind each of the columns `cuts`."""
    start = 0
    for end in (*(cut + 1 for cut in cuts), region.shape[1]):
        slab = np.ascontiguousarray(region[:, start:end]).astype(np.uint8)
        rings, _ = cv2.findContours(
            slab, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(start, 0)
        )
        yield from map(_with_corners, rings)
        start = end


def _with_corners(ring: npt.NDArray[Any]) -> Outline:
    """`ring` (N, 1, 2) as an outline; that of one or two pixels gets their corners twice."""
    corners = ring.reshape(-1, 2).astype(np.int32)
    return np.resize(corners, (max(len(corners), 3), 2))
