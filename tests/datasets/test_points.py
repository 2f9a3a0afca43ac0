"""The pixels that a patch network is trained on: which ones, and how often each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from unet_pipeline.datasets.points import PointSampler

Mask = npt.NDArray[np.uint8]

VOID = 255
# Seeds are fixed, so a test cannot fail by chance; a wrong sampler gives far smaller values
LEAST_P = 1e-3


def draw(mask: Mask, *, num_points: int, balance: float, seed: int = 0) -> npt.NDArray[np.int64]:
    return PointSampler(num_points, balance)(mask, np.random.default_rng(seed))


def labels(mask: Mask, points: npt.NDArray[np.int64]) -> Mask:
    return mask[points[:, 0], points[:, 1]]


def three_classes(seed: int = 0) -> Mask:
    """Of 90 %, 9 % and 1 % of the valid pixels, strewn, and void pixels between them."""
    mask = np.repeat([0, 1, 2, VOID], [1800, 180, 20, 400]).astype(np.uint8)
    return np.random.default_rng(seed).permutation(mask).reshape(40, 60)


masks = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30),
    elements=st.sampled_from([0, 1, 2, 3, VOID]),
)


@settings(max_examples=100, deadline=None)
@given(mask=masks, num_points=st.integers(1, 300), balance=st.floats(0, 1), seed=st.integers(0, 99))
def test_points_are_valid_pixels_of_the_mask_and_the_same_for_the_same_rng(
    mask: Mask, num_points: int, balance: float, seed: int
) -> None:
    points = draw(mask, num_points=num_points, balance=balance, seed=seed)
    assert points.shape == (num_points, 2)
    assert points.dtype == np.int64
    assert points.min() >= 0
    assert (points < mask.shape).all()
    if (mask != VOID).any():
        assert (labels(mask, points) != VOID).all()
    again = draw(mask, num_points=num_points, balance=balance, seed=seed)
    np.testing.assert_array_equal(points, again)


def test_another_rng_draws_others() -> None:
    mask = three_classes()
    one, other = (draw(mask, num_points=50, balance=0.5, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_rows_and_columns_are_not_mixed_up(balance: float) -> None:
    mask = np.full((3, 50), VOID, np.uint8)
    mask[2, 41], mask[0, 7] = 0, 1
    points = draw(mask, num_points=40, balance=balance)
    assert {(row, column) for row, column in points.tolist()} == {(2, 41), (0, 7)}


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_void_pixels_are_drawn_only_where_there_are_no_others(balance: float) -> None:
    mask = np.full((20, 30), VOID, np.uint8)
    points = draw(mask, num_points=500, balance=balance)
    assert len(np.unique(points, axis=0)) > 200
    mask[4, 5] = 1
    points = draw(mask, num_points=500, balance=balance)
    assert (points == [4, 5]).all()


@pytest.mark.parametrize(
    ("balance", "shares"),
    [
        (0.0, [0.9, 0.09, 0.01]),
        (0.5, [(0.9 + 1 / 3) / 2, (0.09 + 1 / 3) / 2, (0.01 + 1 / 3) / 2]),
        (1.0, [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_classes_are_drawn_between_their_frequencies_and_all_alike(
    balance: float, shares: list[float]
) -> None:
    mask, count = three_classes(), 200_000
    found = np.bincount(labels(mask, draw(mask, num_points=count, balance=balance)), minlength=3)
    assert found.sum() == count
    assert stats.chisquare(found, np.array(shares) * count).pvalue > LEAST_P


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_the_pixels_of_a_class_are_drawn_alike(balance: float) -> None:
    mask = three_classes()
    points = draw(mask, num_points=200_000, balance=balance)
    flat = np.ravel_multi_index((points[:, 0], points[:, 1]), mask.shape)
    counts = np.bincount(flat, minlength=mask.size)
    for label in range(3):
        of_class = counts[mask.ravel() == label]
        assert of_class.min() > 0
        assert stats.chisquare(of_class).pvalue > LEAST_P


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_one_class_alone_is_drawn_evenly_whatever_the_balance(balance: float) -> None:
    mask = np.full((8, 9), 4, np.uint8)
    points = draw(mask, num_points=20_000, balance=balance)
    counts = np.bincount(points[:, 0] * 9 + points[:, 1], minlength=72)
    assert stats.chisquare(counts).pvalue > LEAST_P


def test_a_single_rare_pixel_is_found_with_balance() -> None:
    mask = np.zeros((200, 300), np.uint8)
    mask[123, 45] = 3
    # Missed with a chance of (3/4)^256 a mask; without balance of 99.6 %
    for seed in range(20):
        points = draw(mask, num_points=256, balance=0.5, seed=seed)
        assert [123, 45] in points.tolist()
    found = sum(
        [123, 45] in draw(mask, num_points=256, balance=0.0, seed=s).tolist() for s in range(20)
    )
    assert found <= 2
