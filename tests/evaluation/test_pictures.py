"""Images made visible, classes laid over them, errors marked."""

from __future__ import annotations

import numpy as np
import pytest

from unet_pipeline.classes import Classes
from unet_pipeline.errors import UserError
from unet_pipeline.evaluation import pictures
from unet_pipeline.evaluation.pictures import errors, overlay, pair, panel, visible

CLASSES = Classes(
    names=("background", "cell", "wall"),
    colors=((0, 0, 0), (200, 0, 0), (0, 0, 200)),
    values=(0, 1, 2),
)
RNG = np.random.default_rng(0)


def test_8_bit_rgb_is_shown_as_it_is():
    image = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(visible(image), image)


@pytest.mark.parametrize(
    "image",
    [
        RNG.integers(1000, 1400, (40, 50, 1)).astype(np.uint16),
        RNG.random((40, 50, 1), dtype=np.float32) * 1e-3,
        RNG.integers(100, 110, (40, 50), dtype=np.uint8),
        RNG.integers(0, 4000, (40, 50, 3)).astype(np.uint16),
        RNG.normal(size=(40, 50, 2)).astype(np.float32),
        RNG.normal(size=(40, 50, 7)).astype(np.float32),
    ],
    ids=["16-bit", "float", "grey", "16-bit-rgb", "two", "seven"],
)
def test_everything_else_is_stretched_over_the_whole_range(image):
    picture = visible(image)
    assert picture.shape == (40, 50, 3)
    assert picture.dtype == np.uint8
    assert picture.min() == 0
    assert picture.max() == 255
    assert 90 < picture.mean() < 165


def test_a_stretch_keeps_the_colours_of_rgb_and_evens_out_other_channels():
    base = RNG.random((30, 30, 1), dtype=np.float32)
    rgb = visible(np.concatenate([base, base * 0.5, base * 0.1], axis=2))
    five = visible(np.concatenate([base, base * 0.5, base * 0.1, base, base], axis=2))
    assert rgb[..., 0].mean() > 1.5 * rgb[..., 1].mean() > 2 * rgb[..., 2].mean()
    assert abs(int(five[..., 0].mean()) - int(five[..., 2].mean())) <= 1


@pytest.mark.parametrize("value", [0.0, 7.5, np.nan, np.inf])
def test_an_image_of_one_value_is_shown_without_complaint(value):
    assert visible(np.full((3, 3, 1), value, dtype=np.float32)).shape == (3, 3, 3)


def test_a_sparse_image_is_not_lost_to_the_percentiles():
    image = np.zeros((100, 100, 1), dtype=np.uint16)
    image[50, 50] = 900
    assert visible(image)[50, 50].tolist() == [255, 255, 255]


def test_an_overlay_leaves_background_clear_tints_classes_and_outlines_them():
    image = np.full((9, 9, 3), 100, dtype=np.uint8)
    indices = np.zeros((9, 9), dtype=np.uint8)
    indices[2:7, 2:7] = 1
    indices[0, 8] = 255

    picture = overlay(image, indices, CLASSES, alpha=0.5)

    assert picture[8, 0].tolist() == [100, 100, 100]
    assert picture[4, 4].tolist() == [150, 50, 50]
    assert picture[2, 4].tolist() == [200, 0, 0]
    assert picture[1, 4].tolist() == [100, 100, 100]
    assert (picture[0, 8] > 100).all()


def test_an_overlay_does_not_depend_on_the_bands_it_is_made_in(monkeypatch):
    image = RNG.integers(0, 65535, (37, 20, 1)).astype(np.uint16)
    indices = RNG.integers(0, 3, (37, 20)).astype(np.uint8)
    whole = overlay(image, indices, CLASSES)
    monkeypatch.setattr(pictures, "_ROWS", 5)
    np.testing.assert_array_equal(overlay(image, indices, CLASSES), whole)


