from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest

from unet_pipeline.datasets.formats.faults import Faults
from unet_pipeline.datasets.formats.placement import note_place
from unet_pipeline.datasets.shapes import Circle, Line, Polygon, Runs, Shape

SIZE = (100, 200)  # height, width: tolerances of 5 and 10 pixels


def triangle(x: float, y: float) -> Polygon:
    """Two corners in the picture and one at (x, y)."""
    return Polygon(0, ((10.0, 10.0, 20.0, 10.0, x, y),))


def noted(shape: Shape, size: tuple[int, int] | None = SIZE) -> list[str]:
    faults: Faults = defaultdict(list)
    note_place(shape, size, "here", faults)
    assert faults.keys() <= {"outside-image"}
    return faults["outside-image"]


@pytest.mark.parametrize(
    "corner", [(0, 0), (200, 100), (210, 50), (-10, 50), (50, 105), (50, -5), (199.5, 99.5)]
)
def test_a_corner_within_five_percent_of_the_side_is_right(corner: tuple[float, float]) -> None:
    assert noted(triangle(*corner)) == []


@pytest.mark.parametrize(
    "corner", [(210.1, 50), (-10.1, 50), (50, 105.1), (50, -5.1), (2200, 50), (50, -1000)]
)
def test_a_corner_beyond_is_noted(corner: tuple[float, float]) -> None:
    (note,) = noted(triangle(*corner))
    shown = ", ".join(f"{number:.6g}" for number in corner)
    assert note == f"here: the corner ({shown}) lies outside the picture of 200x100 pixels"


def test_two_pixels_are_right_in_a_small_picture() -> None:
    assert noted(triangle(22, 11), (20, 20)) == []
    assert len(noted(triangle(22.5, 11), (20, 20))) == 1


@pytest.mark.parametrize(
    "corner",
    [(2201, 50), (-2001, 50), (50, 1101), (50, -1001), (1e308, 5), (-math.inf, 5)],
)
def test_a_corner_more_than_ten_sides_away_cannot_be_right(corner: tuple[float, float]) -> None:
    with pytest.raises(
        ValueError, match=r"^the corner \(.*\) lies far outside the picture of 200x"
    ):
        noted(triangle(*corner))


@pytest.mark.parametrize(
    "shape",
    [
        Polygon(0, ((201.0, 5.0, 205.0, 5.0, 205.0, 9.0),)),
        Polygon(0, ((-5.0, 5.0, -1.0, 5.0, -1.0, 9.0),)),
        Polygon(0, ((-50.0, 5.0, 5.0, -50.0, -50.0, -50.0),)),  # only the box around it overlaps
        Line(0, (205.0, 5.0, 209.0, 80.0), 3),
        Circle(0, (-30.0, 5.0), 20, 20),
        Circle(0, (-15.0, -15.0), 20, 20),  # the same
    ],
)
def test_a_shape_that_lies_wholly_outside_is_refused(shape: Shape) -> None:
    with pytest.raises(ValueError, match=r"^lies outside the picture of 200x100 pixels$"):
        noted(shape)


def test_a_shape_that_spans_the_whole_picture_is_drawn() -> None:
    assert noted(Polygon(0, ((-5.0, -5.0, 205.0, -5.0, 205.0, 104.0, -5.0, 104.0),))) == []
    assert len(noted(Polygon(0, ((-50.0, 5.0, 250.0, 5.0, 250.0, 50.0),)))) == 1


def test_a_circle_may_be_cut_at_the_border() -> None:
    assert noted(Circle(0, (5.0, 5.0), 60, 60)) == []
    with pytest.raises(ValueError, match="far outside"):
        noted(Circle(0, (5.0, 5.0), 1e308, 1e308))


def test_without_a_size_only_what_no_picture_holds_is_refused() -> None:
    assert noted(triangle(70_000, 5), None) == []
    with pytest.raises(ValueError, match=r"lies far outside the picture$"):
        noted(triangle(1e300, 5), None)


def test_run_lengths_have_their_own_size() -> None:
    assert noted(Runs(0, (3, 3), b""), SIZE) == []


def test_a_size_that_no_picture_has_costs_no_memory() -> None:
    far = float(np.float32(2**40))
    assert noted(Polygon(0, ((-1.0, -1.0, far, -1.0, far, far),)), (2**40, 2**40)) == []
