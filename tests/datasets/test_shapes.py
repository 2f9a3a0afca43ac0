from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as coco

from unet_pipeline.datasets.shapes import (
    Circle,
    Drawing,
    Line,
    Polygon,
    Runs,
    Shape,
    decode_runs,
    largest_first,
    run_lengths,
)
from unet_pipeline.errors import DatasetError

SQUARE = (2.0, 2.0, 5.0, 2.0, 5.0, 5.0, 2.0, 5.0)


def paint(shape: Shape, height: int, width: int) -> npt.NDArray[np.uint8]:
    canvas = np.zeros((height, width), dtype=np.uint8)
    shape.paint(canvas)
    return canvas


def runs_of(mask: npt.NDArray[np.uint8], value: int = 1) -> Runs:
    height, width = mask.shape
    return Runs(value, (height, width), coco.encode(np.asfortranarray(mask))["counts"])


def test_a_polygon_holds_its_inside_and_its_outline() -> None:
    expected = np.zeros((8, 9), dtype=np.uint8)
    expected[2:6, 2:6] = 7
    assert (paint(Polygon(7, (SQUARE,)), 8, 9) == expected).all()


def test_corners_are_rounded_to_whole_pixels() -> None:
    moved = tuple(number + 0.4 for number in SQUARE)
    assert (paint(Polygon(1, (moved,)), 8, 8) == paint(Polygon(1, (SQUARE,)), 8, 8)).all()


def test_a_hole_is_left_empty_and_its_outline_belongs_to_the_shape() -> None:
    outer = (1.0, 1.0, 8.0, 1.0, 8.0, 8.0, 1.0, 8.0)
    expected = np.zeros((10, 10), dtype=np.uint8)
    expected[1:9, 1:9] = 3
    expected[3:5, 3:5] = 0
    shape = Polygon(3, (outer,), holes=(SQUARE,))
    assert (paint(shape, 10, 10) == expected).all()
    assert shape.area() == 49 - 9


def test_a_hole_beyond_its_shape_draws_nothing() -> None:
    shape = Polygon(1, (SQUARE,), holes=((4.0, 3.0, 9.0, 3.0, 9.0, 4.0, 4.0, 4.0),))
    assert (paint(shape, 12, 12) == paint(Polygon(1, (SQUARE,)), 12, 12)).all()


def test_a_hole_shows_what_lies_below() -> None:
    below = Polygon(1, ((0.0, 0.0, 9.0, 0.0, 9.0, 9.0, 0.0, 9.0),))
    ring = Polygon(2, ((1.0, 1.0, 8.0, 1.0, 8.0, 8.0, 1.0, 8.0),), holes=(SQUARE,))
    mask = Drawing("a.json", Path(), (below, ring), (10, 10)).pixels()
    assert mask[3, 3] == 1
    assert mask[2, 2] == 2


def test_two_rings_are_one_shape_even_where_they_overlap() -> None:
    other = tuple(number + 2 for number in SQUARE)
    canvas = paint(Polygon(1, (SQUARE, other)), 10, 10)
    assert canvas[5, 5] == 1
    assert int(canvas.sum()) == 16 + 16 - 4


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 10])
def test_a_line_is_as_wide_as_it_says(width: int) -> None:
    flat = paint(Line(1, (-20.0, 15.0, 50.0, 15.0), width), 31, 30)
    upright = paint(Line(1, (15.0, -20.0, 15.0, 50.0), width), 30, 31)
    assert (flat.sum(0) == width).all()
    assert (upright.sum(1) == width).all()


def test_a_line_holds_the_pixels_within_half_its_width() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:30, :40]
    for _ in range(100):
        x0, y0, x1, y1 = rng.uniform(-20, 50, 4)
        width = rng.uniform(1, 9)
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx**2 + dy**2), 0, 1)
        distance = np.hypot(x - x0 - along * dx, y - y0 - along * dy)
        line = Line(1, (x0, y0, x1, y1), width)
        assert (paint(line, 30, 40) == (distance <= width / 2)).all()


def test_a_line_of_several_corners_goes_through_all_of_them() -> None:
    canvas = paint(Line(4, (2.0, 2.0, 8.0, 2.0, 8.0, 7.0), 1), 10, 10)
    expected = np.zeros((10, 10), dtype=np.uint8)
    expected[2, 2:9] = 4
    expected[2:8, 8] = 4
    assert (canvas == expected).all()


