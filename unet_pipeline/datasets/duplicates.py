"""Pictures that occur more than once, exactly or nearly, and above all in several splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.images import read_mask
from unet_pipeline.datasets.manifest import Split
from unet_pipeline.datasets.scan import PairScan

MAX_BITS = 10
"""Perceptual hashes (64 bits) that differ in no more than this may be one picture, changed.

Cutting 1 % off each side changes up to 10 of them, JPEG and brightness up to 2."""

MIN_CORRELATION = 0.97
"""And their thumbnails must agree as well: hashes of dark pictures with few spots are alike."""

_LEAST_SIDE = 48  # smaller pictures are alike without being one: MNIST has 5,000 pairs among 20,000

_MAX_FOUND = 10_000  # of a video, every frame is like its neighbours: enough is known by then

_ROWS = 512  # hashes compared with all others at a time: 20,000 pictures take half a second


class Likeness(NamedTuple):
    """Two samples (indices into the scans) whose pictures are nearly the same."""

    first: int
    second: int
    bits: int


def equal_pictures(scans: Sequence[PairScan], splits: Sequence[Split]) -> Iterator[Finding]:
    """Pictures that are equal pixel by pixel, whatever their files: in one split, and in several.

    The same picture with another mask is told apart: one of the two is wrong.
    """
    members: dict[bytes, list[int]] = {}
    for place, scan in enumerate(scans):
        members.setdefault(scan.image.picture, []).append(place)
    equal = [group for group in members.values() if len(group) > 1]
    crossing = [group for group in equal if len({splits[i] for i in group}) > 1]
    inside = [group for group in equal if group not in crossing]
    differing = [group for group in equal if len({_mask_pixels(scans[i].pair) for i in group}) > 1]

    def names(groups: list[list[int]]) -> tuple[str, ...]:
        return tuple(" = ".join(scans[i].pair.sample_id for i in g[:3]) for g in groups[:5])

    if crossing:
        yield Finding(
            "duplicates-cross-splits",
            "warning",
            f"equal pictures in several splits (a leak), {len(crossing)} times: scores will be "
            "too good",
            len(crossing),
            names(crossing),
            "remove all but one of each",
        )
    if inside:
        yield Finding(
            "duplicates",
            "warning",
            f"equal pictures in one split, {len(inside)} times",
            len(inside),
            names(inside),
            "they are kept in one split; remove all but one of each",
        )
    if differing:
        yield Finding(
            "contradicting-masks",
            "warning",
            f"equal pictures with different masks, {len(differing)} times",
            len(differing),
            names(differing),
            "keep the right mask and remove the others",
        )


def near_duplicates(
    scans: Sequence[PairScan], thumbnail: Callable[[PairScan], npt.NDArray[np.uint8] | None]
) -> list[Likeness]:
    """Pairs of pictures that are one picture scaled, brightened, compressed again or cut a little.

    Equal ones and pictures below 48 pixels are left out. thumbnail: the small grey picture of a
    scan, to verify what the hashes say. Every hash is compared with every other one, which is
    exact, and quick enough.
    """
    places = [
        i
        for i, scan in enumerate(scans)
        if scan.image.phash and min(scan.image.height, scan.image.width) >= _LEAST_SIDE
    ]
    hashes = np.array([scans[i].image.phash for i in places], dtype=np.uint64)
    found: list[Likeness] = []
    for start in range(0, len(hashes), _ROWS):
        bits = np.bitwise_count(hashes[start : start + _ROWS, None] ^ hashes[start:])
        for row, column in np.argwhere(np.triu(bits <= MAX_BITS, 1)).tolist():
            first, second = places[start + row], places[start + column]
            if scans[first].image.picture != scans[second].image.picture and _alike(
                thumbnail(scans[first]), thumbnail(scans[second])
            ):
                found.append(Likeness(first, second, int(bits[row, column])))
        if len(found) >= _MAX_FOUND:
            break
    return found


def near_duplicate_findings(
    scans: Sequence[PairScan], splits: Sequence[Split], likenesses: Sequence[Likeness]
) -> Iterator[Finding]:
    """What `near_duplicates` found, in one split and across splits."""
    crossing = [like for like in likenesses if splits[like.first] != splits[like.second]]
    inside = [like for like in likenesses if splits[like.first] == splits[like.second]]
    for code, some, where, remedy in (
        (
            "near-duplicates-cross-splits",
            crossing,
            "in different splits (a leak)",
            "keep them together with --group-regex or --split-by order, or remove one of each",
        ),
        ("near-duplicates", inside, "in one split", "look at them in report.html"),
    ):
        if some:
            yield Finding(
                code,
                "warning" if some is crossing else "note",
                f"{len(some)} pairs of nearly equal pictures {where}",
                len(some),
                tuple(
                    f"{scans[a].pair.sample_id} ~ {scans[b].pair.sample_id}" for a, b, _ in some[:5]
                ),
                remedy,
            )


def _mask_pixels(pair: Pair) -> bytes:
    """A digest of the values of a mask, read again: equal pictures are few."""
    values = read_mask(pair.mask) if isinstance(pair.mask, Path) else pair.mask.pixels()
    return hashlib.blake2b(f"{values.shape}".encode() + values.astype(np.int64).tobytes()).digest()


def _alike(first: npt.NDArray[np.uint8] | None, second: npt.NDArray[np.uint8] | None) -> bool:
    """Whether two thumbnails correlate, brightness and contrast left out of account."""
    if first is None or second is None:
        return False
    a, b = (t.astype(np.float64).ravel() - t.mean(dtype=np.float64) for t in (first, second))
    norm = float(np.sqrt(np.dot(a, a) * np.dot(b, b)))
    return norm > 0 and float(np.dot(a, b)) / norm >= MIN_CORRELATION
