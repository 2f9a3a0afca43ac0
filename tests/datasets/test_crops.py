"""Where crops lie: anywhere inside, or around a pixel of a class, with all classes alike."""

from __future__ import annotations

import gc
import pickle
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from unet_pipeline.datasets import crops
from unet_pipeline.datasets.crops import (
    POINTS_A_CLASS,
    ClassBalance,
    PointsOfMasks,
    class_points,
    corners,
    place,
    place_around,
)
from unet_pipeline.datasets.transforms import TRANSFORMS, build_transform

Mask = npt.NDArray[np.uint8]

ALL = pytest.mark.parametrize("name", list(TRANSFORMS))
VOID = 255
# Seeds are fixed, so a test cannot fail by chance; a wrong sampler gives far smaller values
LEAST_P = 1e-3

masks = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30),
    elements=st.sampled_from([0, 1, 2, 3, 254, VOID]),
)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def four_classes() -> Mask:
    """Background, a class of a third, one of 200 pixels, one of a single pixel, and void."""
    mask = np.zeros((120, 160), np.uint8)
    mask[:, 100:] = 1
    mask[10:20, 5:25] = 2
    mask[100, 30] = 3
    mask[50:60, 50:60] = VOID
    return mask


# ---- the pixels that are noted


@given(mask=masks)
@settings(max_examples=200, deadline=None)
def test_points_are_pixels_of_each_class_but_background_and_void(mask: Mask) -> None:
    points = class_points(mask)
    present = set(np.unique(mask).tolist()) - {VOID}
    runs = np.split(points.pixels, points.starts[1:-1]) if len(points.starts) > 1 else []
    found = []
    for run in runs:
        (k,) = set(mask[tuple(run.T)].tolist())
        found.append(k)
        assert len(run) == min(POINTS_A_CLASS, (mask == k).sum())
        assert len({tuple(pixel) for pixel in run.tolist()}) == len(run)
    assert set(found) == (present - {0} or present)
    assert len(set(found)) == len(found)


def test_background_is_a_class_only_where_there_is_no_other() -> None:
    mask = np.zeros((9, 9), np.uint8)
    assert len(class_points(mask).starts) == 2
    mask[0] = VOID
    point = class_points(mask).draw(rng_of(0))
    assert point is not None
    assert mask[point] == 0
    assert class_points(np.full((9, 9), VOID, np.uint8)).draw(rng_of(0)) is None


def test_a_large_class_is_represented_evenly_all_over_it() -> None:
    mask = np.zeros((400, 300), np.uint8)
    mask[:, 50:250] = 1
    rows, columns = class_points(mask).pixels.T
    assert stats.kstest(rows / 400, "uniform").pvalue > LEAST_P
    assert stats.kstest((columns - 50) / 200, "uniform").pvalue > LEAST_P


def test_each_pixel_of_a_large_class_is_as_likely_to_be_noted() -> None:
    counts = np.zeros(130)
    for width in range(200, 1200):  # as many masks, whose class is the same 130 pixels
        mask = np.zeros((2, width), np.uint8)
        mask[1, :130] = 1
        counts[class_points(mask).pixels[:, 1]] += 1
    assert counts.sum() == 1000 * POINTS_A_CLASS
    assert stats.chisquare(counts).pvalue > LEAST_P


def test_points_are_a_function_of_the_mask_alone() -> None:
    mask = four_classes()
    first = class_points(mask)
    other = class_points(np.asfortranarray(mask.copy()))
    np.testing.assert_array_equal(first.pixels, other.pixels)
    np.testing.assert_array_equal(first.starts, other.starts)
    assert first.num_bytes < 3 * 600


# ---- what is kept


def test_a_mask_is_looked_through_once_while_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(mask: Mask) -> Any:
        asked.append(id(mask))
        return class_points(mask)

    monkeypatch.setattr(crops, "class_points", counted)
    points_of = PointsOfMasks()
    mask, other = four_classes(), four_classes()
    for _ in range(3):
        np.testing.assert_array_equal(points_of(mask).pixels, class_points(mask).pixels)
        points_of(other)
    assert len(asked) == 2
    assert len(points_of) == 2
    del mask
    gc.collect()
    assert len(points_of) == 1
    assert len(pickle.loads(pickle.dumps(points_of))) == 0


@ALL
def test_a_crop_as_large_as_its_image_needs_no_look(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = four_classes()
    still: dict[str, dict[str, float]] = {"medium": {"scale": 0}, "heavy": {"scale": 0, "shear": 0}}
    options = still.get(name, {})
    results = []
    for balance in (0.0, 1.0):
        transform = build_transform(
            name, options | {"class_balance": balance}, image_size=mask.shape, value_range=(0, 255)
        )
        monkeypatch.setattr(crops, "class_points", None)
        results.append(transform(mask[..., None], mask, key=(0,)))
    np.testing.assert_array_equal(results[0][1], results[1][1])


# ---- where crops are placed


@given(shape=sizes, crop=sizes, seed=st.integers(0, 999))
@settings(max_examples=200, deadline=None)
def test_a_crop_lies_inside_or_holds_the_whole_image(
    shape: tuple[int, int], crop: tuple[int, int], seed: int
) -> None:
    corner = place(corners(shape, crop), rng_of(seed))
    for first, size, side in zip(corner, shape, crop, strict=True):
        if side <= size:
            assert 0 <= first <= size - side
        else:
            assert first <= 0
            assert first + side >= size


@given(
    shape=sizes,
    crop=sizes,
    where=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 999),
)
@settings(max_examples=300, deadline=None)
def test_a_crop_around_a_point_is_a_legal_one_that_holds_it(
    shape: tuple[int, int], crop: tuple[int, int], where: tuple[float, float], seed: int
) -> None:
    point = int(where[0] * (shape[0] - 1)), int(where[1] * (shape[1] - 1))
    allowed = corners(shape, crop)
    corner = place_around(point, allowed, crop, rng_of(seed))
    for first, low, high, at, side in zip(
        corner, allowed.low, allowed.high, point, crop, strict=True
    ):
        assert low <= first <= high
        assert first <= at < first + side


