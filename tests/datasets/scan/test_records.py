"""What is kept of a pair: little, shared where files are alike, and the same from the cache."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.scan.cases import one, write_pairs
from unet_pipeline.datasets.file_kind import FileKind
from unet_pipeline.datasets.images import MaskPixels
from unet_pipeline.datasets.scan import ImageScan, MaskScan, ScanTable, content_digest
from unet_pipeline.datasets.scan.pixels import scan_image, scan_mask


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_an_image_comes_back_exactly(dtype: str) -> None:
    image = (np.random.default_rng(0).random((7, 9, 3)) * 250).astype(dtype)
    scan, _ = scan_image(image, FileKind("tiff", 0, 6), alpha=True)
    back = ImageScan.from_bytes(scan.to_bytes(), b"key")
    assert (back.key, back.stored_size) == (b"key", (9, 7))
    assert back == ImageScan.from_bytes(back.to_bytes(), b"key")
    assert (back.low, back.high) == (image.min(), image.max())
    assert (
        back.sums == tuple(image.sum(axis=(0, 1), dtype=np.float64).tolist()) or dtype == "float32"
    )
    assert (back.sums, back.squares) == (scan.sums, scan.squares)
    assert (back.picture, back.phash) == (scan.picture, scan.phash)
    assert len(back.picture) == 16


@pytest.mark.parametrize("most", [1, 5, 600])
@pytest.mark.parametrize("palette", [False, True])
def test_a_mask_comes_back_exactly(most: int, palette: bool) -> None:
    values = np.random.default_rng(0).integers(0, most, (40, 50)).astype(np.uint16)
    colors = np.arange(1800, dtype=np.uint16).reshape(600, 3).astype(np.uint8)
    scan = scan_mask(MaskPixels(values, colors if palette else None, void=True))
    back = MaskScan.from_bytes(scan.to_bytes(), b"key")
    assert back.key == b"key"
    assert (back.counts, back.objects) == (scan.counts, scan.objects)
    assert (back.palette, back.void) == (scan.palette, True)
    assert set(back.palette) == (set(back.counts) if palette else set())


def test_the_digest_of_a_pair_depends_on_both_files() -> None:
    assert content_digest(b"a", b"b") != content_digest(b"b", b"a")
    assert len(content_digest(b"a", b"b")) == 32


def test_little_is_kept_of_a_pair(tmp_path: Path) -> None:
    first, other = (one(pair) for pair in write_pairs(tmp_path, 2, side=300))
    own = [first, first.image, first.image.packed, first.mask, first.mask.packed]
    assert sum(map(sys.getsizeof, own)) < 500
    assert first.image.facts is other.image.facts
    assert first.mask.facts is other.mask.facts
    assert first.mask.listed is other.mask.listed


def test_a_table_of_scans_gives_them_back(tmp_path: Path) -> None:
    scans = [one(pair) for pair in write_pairs(tmp_path, 3)]
    table = ScanTable()
    for scan in scans:
        table.append(scan)
    rows = table.rows()
    assert (list(rows), rows[-1], rows[:2]) == (scans, scans[2], scans[:2])
    assert rows[0].mask.facts is rows[1].mask.facts