def test_a_line_of_one_point_is_a_dot() -> None:
    assert int(paint(Line(1, (4.0, 4.0, 4.0, 4.0), 3), 9, 9).sum()) == 9 - 4 + 4
    assert int(paint(Line(1, (4.0, 4.0), 1), 9, 9).sum()) == 1


def test_a_circle_holds_the_pixels_within_its_radius() -> None:
    y, x = np.mgrid[:20, :30]
    expected = ((x - 12) ** 2 + (y - 9) ** 2 <= 25).astype(np.uint8)
    assert int(expected.sum()) == 81  # lattice points within 5 of the origin
    assert (paint(Circle(1, (12.0, 9.0), 5, 5), 20, 30) == expected).all()


def test_an_ellipse_has_its_two_radii() -> None:
    canvas = paint(Circle(1, (15.0, 10.0), 6, 2), 20, 30)
    assert canvas[10].nonzero()[0].tolist() == list(range(9, 22))
    assert canvas[:, 15].nonzero()[0].tolist() == [8, 9, 10, 11, 12]


def test_run_lengths_give_what_pycocotools_gives() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 40, 2)
        mask = (rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 1])).astype(np.uint8)
        runs = runs_of(mask, 1)
        assert (paint(runs, height, width) == mask).all()
        assert runs.area() == mask.sum() == coco.area({"size": [height, width], **_code(runs)})


def _code(runs: Runs) -> dict[str, bytes]:
    return {"counts": runs.counts}


def test_long_runs_survive_the_code() -> None:
    counts = [2**20, 5, 70_000, 3, 1, 0, 2**21]
    total = sum(counts)
    text = coco.frPyObjects({"size": [1, total], "counts": counts}, 1, total)["counts"]
    assert run_lengths(text).tolist() == counts


@pytest.mark.parametrize("counts", [b"zz", b"\x80\x80\xff", b"0", b"", b"PP1", b"~~~~~~~~~~0"])
def test_a_damaged_run_length_code_is_refused(counts: bytes) -> None:
    # pycocotools alone gives 1462 pixels for an empty code of 4x5
    with pytest.raises(ValueError, match="run-length code"):
        decode_runs(counts, (4, 5), (4, 5))


def test_a_code_of_another_size_is_named_with_its_file() -> None:
    drawing = Drawing("a.json", Path(), (runs_of(np.ones((4, 5), np.uint8)),), (5, 4))
    with pytest.raises(DatasetError, match=r"a\.json: holds a run-length code for 4x5 .* of 5x4"):
        drawing.pixels()


@pytest.mark.parametrize(
    "shape",
    [
        Polygon(1, (tuple(number + 100 for number in SQUARE),)),
        Polygon(1, (tuple(number - 100 for number in SQUARE),)),
        Line(1, (100.0, 100.0, 200.0, 150.0), 5),
        Line(1, (-9.0, -9.0, -9.0, 50.0), 5),
        Circle(1, (-50.0, 5.0), 20, 20),
        Circle(1, (5.0, 90.0), 20, 20),
    ],
)
def test_a_shape_outside_the_picture_draws_nothing(shape: Shape) -> None:
    assert not paint(shape, 20, 20).any()


@pytest.mark.parametrize(
    "shape",
    [
        Polygon(1, ((-9.0, 2.0, 99.0, 2.0, 99.0, 5.0, -9.0, 5.0),)),
        Polygon(1, ((-1e9, 2.0, 1e9, 2.0, 1e9, 5.0, -1e9, 5.0),)),
        Polygon(1, ((-1e300, 2.0, 1e300, 2.0, 1e300, 5.0, -1e300, 5.0),)),
        Line(1, (-1e6, 3.5, 1e6, 3.5), 4),
    ],
)
def test_a_shape_partly_outside_is_cut_however_far_it_goes(shape: Shape) -> None:
    expected = np.zeros((20, 20), dtype=np.uint8)
    expected[2:6] = 1
    assert (paint(shape, 20, 20) == expected).all()


def test_an_area_is_finite_however_far_a_shape_goes() -> None:
    far = 1.7e308
    assert np.isfinite(Polygon(1, ((-far, -far, far, -far, far, far),)).area())
    assert np.isfinite(Line(1, (-far, -far, far, far), 4).area())