def test_all_crops_that_hold_a_point_are_drawn_alike() -> None:
    allowed = corners((20, 9), (4, 5))
    drawn = Counter(place_around((2, 8), allowed, (4, 5), rng_of(n)) for n in range(2000))
    assert set(drawn) == {(row, 4) for row in range(3)}
    assert stats.chisquare(list(drawn.values())).pvalue > LEAST_P
    inner = Counter(place_around((10, 4), allowed, (4, 5), rng_of(n)) for n in range(4000))
    assert set(inner) == {(row, column) for row in range(7, 11) for column in range(5)}
    assert stats.chisquare(list(inner.values())).pvalue > LEAST_P


@given(
    shape=st.tuples(st.integers(10, 90), st.integers(10, 90)),
    crop=st.tuples(st.integers(12, 50), st.integers(12, 50)),
    where=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    angle=st.floats(0, 7),
    zoom=st.floats(0.5, 2),
    margin=st.floats(0, 40),
    seed=st.integers(0, 99),
)
@settings(max_examples=300, deadline=None)
def test_a_crop_that_is_turned_and_zoomed_shows_its_point_wherever_it_is(
    shape: tuple[int, int],
    crop: tuple[int, int],
    where: tuple[float, float],
    angle: float,
    zoom: float,
    margin: float,
    seed: int,
) -> None:
    point = int(where[0] * (shape[0] - 1)), int(where[1] * (shape[1] - 1))
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) / zoom
    allowed = corners(shape, crop, seen=(crop[0] / zoom, crop[1] / zoom))
    corner = place_around(point, allowed, crop, rng_of(seed), matrix=matrix, margin=margin)
    middle = (np.array(crop) - 1) / 2
    seen_at = np.linalg.inv(matrix) @ (point - np.array(corner) - middle)
    assert (np.abs(seen_at) <= np.maximum(middle - margin, 2) + 1e-6).all()


# ---- balance


@given(mask=masks, crop=sizes, key=st.integers(0, 999))
@settings(max_examples=200, deadline=None)
def test_a_balanced_crop_always_holds_a_class_of_its_mask(
    mask: Mask, crop: tuple[int, int], key: int
) -> None:
    transform = build_transform(
        "none", {"class_balance": 1.0}, image_size=crop, value_range=(0, 255)
    )
    image, new_mask = transform(mask[..., None], mask, key=(key,))
    assert new_mask.shape == crop
    inside = new_mask != VOID
    np.testing.assert_array_equal(image[inside][:, 0], new_mask[inside])
    foreground = set(np.unique(mask).tolist()) - {0, VOID}
    if foreground:
        assert foreground & set(np.unique(new_mask).tolist())


def test_all_classes_of_a_mask_are_drawn_alike_and_none_but_they() -> None:
    mask = four_classes()
    balance = ClassBalance(1.0)
    drawn: Counter[int] = Counter()
    for number in range(1500):
        chosen = balance(mask, (16, 16), key=(0, number, "a"))
        assert chosen is not None
        drawn[int(mask[chosen[0]])] += 1
    assert set(drawn) == {1, 2, 3}
    assert stats.chisquare(list(drawn.values())).pvalue > LEAST_P


def test_rare_classes_are_met_as_often_as_they_are_drawn() -> None:
    mask = four_classes()
    met = []
    for balance in (0.0, 0.5, 1.0):
        transform = build_transform(
            "none", {"class_balance": balance}, image_size=(16, 16), value_range=(0, 255)
        )
        crops_seen = (transform(mask[..., None], mask, key=(n,))[1] for n in range(600))
        met.append(np.mean([(crop == 3).any() for crop in crops_seen]))
    by_chance = 16 * 16 / (105 * 145)  # places that hold the pixel, of all places
    expected = [by_chance + balance * (1 / 3 - by_chance) for balance in (0.0, 0.5, 1.0)]
    assert met == pytest.approx(expected, abs=0.05)


@ALL
def test_a_share_of_the_crops_is_balanced_and_the_rest_lie_as_without(name: str) -> None:
    rng = rng_of(0)
    mask = four_classes()
    image = rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    made = [
        build_transform(name, {"class_balance": balance}, image_size=(24, 24), value_range=(0, 255))
        for balance in (0.0, 0.3)
    ]
    moved = 0
    for number in range(300):
        plain, balanced = (transform(image, mask, key=(number,))[0] for transform in made)
        moved += not np.array_equal(plain, balanced)
    assert moved / 300 == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize(
    ("name", "where"),
    # Light turns some corners out of sight: it promises tries, not success
    [(name, (90, 120)) for name in TRANSFORMS]
    + [(name, (0, 231)) for name in TRANSFORMS if name != "light"],
)
def test_every_preset_shows_a_small_object_that_was_drawn(
    name: str, where: tuple[int, int]
) -> None:
    mask = np.zeros((200, 240), np.uint8)
    mask[where[0] : where[0] + 9, where[1] : where[1] + 9] = 1
    transform = build_transform(
        name, {"class_balance": 1.0}, image_size=(64, 64), value_range=(0, 255)
    )
    shown = [(transform(mask[..., None], mask, key=(n,))[1] == 1).any() for n in range(150)]
    assert all(shown)
