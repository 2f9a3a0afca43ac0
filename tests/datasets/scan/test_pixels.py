"""What is measured of the pixels of one image or mask."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.datasets.scan.cases import photo
from unet_pipeline.datasets.file_kind import FileKind
from unet_pipeline.datasets.images import MaskPixels
from unet_pipeline.datasets.scan.pixels import scan_image, scan_mask

# ---- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_sums_and_ends_are_those_of_numpy(dtype: str, channels: int) -> None:
    rng = np.random.default_rng(channels)
    image = (rng.random((31, 45, channels)) * (200 if dtype == "uint8" else 60_000)).astype(dtype)
    scan, _ = scan_image(image, FileKind("png"))
    wide = image.astype(np.float64)
    assert (scan.low, scan.high) == (image.min(), image.max())
    np.testing.assert_allclose(scan.sums, wide.sum(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(scan.squares, (wide**2).sum(axis=(0, 1)), rtol=1e-12)
    assert (scan.height, scan.width, scan.channels, scan.dtype) == (31, 45, channels, dtype)


def test_sums_of_16_bits_are_exact_where_float32_is_not() -> None:
    image = np.full((5000, 4000, 1), 65_535, np.uint16)  # more pixels than 2**24
    image[0, 0] = 65_534
    scan, picture = scan_image(image, FileKind("png"))
    assert scan.sums == (65_535.0 * image.size - 1,)
    assert picture.histogram.tolist() == [[1] + [0] * 254 + [image.size - 1]]


def test_the_histogram_of_8_bits_counts_levels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    _, picture = scan_image(image, FileKind("png"))
    expected = [np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)]
    np.testing.assert_array_equal(picture.histogram, expected)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_the_histogram_of_others_runs_from_the_lowest_to_the_highest_value(dtype: str) -> None:
    image = (np.random.default_rng(0).random((20, 30, 2)) * 5000 + 100).astype(dtype)
    scan, picture = scan_image(image, FileKind("png"))
    steps = np.rint((image.astype(float) - scan.low) / (scan.high - scan.low) * 255).astype(int)
    expected = [np.bincount(steps[..., c].ravel(), minlength=256) for c in range(2)]
    np.testing.assert_array_equal(picture.histogram, expected)


def test_more_channels_than_opencv_knows() -> None:
    image = np.random.default_rng(0).integers(0, 9, (3, 4, 600), dtype=np.uint8)
    scan, _ = scan_image(image, FileKind("npy"))
    assert scan.sums == tuple(image.sum(axis=(0, 1)).tolist())


def test_the_thumbnail_is_the_mean_of_cells() -> None:
    image = photo(3, 256)
    _, picture = scan_image(image, FileKind("png"))
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float64)
    expected = grey.reshape(16, 16, 16, 16).mean(axis=(1, 3))
    assert np.abs(picture.thumbnail - expected).max() <= 2


# ---- masks --------------------------------------------------------------------------------------


def test_objects_of_colours_are_under_the_packed_colour() -> None:
    mask = np.zeros((4, 6, 3), np.uint8)
    mask[0, :2], mask[2, 3:], mask[3, 0] = (255, 0, 1), (255, 0, 1), (0, 9, 0)
    scan = scan_mask(MaskPixels(mask))
    assert scan.objects == {0xFF0001: (2, 2, 2, 3), 0x000900: (1, 1, 1, 1)}
    assert scan.counts == {0: 18, 0xFF0001: 5, 0x000900: 1}


def test_many_values_have_no_objects() -> None:
    few, many = np.arange(32, dtype=np.uint8)[None], np.arange(33, dtype=np.uint8)[None]
    assert len(scan_mask(MaskPixels(few)).objects or {}) == 31
    assert scan_mask(MaskPixels(many)).objects is None


def test_an_empty_mask_has_no_objects() -> None:
    assert scan_mask(MaskPixels(np.zeros((3, 3), np.uint8))).objects == {}


def test_palette_and_kept_values_come_back() -> None:
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    scan = scan_mask(MaskPixels(np.array([[3, 3, 250]], np.uint8), palette))
    assert scan.palette == {3: tuple(palette[3].tolist()), 250: tuple(palette[250].tolist())}
    frequent = np.repeat(np.arange(600, dtype=np.uint16), 2)
    wide = scan_mask(MaskPixels(np.append(frequent, np.uint16(999))[None]), (999,))
    assert (wide.counts[999], wide.num_values, len(wide.counts)) == (1, 601, 513)
    assert wide.wide
