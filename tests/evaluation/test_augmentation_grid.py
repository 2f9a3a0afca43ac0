"""The picture of what training sees."""

from __future__ import annotations

import numpy as np
import pytest

from unet_pipeline.classes import Classes
from unet_pipeline.errors import UserError
from unet_pipeline.evaluation.augmentation_grid import augmentation_grid

CLASSES = Classes(names=("background", "cell"), colors=((0, 0, 0), (200, 0, 0)), values=(0, 1))
GAP = 6


def pair(size=(40, 40), level=100, dtype=np.uint8, channels=3, k=0):
    return np.full((*size, channels), level, dtype), np.full(size, k, np.uint8)


def tile(grid, row, column, side=40, line=0):
    top = GAP + row * (line + side + GAP) + line
    left = GAP + column * (side + GAP)
    return grid[top : top + side, left : left + side]


def test_rows_are_samples_and_columns_the_original_and_its_variants() -> None:
    rows = [[pair(level=10), pair(level=20), pair(level=30)], [pair(level=40), pair(level=50)]]
    grid = augmentation_grid(rows, CLASSES, tile_side=40)
    assert grid.dtype == np.uint8
    assert grid.shape == (2 * 46 + GAP, 3 * 46 + GAP, 3)
    for row, levels in enumerate(([10, 20, 30], [40, 50, 255])):
        for column, level in enumerate(levels):
            assert (tile(grid, row, column) == level).all()


def test_masks_are_laid_over_their_images_and_void_is_greyed() -> None:
    image, mask = pair(level=0)
    mask[10:30, 10:30] = 1
    mask[:5] = 255
    grid = augmentation_grid([[(image, mask)]], CLASSES, tile_side=40)
    only = tile(grid, 0, 0)
    assert only[10, 20].tolist() == [200, 0, 0]  # outlined
    assert only[20, 20, 0] > 60 > only[20, 20, 1]
    assert (only[2] > 60).all()
    assert not only[35].any()


def test_labels_are_written_above_the_rows() -> None:
    rows = [[pair(level=10)], [pair(level=20)]]
    grid = augmentation_grid(rows, CLASSES, tile_side=40, labels=["first", "a name " * 50])
    assert grid.shape == (2 * 66 + GAP, 46 + GAP, 3)
    assert (tile(grid, 1, 0, line=20) == 20).all()
    assert (grid[GAP : GAP + 20] < 100).any()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_darker_variant_looks_darker(dtype: str, channels: int) -> None:
    rng = np.random.default_rng(0)
    image = (rng.random((40, 40, channels)) * 1000).astype(dtype)
    mask = np.zeros((40, 40), np.uint8)
    grid = augmentation_grid(
        [[(image, mask), ((image / 2).astype(dtype), mask)]], CLASSES, tile_side=40
    )
    assert tile(grid, 0, 1).mean() == pytest.approx(tile(grid, 0, 0).mean() / 2, rel=0.1)


def test_images_of_any_size_fit_into_their_tiles() -> None:
    row = [pair((30, 400), 10), pair((1, 1), 20), pair((300, 20), 30), pair((7, 5), 40)]
    grid = augmentation_grid([row], CLASSES, tile_side=40)
    assert grid.shape == (46 + GAP, 4 * 46 + GAP, 3)
    for column, level in enumerate((10, 20, 30, 40)):
        assert (tile(grid, 0, column)[20, 20] == level).all()


def test_a_mask_of_another_size_than_its_image_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be drawn together"):
        augmentation_grid([[(pair()[0], np.zeros((3, 3), np.uint8))]], CLASSES)


def test_no_samples_make_an_empty_sheet() -> None:
    assert augmentation_grid([], CLASSES).shape == (GAP, GAP, 3)
    assert augmentation_grid([[]], CLASSES, tile_side=40).shape == (46 + GAP, GAP, 3)
