"""Numbered objects, and classes under the blur of JPEG: what histograms of mask values say."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.datasets.mask_cases import SOURCE, classes, held, scan, table
from unet_pipeline.classes import Classes
from unet_pipeline.datasets.file_kind import FileKind
from unet_pipeline.datasets.formats.class_list import ClassList
from unet_pipeline.datasets.images import MaskPixels, decode_mask
from unet_pipeline.datasets.mask_values import find_classes
from unet_pipeline.datasets.scan import MaskScan
from unet_pipeline.datasets.scan.pixels import scan_mask
from unet_pipeline.datasets.value_table import snapping
from unet_pipeline.errors import DatasetError

# ---- numbered objects ----------------------------------------------------------------------------


def numbered(rng: np.random.Generator, count: int, *, dtype: type = np.uint16) -> MaskScan:
    """A mask of `count` objects of any size, the background around them."""
    sizes = np.exp(rng.normal(3, 0.7, count)).astype(int) + 1
    values = np.repeat(np.arange(count + 1), [sizes.sum() * 3, *sizes])[None]
    kind = FileKind("png", bits=8 * np.dtype(dtype).itemsize)
    return scan_mask(MaskPixels(values.astype(dtype)), kind=kind)


def gradient(top: int) -> MaskScan:
    """A soft mask: black, and every grey up to `top` about as often as its neighbours."""
    values = np.repeat(np.arange(top + 1), [5000, *(np.arange(top) % 9 + 40)])[None]
    return scan_mask(MaskPixels(values.astype(np.uint8)))


@pytest.mark.parametrize(
    ("counts", "dtype"),
    [((3, 40, 80), np.uint8), ((3, 11, 30), np.uint16), ((7, 1213, 900), np.uint16)],
)
def test_masks_that_number_objects_have_background_and_foreground(
    counts: tuple[int, ...], dtype: type
) -> None:
    rng = np.random.default_rng(1)
    masks = [numbered(rng, count, dtype=dtype) for count in counts]
    found, notes = find_classes(table(*masks), source=SOURCE)
    assert found.names == ("background", "foreground")
    assert (found.values, found.other) == ((0, 255), 1)
    bits = " (16-bit)" if dtype is np.uint16 else ""
    most = f"{max(counts):,}"
    assert notes == [f"masks number up to {most} objects{bits}: all of them are `foreground`"]
    indices = found.to_indices(np.array([[0, 1, 255, 1213]], np.uint16), source="m")
    np.testing.assert_array_equal(indices, [[0, 1, 1, 1]])
    np.testing.assert_array_equal(found.to_values(indices), [[0, 255, 255, 255]])


def test_names_and_values_of_the_user_win_over_numbered_objects() -> None:
    masks = [numbered(np.random.default_rng(1), count) for count in (2, 70, 75)]
    assert classes(*masks, class_names=["field", "cell"]).names == ("field", "cell")
    assert classes(*masks, listed=ClassList("c.txt", ("cell",), None)).names[1] == "cell"
    assert classes(*masks, values=[0, 1], other=0).values == (0, 1)
    names = [f"c{i}" for i in range(76)]
    assert classes(*masks, class_names=names).num_classes == 76


def test_objects_keep_the_void_of_their_files() -> None:
    rng = np.random.default_rng(1)
    own = held([0] * 99 + [-1, 1, 2, 3, 4, 5])
    found = classes(own, *(numbered(rng, count) for count in (30, 90)))
    assert (found.values, found.ignore_values, found.other) == ((0, 254), (255,), 1)


def test_few_values_in_16_bits_are_classes_where_they_recur() -> None:
    wide = FileKind("png", bits=16)
    masks = [
        scan_mask(MaskPixels(np.array([[0] * 9 + own], np.uint16)), kind=wide)
        for own in ([1, 2, 3], [1, 2, 3], [1, 2], [1])
    ]
    assert classes(*masks).values == (0, 1, 2, 3)


def test_what_may_number_objects_is_mentioned() -> None:
    rng = np.random.default_rng(1)
    masks = [numbered(rng, count, dtype=np.uint8) for count in (3, 9, 20)]
    found, notes = find_classes(table(*masks), source=SOURCE)
    assert found.num_classes == 21
    assert any("up to 20, another number in each" in note for note in notes)
    assert any("--values 0,255 --other 1" in note for note in notes)


def test_soft_masks_and_photographs_are_not_numbered_objects() -> None:
    for masks in (
        [gradient(255), gradient(255), gradient(254)],  # ends everywhere at white
        [gradient(255), gradient(180), gradient(90)],  # smooth
    ):
        with pytest.raises(DatasetError, match="too many to be classes"):
            classes(*masks)
    rng = np.random.default_rng(1)
    photographs = [rng.normal(m, 30, (99, 99)).clip(0, 255).astype(np.uint8) for m in (90, 120)]
    with pytest.raises(DatasetError, match="too many to be classes"):
        classes(*(scan_mask(MaskPixels(p)) for p in photographs))


# ---- masks stored as JPEG ------------------------------------------------------------------------


def jpeg(values: np.ndarray, quality: int) -> np.ndarray:
    """What a JPEG file of a mask holds."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="JPEG", quality=quality)
    return decode_mask(file.getvalue(), source="m").values


