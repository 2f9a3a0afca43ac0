from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_pipeline.datasets.exports.outlines import Outline, outlines
from unet_pipeline.datasets.shapes import Polygon

Array = npt.NDArray[np.uint8]


def filled(rings: list[Outline], size: tuple[int, int]) -> Array:
    """The pixels of `rings`, as the readers of annotations paint them."""
    canvas = np.zeros(size, dtype=np.uint8)
    for ring in rings:
        corners = tuple((ring + 0.25).reshape(-1).tolist())
        Polygon(1, (corners,)).paint(canvas)
    return canvas


def assert_exact(mask: Array) -> list[Outline]:
    rings = outlines(mask)
    assert all(ring.ndim == 2 and len(ring) >= 3 for ring in rings)
    np.testing.assert_array_equal(filled(rings, mask.shape), mask)
    return rings


@st.composite
def masks(draw: st.DrawFn) -> Array:
    """Noise of any density, coarse or fine, blurred to blobs or not, up to 64 x 64."""
    height, width = draw(st.integers(1, 64)), draw(st.integers(1, 64))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    soft = rng.random((height, width))
    blur = draw(st.sampled_from([0.0, 0.7, 1.5, 3.0]))
    if blur:
        soft = cv2.GaussianBlur(soft, (0, 0), blur)
    return (soft > np.quantile(soft, draw(st.floats(0, 1)))).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(masks())
def test_filled_outlines_give_back_any_mask(mask: Array) -> None:
    assert_exact(mask)


def test_every_mask_of_four_by_four_comes_back() -> None:
    for number in range(2**16):
        if number % 23 == 0:  # one in 23, spread evenly
            bits = (number >> np.arange(16)) & 1
            assert_exact(bits.reshape(4, 4).astype(np.uint8))


def checkerboard(step: int) -> Array:
    rows, columns = np.indices((64, 64)) // step
    return ((rows + columns) % 2).astype(np.uint8)


def rings_in_rings() -> Array:
    rows, columns = np.indices((64, 64))
    away = np.maximum(abs(rows - 31), abs(columns - 31))
    return (away % 4 < 2).astype(np.uint8)


def round_rings() -> Array:
    rows, columns = np.indices((64, 64))
    return (np.hypot(rows - 30, columns - 33) % 6 < 2).astype(np.uint8)


def thin_lines() -> Array:
    mask = np.zeros((64, 64), dtype=np.uint8)
    cv2.line(mask, (0, 5), (63, 50), 1)
    cv2.line(mask, (10, 63), (40, 0), 1)
    mask[20] = mask[:, 60] = 1
    return mask


def writing() -> Array:
    mask = np.zeros((64, 64), dtype=np.uint8)
    for line, text in enumerate(("8oO&", "@B6g", "%#90")):
        cv2.putText(mask, text, (1, 19 + 20 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 1, 1)
    return mask


def diamonds() -> Array:
    """Holes of one pixel between pixels that touch by their corners alone."""
    mask = np.zeros((9, 9), dtype=np.uint8)
    for row, column in ((1, 2), (2, 1), (2, 3), (3, 2), (5, 6), (6, 5), (6, 7), (7, 6), (4, 4)):
        mask[row, column] = 1
    return mask


@pytest.mark.parametrize(
    "mask",
    [checkerboard(1), checkerboard(3), rings_in_rings(), round_rings(), thin_lines(), writing(),
     diamonds(), np.ones((64, 64), np.uint8), np.ones((1, 64), np.uint8)],
    ids=["board", "coarse board", "rings", "round rings", "lines", "writing", "diamonds", "full",
         "row"],
)  # fmt: skip
def test_filled_outlines_give_back_odd_shapes(mask: Array) -> None:
    assert_exact(mask)


def test_a_region_without_holes_has_one_outline() -> None:
    mask = np.zeros((20, 30), dtype=np.uint8)
    cv2.circle(mask, (8, 9), 6, 1, -1)
    mask[2:5, 20:25] = 1
    assert len(assert_exact(mask)) == 2


def test_a_region_with_a_hole_is_cut_in_two_through_the_hole() -> None:
    mask = np.ones((20, 30), dtype=np.uint8)
    mask[5:9, 10:20] = 0
    left, right = sorted(assert_exact(mask), key=lambda ring: int(ring[:, 0].min()))
    assert 10 <= left[:, 0].max() < right[:, 0].min() <= 20


def test_one_cut_serves_holes_above_each_other() -> None:
    mask = np.ones((40, 40), dtype=np.uint8)
    for row, column in ((3, 4), (15, 10), (30, 6)):
        mask[row : row + 5, column : column + 12] = 0
    assert len(assert_exact(mask)) == 2


@pytest.mark.parametrize("pixels", [[(3, 4)], [(3, 4), (3, 5)], [(3, 4), (4, 5)], [(0, 0)]])
def test_one_or_two_pixels_have_three_corners(pixels: list[tuple[int, int]]) -> None:
    mask = np.zeros((6, 8), dtype=np.uint8)
    for pixel in pixels:
        mask[pixel] = 1
    (ring,) = assert_exact(mask)
    assert len(ring) == 3


def test_an_empty_mask_has_no_outlines() -> None:
    assert outlines(np.zeros((4, 4), np.uint8)) == []
