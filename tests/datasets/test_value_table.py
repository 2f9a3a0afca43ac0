"""The values of all masks counted in one table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.datasets.mask_cases import scan, table
from unet_pipeline.classes import Classes
from unet_pipeline.datasets.images import MaskPixels
from unet_pipeline.datasets.scan.pixels import scan_mask
from unet_pipeline.datasets.value_table import ClassPixelRows, class_pixels


def test_values_are_counted_with_the_masks_that_hold_them() -> None:
    counted = table(scan([0, 0, 7]), scan([7, 300]))
    assert counted.encoding == "grey"
    assert {key: (use.pixels, use.examples) for key, use in counted.uses.items()} == {
        0: (2, ["s0"]),
        7: (2, ["s0", "s1"]),
        300: (1, ["s1"]),
    }
    assert counted.complete


def test_colours_are_counted_exactly() -> None:
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (9, 3), dtype=np.uint8)
    mask = colors[rng.integers(0, 9, (31, 17))]
    counts = scan_mask(MaskPixels(mask), ()).counts
    found, numbers = np.unique(mask.reshape(-1, 3), axis=0, return_counts=True)
    keys = found.astype(int) @ [1 << 16, 1 << 8, 1]
    expected = dict(zip(keys.tolist(), numbers.tolist(), strict=True))
    assert counts == expected


def test_a_photograph_keeps_few_values_but_those_asked_for() -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 65536, (200, 200), dtype=np.uint16)
    mask[0, 0] = 4242
    mask[mask == 17] = 18
    mask[5, 5] = 17
    listed = scan_mask(MaskPixels(mask), (17,))
    assert listed.num_values > 10_000
    assert len(listed.counts) <= 513
    assert listed.counts[17] == 1
    assert not table(listed).complete


@pytest.mark.parametrize("options", [{}, {"other": 1}, {"snap": True}])
def test_pixels_of_classes_agree_with_the_indices(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    found = Classes(
        names=("a", "b", "c"),
        colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)),
        values=(0, 9, 30),
        ignore_values=(20,),
        **options,
    )
    values = rng.choice([0, 9, 20] if not options else np.arange(40), (30, 40)).astype(np.uint8)
    indices, numbers = np.unique(found.to_indices(values, source="m"), return_counts=True)
    expected = dict(zip(indices.tolist(), numbers.tolist(), strict=True))
    assert class_pixels(scan_mask(MaskPixels(values)), found) == expected


def test_rows_of_class_pixels_come_back_as_they_went_in() -> None:
    rows = [{0: 5, 2: 2**40}, {}, {255: 1}, {0: 7, 2: 9}]
    kept = ClassPixelRows(iter(rows))
    assert (len(kept), list(kept), kept[-1], list(kept[1:3])) == (4, rows, rows[3], rows[1:3])
    with pytest.raises(IndexError):
        kept[4]