def regions(rng: np.random.Generator, values: object) -> np.ndarray:
    """A picture (160, 200) of big round regions, each of one of `values`."""
    y, x = np.mgrid[:160, :200]
    levels = np.array(values, np.uint8)
    picture = np.full((160, 200, *levels.shape[1:]), levels[0])
    for k in range(1, 3 * len(levels)):
        center_y, center_x = rng.uniform(0, 160), rng.uniform(0, 200)
        inside = (y - center_y) ** 2 + (x - center_x) ** 2 < rng.uniform(15, 40) ** 2
        picture[inside] = levels[k % len(levels)]
    return picture


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize(
    "values",
    [
        (0, 255),
        (0, 128, 255),
        (0, 60, 120, 180, 240),
        ((0, 0, 0), (255, 0, 0), (0, 0, 255)),
    ],
)
def test_the_classes_under_the_blur_of_jpeg_are_found(values: Any, quality: int) -> None:
    rng = np.random.default_rng(quality)
    masks = [regions(rng, values) for _ in range(8)]
    blurred = [jpeg(mask, quality) for mask in masks]
    scans = [scan_mask(MaskPixels(mask, lossy=True)) for mask in blurred]
    found, notes = find_classes(table(*scans), source=SOURCE)
    order = sorted(values)
    assert found.num_classes == len(values)
    assert found.snap
    np.testing.assert_allclose(found.values, order, atol=8)
    (note,) = notes
    assert re.match(r"masks are JPEG: \d+\.\d% of their pixels were snapped", note)
    wrong = total = 0
    exact = Classes(
        names=found.names, colors=found.colors, values=tuple(order), encoding=found.encoding
    )
    for mask, read in zip(masks, blurred, strict=True):
        indices = found.to_indices(read, source="m")
        wrong += int((indices != exact.to_indices(mask, source="m")).sum())
        total += indices.size
    assert wrong / total < 0.03  # the outlines


def test_values_of_the_user_are_what_jpeg_masks_are_snapped_to() -> None:
    blurred = scan([0, 3, 120, 131, 250, 255, 255], lossy=True)
    for options in (
        {"values": [0, 128, 255]},
        {"listed": ClassList("c", ("a", "b", "c"), (0, 128, 255))},
    ):
        found, notes = find_classes(table(blurred), source=SOURCE, **options)
        assert (found.values, found.snap) == ((0, 128, 255), True)
        assert snapping(table(blurred), found) == (4, 8)
        assert any("57.1%" in note and "furthest by 8" in note for note in notes)
        indices = found.to_indices(np.array([[0, 3, 120, 131, 250]]), source="m")
        np.testing.assert_array_equal(indices, [[0, 0, 1, 1, 2]])
    found = classes(blurred, values=[0, 255], other=0)
    assert (found.snap, found.other) == (False, 0)


def test_png_and_jpeg_masks_together_are_snapped() -> None:
    rng = np.random.default_rng(0)
    masks = [regions(rng, (0, 128, 255)) for _ in range(4)]
    scans = [scan_mask(MaskPixels(jpeg(mask, 75), lossy=True)) for mask in masks[:2]]
    scans += [scan_mask(MaskPixels(mask)) for mask in masks[2:]]
    found = classes(*scans, class_names=["ground", "body", "core"])
    assert (found.names, found.values) == (("ground", "body", "core"), (0, 128, 255))


def test_jpeg_files_that_are_no_masks_are_refused() -> None:
    rng = np.random.default_rng(1)
    photograph = rng.normal(110, 40, (99, 99)).clip(0, 255).astype(np.uint8)
    with pytest.raises(DatasetError, match=r"JPEG files, whose.*values; save .*--values"):
        classes(scan(photograph, lossy=True))
    with pytest.raises(DatasetError, match=r"JPEG files, whose compression blurs values"):
        classes(scan([0, 1, 2, 2, 1, 0], lossy=True))  # class indices, gone beyond repair