def test_a_circle_as_large_as_anything_covers_the_picture() -> None:
    assert paint(Circle(1, (5.0, 5.0), 1e12, 1e12), 20, 20).all()


def test_the_first_shape_lies_at_the_bottom() -> None:
    small, large = Polygon(1, (SQUARE,)), Polygon(2, ((0.0, 0.0, 9.0, 0.0, 9.0, 9.0, 0.0, 9.0),))
    assert largest_first([small, large]) == (large, small)
    mask = Drawing("a.json", Path(), largest_first([small, large]), (10, 10)).pixels()
    assert (mask == 1).sum() == 16
    assert (mask == 2).sum() == 84


def test_areas_order_shapes_of_every_kind() -> None:
    dot = runs_of(np.eye(5, dtype=np.uint8))  # 5
    line = Line(1, (0.0, 0.0, 10.0, 0.0), 2)  # 20
    circle = Circle(1, (5.0, 5.0), 3, 3)  # 28.3
    polygon = Polygon(1, ((0.0, 0.0, 6.0, 0.0, 6.0, 6.0, 0.0, 6.0),))  # 36
    assert largest_first([dot, line, circle, polygon]) == (polygon, circle, line, dot)


def test_a_drawing_without_a_size_takes_that_of_its_picture(tmp_path: Path) -> None:
    Image.new("RGB", (12, 7)).save(tmp_path / "a.png")
    drawing = Drawing("a.json", tmp_path / "a.png", (Polygon(1, (SQUARE,)),), None)
    assert drawing.pixels().shape == (7, 12)
    assert drawing.digest() == replace(drawing, size=(7, 12)).digest()


@pytest.mark.parametrize("size", [(0, 5), (-1, 5), (10**6, 10**6)])
def test_a_size_that_no_picture_has_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DatasetError, match=r"^a\.json: gives the size .*; correct it$"):
        Drawing("a.json", Path(), (), size).pixels()


POLYGON = Polygon(1, (SQUARE,), holes=((3.0, 3.0, 4.0, 3.0, 4.0, 4.0),))
LINE = Line(1, SQUARE, 2)
CIRCLE = Circle(1, (3.0, 3.0), 2, 2)
RUNS = runs_of(np.eye(9, dtype=np.uint8))


@pytest.mark.parametrize(
    ("shape", "other"),
    [
        (POLYGON, replace(POLYGON, value=2)),
        (POLYGON, replace(POLYGON, rings=(SQUARE, SQUARE))),
        (POLYGON, replace(POLYGON, rings=((2.0000001, *SQUARE[1:]),))),
        (POLYGON, replace(POLYGON, holes=())),
        (Polygon(1, (SQUARE,), (SQUARE,)), Polygon(1, (SQUARE, SQUARE))),
        (LINE, replace(LINE, value=2)),
        (LINE, replace(LINE, ring=SQUARE[:4])),
        (LINE, replace(LINE, width=3)),
        (CIRCLE, replace(CIRCLE, value=2)),
        (CIRCLE, replace(CIRCLE, center=(3.5, 3.0))),
        (CIRCLE, replace(CIRCLE, radius_x=3)),
        (CIRCLE, replace(CIRCLE, radius_y=3)),
        (RUNS, replace(RUNS, value=2)),
        (RUNS, replace(RUNS, size=(3, 27))),
        (RUNS, replace(RUNS, counts=runs_of(np.ones((9, 9), np.uint8)).counts)),
    ],
)
def test_the_digest_changes_with_every_field(shape: Shape, other: Shape) -> None:
    drawing = Drawing("a.json", Path("a.png"), (shape,), (9, 9))
    assert len(drawing.digest()) == 16
    assert drawing.digest() != replace(drawing, shapes=(other,)).digest()
    assert drawing.digest() != replace(drawing, size=(9, 10)).digest()
    assert drawing.digest() != replace(drawing, shapes=(shape, other)).digest()
    pair = replace(drawing, shapes=(shape, other))
    assert pair.digest() != replace(drawing, shapes=(other, shape)).digest()


def test_the_digest_does_not_depend_on_where_the_files_are() -> None:
    one = Drawing("a.json", Path("a.png"), (POLYGON,), (9, 9))
    assert one.digest() == Drawing("b.json", Path("b.png"), (POLYGON,), (9, 9)).digest()