def test_errors_are_coloured_by_their_kind():
    image = np.zeros((1, 6, 3), dtype=np.uint8)
    truth = np.array([[0, 1, 1, 0, 1, 255]], dtype=np.uint8)
    prediction = np.array([[0, 1, 0, 1, 2, 1]], dtype=np.uint8)

    row = errors(image, truth, prediction)[0]

    def tinted(color, share):
        return pytest.approx([share * level for level in color], abs=1.5)

    assert row[0].tolist() == [0, 0, 0]
    assert row[1].tolist() == tinted(pictures.CORRECT, 0.8)
    assert row[2].tolist() == tinted(pictures.MISSED, 0.8)
    assert row[3].tolist() == tinted(pictures.FALSE_ALARM, 0.8)
    assert row[4].tolist() == tinted(pictures.WRONG_CLASS, 0.8)
    assert row[5].tolist() == tinted(pictures.IGNORED, 0.5)


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (500, 3), (40, 60), (900, 1300)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_panel_fits_any_size(shape, channels):
    image = RNG.integers(0, 256, (*shape, channels), dtype=np.uint8)
    mask = RNG.integers(0, 3, shape).astype(np.uint8)

    picture = panel(image, mask, mask, CLASSES, caption="sample   mean IoU 1.000")

    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.shape[1] < 4 * 384 + 100
    assert picture.shape[0] < 384 + 160


def test_a_panel_shows_all_four_pictures_side_by_side():
    image = np.full((100, 100, 3), (10, 20, 30), dtype=np.uint8)
    truth, prediction = np.zeros((2, 100, 100), dtype=np.uint8)
    truth[:, :50] = 1
    prediction[:, 50:] = 2

    picture = panel(image, truth, prediction, CLASSES, tile_side=100)

    middle = picture[80]
    tiles = [middle[left : left + 110] for left in (12, 134, 256, 378)]
    assert tiles[0][20].tolist() == [10, 20, 30]
    assert tiles[1][20][0] > 80 > tiles[1][80][0]
    assert tiles[2][80][2] > 80 > tiles[2][20][2]
    assert tiles[3][20].tolist() == pytest.approx(np.array(pictures.MISSED) * 0.8, abs=6)
    assert tiles[3][80].tolist() == pytest.approx(np.array(pictures.FALSE_ALARM) * 0.8, abs=6)


def test_the_legend_names_the_classes_that_occur_and_survives_odd_names():
    many = Classes(
        names=tuple(f"class {k} \n[b]\udcff$x$ " + "long " * 30 for k in range(40)),
        colors=tuple((k, k, k) for k in range(40)),
        values=tuple(range(40)),
    )
    image = np.zeros((50, 50, 1), dtype=np.uint8)
    few = np.zeros((50, 50), dtype=np.uint8)
    all_classes = (np.arange(2500) % 40).astype(np.uint8).reshape(50, 50)

    small = panel(image, few, few, many, caption="caption " * 100)
    large = panel(image, all_classes, all_classes, many)

    assert large.shape[1] == small.shape[1]
    assert large.shape[0] > small.shape[0] + 300


def test_pictures_of_unequal_sizes_are_refused():
    image = np.zeros((4, 5, 3), dtype=np.uint8)
    with pytest.raises(UserError, match="5x4 pixels"):
        overlay(image, np.zeros((5, 4), dtype=np.uint8), CLASSES)


def test_a_pair_is_truth_and_prediction_side_by_side_however_large_the_image() -> None:
    image = np.zeros((900, 1200, 3), dtype=np.uint8)
    truth, prediction = (np.full((900, 1200), k, dtype=np.uint8) for k in (0, 1))
    classes = Classes(names=("a", "b"), colors=((0, 0, 0), (255, 0, 0)), values=(0, 1))
    picture = pair(image, truth, prediction, classes, tile_side=100)
    assert picture.shape == (75, 200, 3)
    assert picture[:, :100].max() == 0
    assert picture[:, 100:, 0].min() > 0
