"""Pictures that occur more than once, exactly or nearly, and above all in several splits."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.findings import Finding, counted
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.images import read_mask
from unet_pipeline.datasets.picture_details import Details
from unet_pipeline.datasets.scan import PairScan
from unet_pipeline.datasets.splits import merge_duplicates

MAX_BITS = 10
"""Perceptual hashes (64 bits) that differ in no more than this may be one picture, changed.

Cutting 1 % off each side changes up to 10 of them, JPEG and brightness up to 2."""

MIN_CORRELATION = 0.97
"""And their thumbnails must agree as well: hashes of dark pictures with few spots are alike."""

_LEAST_SIDE = 48  # smaller pictures are alike without being one: MNIST has 5,000 pairs among 20,000

_MAX_FOUND = 10_000  # of a video, every frame is like its neighbours: enough is known by then

_SIDE = 16  # of a thumbnail

_COMPARED = 2**19  # hashes at a time, 4 MB


class Likeness(NamedTuple):
    """Two samples (indices into the scans) whose pictures are nearly the same."""

    first: int
    second: int
    bits: int


def first_equal(scans: Sequence[PairScan]) -> npt.NDArray[np.int64]:
    """For each picture the place of the first that is equal to it pixel by pixel; mostly its own.

    Pictures of one colour are equal to none: black slices and blank tiles are usual.
    """
    digests, flat = bytearray(), array("Q")
    for place, scan in enumerate(scans):
        digests += scan.image.picture
        if scan.image.is_flat:
            flat.append(place)
    first = _first_places(digests)
    first[flat] = flat
    return first


def _first_places(digests: bytearray) -> npt.NDArray[np.int64]:
    """For each of many digests of 16 bytes, the place of the first that is equal to it.

    By sorting, for a dictionary of them takes 140 bytes each.
    """
    halves = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 0], halves[:, 1]))  # equal ones stay in their order
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (halves[order[1:]] != halves[order[:-1]]).any(axis=1)
    heads = np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))
    first = np.empty_like(order)
    first[order] = order[heads]
    return first


def equal_pictures(scans: Sequence[PairScan], splits: Sequence[str]) -> Iterator[Finding]:
    """Pictures that are equal pixel by pixel, whatever their files: in one split, and in several.

    The same picture with another mask is told apart: one of the two is wrong. Pictures of one
    colour are left out: they have a finding of their own.
    """
    first = first_equal(scans)
    members: dict[int, list[int]] = {}
    for place in np.flatnonzero(first != np.arange(len(first))).tolist():
        earlier = int(first[place])
        members.setdefault(earlier, [earlier]).append(place)
    equal = [members[earlier] for earlier in sorted(members)]
    crossing = [group for group in equal if len({splits[i] for i in group}) > 1]
    inside = [group for group in equal if len({splits[i] for i in group}) == 1]
    differing = [group for group in equal if _masks_differ([scans[i] for i in group])]

    def names(groups: list[list[int]]) -> tuple[str, ...]:
        return tuple(" = ".join(scans[i].pair.sample_id for i in g[:3]) for g in groups[:5])

    if crossing:
        yield Finding(
            "duplicates-cross-splits",
            "warning",
            f"equal pictures in several splits (a leak), {_times(crossing)}: scores will be "
            "too good",
            len(crossing),
            names(crossing),
            "remove all but one of each",
        )
    if inside:
        yield Finding(
            "duplicates",
            "warning",
            f"equal pictures in one split, {_times(inside)}",
            len(inside),
            names(inside),
            "they are kept in one split; remove all but one of each",
        )
    if differing:
        yield Finding(
            "contradicting-masks",
            "warning",
            f"equal pictures with different masks, {_times(differing)}",
            len(differing),
            names(differing),
            "keep the right mask and remove the others",
        )


def _times(groups: Sequence[object]) -> str:
    return f"{len(groups)} times" if len(groups) > 1 else "once"


def near_duplicates(
    scans: Sequence[PairScan],
    thumbnail: Callable[[PairScan], npt.NDArray[np.uint8] | None],
    details: Callable[[PairScan], npt.NDArray[Any] | None],
) -> list[Likeness]:
    """Pairs of pictures that are one picture scaled, brightened, compressed again or cut a little.

    Of equal ones the first stands for all; pictures below 48 pixels are left out.
    thumbnail: the small grey picture of a scan, to verify what the hashes say. details: of a scan,
    by which `Details` verifies what both say. Every hash is compared with every other one, which
    is exact, and quick enough.
    """
    eligible, phashes, digests = array("q"), array("Q"), bytearray()
    for place, image in enumerate(scan.image for scan in scans):
        if min(image.height, image.width) >= _LEAST_SIDE and image.phash:
            eligible.append(place)
            phashes.append(image.phash)
            digests += image.picture
    first = _first_places(digests)
    is_first = first == np.arange(len(first))
    places = np.array(eligible, dtype=np.int64)[is_first].tolist()
    hashes = np.array(phashes, dtype=np.uint64)[is_first]
    forms = _Forms(lambda place: thumbnail(scans[places[place]]))
    found: list[Likeness] = []
    comparison = Details(lambda place: details(scans[place]))
    num_rows = max(1, _COMPARED // max(len(hashes), 1))
    for start in range(0, len(hashes), num_rows):
        bits = np.bitwise_count(hashes[start : start + num_rows, None] ^ hashes[start:])
        rows, columns = np.nonzero(np.triu(bits <= MAX_BITS, 1))
        alike = forms.correlate(start + rows, start + columns) >= MIN_CORRELATION
        for row, column in zip(rows[alike].tolist(), columns[alike].tolist(), strict=True):
            one, other = places[start + row], places[start + column]
            if comparison.agree(one, other):
                found.append(Likeness(one, other, int(bits[row, column])))
        if len(found) >= _MAX_FOUND:
            break
    return found


class _Forms:
    """Thumbnails with mean 0 and length 1, so that brightness and contrast tell nothing apart.

    Read when they are first asked for: most pictures are like no other one.
    """

    def __init__(self, thumbnail: Callable[[int], npt.NDArray[np.uint8] | None]) -> None:
        self._thumbnail = thumbnail
        self._held: dict[int, npt.NDArray[np.float32]] = {}

    def correlate(
        self, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """The correlation of each pair of places; 0 where one has no thumbnail."""
        if not len(first):
            return np.zeros(0, dtype=np.float32)
        places, index = np.unique(np.concatenate([first, second]), return_inverse=True)
        table = np.stack([self._form(place) for place in places.tolist()])
        one, other = table[index[: len(first)]], table[index[len(first) :]]
        products: npt.NDArray[np.float32] = np.einsum("nd,nd->n", one, other)
        return products

    def _form(self, place: int) -> npt.NDArray[np.float32]:
        if place not in self._held:
            picture = self._thumbnail(place)
            form = np.zeros(_SIDE**2, dtype=np.float32)
            if picture is not None:
                form = picture.astype(np.float32).ravel() - picture.mean(dtype=np.float32)
                form /= max(float(np.linalg.norm(form)), 1e-6)
            self._held[place] = form
        return self._held[place]


def near_duplicate_findings(
    scans: Sequence[PairScan],
    splits: Sequence[str],
    likenesses: Sequence[Likeness],
    *,
    fixed: bool,
) -> Iterator[Finding]:
    """What `near_duplicates` found, by groups: those that cross splits, and the others.

    fixed: no option changes the splits.
    """
    groups = _groups_of(likenesses)
    crossing = [g for g in groups if any(splits[a] != splits[b] for a, b, _ in g)]
    inside = [g for g in groups if g not in crossing]
    for code, some, where, remedy in (
        (
            "near-duplicates-cross-splits",
            crossing,
            "different splits (a leak)",
            "move them to one split in samples.csv of the prepared dataset, or remove all but one"
            if fixed
            else "remove all but one, or move them to one split in samples.csv of the prepared "
            "dataset; where their names tell what belongs together, --group-regex keeps it so",
        ),
        ("near-duplicates", inside, "one split", "look at them in report.html"),
    ):
        if some:
            pictures = {place for group in some for like in group for place in like[:2]}
            shown = [
                next((like for like in g if splits[like[0]] != splits[like[1]]), g[0])
                for g in some[:5]
            ]
            yield Finding(
                code,
                "warning" if some is crossing else "note",
                f"{len(pictures)} pictures are nearly equal to others in {where}, in "
                f"{counted(len(some), 'group')}",
                len(some),
                tuple(
                    f"{scans[a].pair.sample_id} ~ {scans[b].pair.sample_id}" for a, b, _ in shown
                ),
                remedy,
            )


def _groups_of(likenesses: Sequence[Likeness]) -> list[list[Likeness]]:
    """The likenesses of pictures that hang together, a list a group."""
    ends = sorted({place for like in likenesses for place in like[:2]})
    names = [str(place) for place in ends]
    joined = merge_duplicates(
        [*names, *(str(like[0]) for like in likenesses), *(str(like[1]) for like in likenesses)],
        [*names, *range(len(likenesses)), *range(len(likenesses))],
    )
    group_of = dict(zip(names, joined[: len(names)], strict=True))
    groups: dict[str, list[Likeness]] = {}
    for like in likenesses:
        groups.setdefault(group_of[str(like.first)], []).append(like)
    return list(groups.values())


def _masks_differ(scans: Sequence[PairScan]) -> bool:
    if len({scan.mask.key for scan in scans}) == 1:
        return False
    return len({_mask_pixels(scan.pair) for scan in scans}) > 1


def _mask_pixels(pair: Pair) -> bytes:
    """A digest of the values of a mask, read again: equal pictures are few."""
    values = read_mask(pair.mask) if isinstance(pair.mask, Path) else pair.mask.pixels()
    return hashlib.blake2b(f"{values.shape}".encode() + values.astype(np.int64).tobytes()).digest()
