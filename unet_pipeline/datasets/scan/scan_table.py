"""What was read of all pairs of a dataset; most of it is on disk where there are many."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from unet_pipeline.datasets.rows import Rows
from unet_pipeline.datasets.scan.record_file import RecordFile
from unet_pipeline.datasets.scan.records import (
    ImageFacts,
    ImageScan,
    MaskFacts,
    MaskScan,
    MaskValues,
    PairScan,
)

if TYPE_CHECKING:
    from unet_pipeline.datasets.formats import Pair


class _Alike(NamedTuple):
    """What many pairs have in common."""

    image: ImageFacts
    mask: MaskFacts
    listed: MaskValues


class ScanTable:
    """Scans, in the order in which they came; `rows` gives them back.

    Measured with RGB images and masks of four classes: 245 bytes a pair, of which the 200 of
    numbers, hashes and digests are on disk; a `PairScan` with its parts takes 435.
    """

    def __init__(self) -> None:
        self._pairs: list[Pair] = []
        self._alike: list[_Alike] = []
        self._known: dict[_Alike, _Alike] = {}
        self._packed = RecordFile()
        self._ends = array("Q", [0])  # of what is packed of each image and of each mask, in turn

    def append(self, scan: PairScan) -> None:
        alike = _Alike(scan.image.facts, scan.mask.facts, scan.mask.listed)
        self._pairs.append(scan.pair)
        self._alike.append(self._known.setdefault(alike, alike))
        for part in (scan.image, scan.mask):
            self._ends.append(self._packed.append(part.packed))

    def rows(self) -> Rows[PairScan]:
        """The scans that are there now."""
        return Rows(self._scan, len(self._pairs))

    def _scan(self, place: int) -> PairScan:
        image, mask, listed = self._alike[place]
        start, middle, end = self._ends[2 * place : 2 * place + 3]
        packed = self._packed.read(start, end)
        middle -= start
        return PairScan(
            self._pairs[place],
            ImageScan(image, packed[:middle]),
            MaskScan(mask, listed, packed[middle:]),
        )
