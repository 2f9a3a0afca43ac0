"""Where the pixels of an augmented crop come from: image and mask alike, by preset."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from unet_pipeline.datasets.transforms import TRANSFORMS, build_transform
from unet_pipeline.datasets.warps import Warp, Warper, Warps, draw_warp
from unet_pipeline.errors import UserError

ALL = pytest.mark.parametrize("name", list(TRANSFORMS))
WARPED = ["medium", "heavy", "paper"]
DARK = {"brightness": 0.0, "contrast": 0.0}
SAME_LIGHT: dict[str, dict[str, float]] = {
    "none": {},
    "flips": {},
    "light": DARK,
    "medium": DARK | {"color": 0, "saturation": 0, "blur": 0, "noise": 0},
    "heavy": DARK | {"gamma": 0, "color": 0, "saturation": 0, "blur": 0, "noise": 0},
    "paper": DARK,
}
SAME_PLACE: dict[str, dict[str, float]] = {
    "medium": {"hflip": 0, "scale": 0, "rotate": 0},
    "heavy": {"hflip": 0, "scale": 0, "rotate": 0, "shear": 0, "elastic": 0},
    "paper": {"sigma": 0, "shift": 0, "rotate": 0},
}
RANGES: dict[str, tuple[float, float]] = {
    "uint8": (0, 255),
    "uint16": (0, 65535),
    "float32": (-1, 1),
}


def make(
    name: str, size: tuple[int, int], value_range: tuple[float, float] = (0, 255), **options: Any
) -> Any:
    return build_transform(name, options, image_size=size, value_range=value_range)


def blocks(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Four classes and void in patches of about 20 pixels."""
    small = np.random.default_rng(0).choice([0, 1, 2, 3, 255], (size[0] // 20, size[1] // 20))
    rows, cols = np.mgrid[: size[0], : size[1]]
    wavy = small[
        (rows + 4 * np.sin(cols / 9)).astype(int) // 20 % small.shape[0],
        (cols + 4 * np.sin(rows / 7)).astype(int) // 20 % small.shape[1],
    ]
    return wavy.astype(np.uint8)


# ---- light


def scene(size: tuple[int, int], channels: int, dtype: str) -> tuple[npt.NDArray[Any], Any]:
    rows, cols = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(rows * (c + 2) / 9) * np.cos(cols * (c + 3) / 11) for c in range(channels)]
    low, high = RANGES[dtype]
    image = low + (high - low) * (np.stack(waves, axis=2) + 1) / 2
    return image.astype(dtype), ((rows // 7 + cols // 5) % 4).astype(np.uint8)


STRONG = {"vflip": 0.5, "scale": 0.4, "rotate": 180.0, "brightness": 0.4, "contrast": 0.4}
WITHIN = [0.5195225, 0.7666999, 0.3825485]
LIT_WITHIN = [1.808262, 0.852992, 0.4910617]
PADDED = [62.34429, 87.4248, 42.75625]
LIT_PADDED = [70.69245, 70.60016, 41.27749]
TURNED = [0.5154319, 0.7613254, 0.3783594]
LIT_TURNED = [2.50474, 17.84417, 5.030783]


@pytest.mark.parametrize(
    ("dtype", "channels", "size", "options", "epoch", "image_sums", "mask_sums"),
    [
        ("uint8", 3, (70, 90), {}, 3, [42.6337, 63.5328, 31.66658], WITHIN),
        ("uint8", 3, (70, 90), {}, 4, [36.79571, 55.73522, 27.6582], LIT_WITHIN),
        ("uint8", 1, (30, 20), {}, 3, [46.19346, 62.93377, 33.13438], PADDED),
        ("uint8", 1, (30, 20), {}, 4, [37.40289, 55.24549, 27.89581], LIT_PADDED),
        ("uint8", 5, (70, 90), STRONG, 3, [42.82316, 63.79753, 31.92996], TURNED),
        ("uint8", 5, (70, 90), STRONG, 4, [32.23754, 47.87319, 23.76563], LIT_TURNED),
        ("uint16", 3, (70, 90), {}, 3, [11000.67, 16392.52, 8170.684], WITHIN),
        ("uint16", 3, (70, 90), {}, 4, [9498.058, 14386.19, 7138.997], LIT_WITHIN),
        ("uint16", 1, (30, 20), {}, 3, [11913.75, 16238.47, 8547.106], PADDED),
        ("uint16", 1, (30, 20), {}, 4, [9651.242, 14256.13, 7197.86], LIT_PADDED),
        ("uint16", 5, (70, 90), STRONG, 3, [11049.12, 16459.87, 8237.96], TURNED),
        ("uint16", 5, (70, 90), STRONG, 4, [8323.577, 12361.2, 6136.158], LIT_TURNED),
        ("float32", 3, (70, 90), {}, 3, [-0.001882888, 0.000275463, -0.0006429078], WITHIN),
        ("float32", 3, (70, 90), {}, 4, [-0.04773985, -0.0609544, -0.03212819], LIT_WITHIN),
        ("float32", 1, (30, 20), {}, 3, [0.02598263, -0.004426365, 0.0108446], PADDED),
        ("float32", 1, (30, 20), {}, 4, [-0.04306517, -0.06492389, -0.03033198], LIT_PADDED),
        ("float32", 5, (70, 90), STRONG, 3, [-0.0004039486, 0.002330575, 0.001410274], TURNED),
        ("float32", 5, (70, 90), STRONG, 4, [-0.08358278, -0.1227534, -0.06273299], LIT_TURNED),
    ],
)
def test_light_gives_the_same_in_every_version(
    dtype: str,
    channels: int,
    size: tuple[int, int],
    options: dict[str, Any],
    epoch: int,
    image_sums: list[float],
    mask_sums: list[float],
) -> None:
    transform = make("light", (40, 48), RANGES[dtype], **options)
    image, mask = transform(*scene(size, channels, dtype), key=(7, epoch, "scene"))
    rows, cols = np.mgrid[0:1:40j, 0:1:48j]
    weights = [rows**2, cols, rows * cols]
    grey = image.mean(axis=2, dtype=float)
    step = RANGES[dtype][1] * 1e-6
    assert [(grey * w).mean() for w in weights] == pytest.approx(image_sums, rel=1e-4, abs=step)
    assert [(mask * w).mean() for w in weights] == pytest.approx(mask_sums, rel=1e-4)


# ---- image and mask together


@ALL
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", list(RANGES))
def test_image_and_mask_move_alike_and_void_never_becomes_a_class(
    name: str, channels: int, dtype: str
) -> None:
    mask = blocks((220, 260))
    low, high = RANGES[dtype]
    levels = np.where(mask == 255, 4, mask) / 4  # the image says which class its mask has
    image = np.repeat((low + levels * (high - low)).astype(dtype)[..., None], channels, axis=2)
    transform = make(name, (128, 128), RANGES[dtype], **SAME_LIGHT[name])
    agreed = counted = void = 0
    for number in range(8):
        new_image, new_mask = transform(image, mask, key=(number,))
        assert new_image.dtype == image.dtype
        assert (new_image == new_image[..., :1]).all()
        told = (new_image[..., 0].astype(float) - low) / (high - low) * 4
        flat = ndimage.maximum_filter(told, 3) - ndimage.minimum_filter(told, 3) < 0.02
        inside = ndimage.minimum_filter((new_mask != 255) | (told > 3.9), 3) & flat
        expected = np.where(told > 3.9, 255, np.round(told))
        agreed += (new_mask == expected)[inside].sum()
        counted += inside.sum()
        void += (inside & (new_mask == 255)).sum()
        assert set(np.unique(new_mask)) <= {0, 1, 2, 3, 255}
    assert counted > 8 * 128 * 128 * 0.3
    assert void > 0.05 * counted
    assert agreed / counted > 0.99


@ALL
def test_where_all_is_void_all_stays_void(name: str) -> None:
    mask = np.full((90, 90), 255, np.uint8)
    for balance in (0.0, 1.0):
        transform = make(name, (64, 64), class_balance=balance)
        for number in range(5):
            _, new_mask = transform(mask[..., None], mask, key=(number,))
            assert (new_mask == 255).all()


@pytest.mark.parametrize("name", ["medium", "heavy"])
@pytest.mark.parametrize("dtype", list(RANGES))
def test_a_flip_is_exact_in_image_and_mask(name: str, dtype: str) -> None:
    mask = blocks((40, 61))
    image = np.random.default_rng(0).uniform(*RANGES[dtype], (40, 61, 3)).astype(dtype)
    still = SAME_LIGHT[name] | SAME_PLACE[name]
    for flips, turn in (
        ({"hflip": 1.0}, np.s_[:, ::-1]),
        ({"vflip": 1.0}, np.s_[::-1]),
        ({"hflip": 1.0, "vflip": 1.0}, np.s_[::-1, ::-1]),
    ):
        transform = make(name, (40, 61), RANGES[dtype], **(still | flips))
        new_image, new_mask = transform(image, mask, key=(0,))
        np.testing.assert_array_equal(new_image, image[turn])
        np.testing.assert_array_equal(new_mask, mask[turn])


@pytest.mark.parametrize("name", WARPED)
@pytest.mark.parametrize("dtype", list(RANGES))
def test_with_everything_off_a_crop_is_a_piece_of_the_image_at_any_place(
    name: str, dtype: str
) -> None:
    image = np.arange(6 * 7).reshape(6, 7, 1).astype(dtype)
    mask = image[..., 0].astype(np.uint8)
    transform = make(name, (4, 5), (0, 100), **SAME_LIGHT[name], **SAME_PLACE[name])
    places = set()
    for number in range(200):
        piece, new_mask = transform(image, mask, key=(number,))
        top, left = divmod(int(piece[0, 0, 0]), 7)
        np.testing.assert_array_equal(piece, image[top : top + 4, left : left + 5])
        np.testing.assert_array_equal(new_mask, piece[..., 0])
        places.add((top, left))
    assert places == {(top, left) for top in range(3) for left in range(3)}


@pytest.mark.parametrize("name", WARPED)
def test_a_small_image_lies_anywhere_in_the_crop_and_is_reflected_outwards(name: str) -> None:
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4, 1)
    transform = make(name, (3, 7), **SAME_LIGHT[name], **SAME_PLACE[name])
    places = set()
    for number in range(60):
        padded, mask = transform(image, image[..., 0], key=(number,))
        left = int((mask[0] != 255).argmax())
        places.add(left)
        expected = np.pad(image, ((0, 0), (left, 3 - left), (0, 0)), mode="reflect")
        np.testing.assert_array_equal(padded, expected)
        assert (mask != 255).sum() == 12
    assert places == {0, 1, 2, 3}


# ---- warps themselves


def reference(
    image: npt.NDArray[Any], mask: npt.NDArray[np.uint8], corner: Any, matrix: Any, size: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    middle = (np.array(size) - 1) / 2
    steps = np.moveaxis(np.indices(size), 0, -1) - middle
    places = np.moveaxis(steps @ matrix.T + middle + corner, -1, 0)
    channels = [
        ndimage.map_coordinates(image[..., c].astype(float), places, order=1, mode="mirror")
        for c in range(image.shape[2])
    ]
    nearest = ndimage.map_coordinates(mask, np.round(places), order=0, mode="constant", cval=255)
    return np.stack(channels, axis=2), nearest


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(50, 70), (9, 200), (2, 3), (1, 6), (1, 1)])
def test_a_warp_is_that_of_an_independent_implementation(
    channels: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((*size, channels), dtype=np.float32)
    mask = rng.integers(0, 9, size).astype(np.uint8)
    limits = Warps(hflip=0.5, vflip=0.5, scale=1.5, rotate=180, shear=30)
    warper = Warper((24, 31), nodes=0)
    for _ in range(20):
        warp = draw_warp(limits, rng)
        corner = (int(rng.integers(-20, size[0])), int(rng.integers(-20, size[1])))
        new_image, new_mask = warper(image, mask, corner, warp)
        expected_image, expected_mask = reference(image, mask, corner, warp.matrix, (24, 31))
        np.testing.assert_allclose(new_image, expected_image, atol=1e-3)
        assert (new_mask == expected_mask).mean() > 0.99  # else: halves, rounded either way


def coordinates(size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """An image of three channels whose first two say where a pixel comes from."""
    rows, cols = np.mgrid[: size[0], : size[1]].astype(np.float32)
    return np.stack([rows, cols, rows], axis=2)


def displaced(warp: Warp, size: tuple[int, int], nodes: int) -> npt.NDArray[Any]:
    """By how many pixels of the image each pixel of the crop is displaced."""
    field = coordinates((400, 400))
    new, _ = Warper(size, nodes=nodes)(field, np.zeros((400, 400), np.uint8), (150, 150), warp)
    plain = coordinates((400, 400))[150 : 150 + size[0], 150 : 150 + size[1]]
    return (new - plain)[..., :2]


def test_displacements_are_those_of_the_nodes_and_bicubic_between_them() -> None:
    grid = np.random.default_rng(0).normal(0, 10, (2, 3, 3))
    field = displaced(Warp(np.eye(2), grid), (65, 97), 3)
    np.testing.assert_allclose(field[::32, ::48], np.moveaxis(grid, 0, -1), atol=1e-3)
    # half-way, the cubic of Keys weighs -1/16, 9/16, 9/16, -1/16; outer nodes are repeated
    first, second = np.array([8, 9, -1]) / 16, np.array([-1, 9, 8]) / 16
    np.testing.assert_allclose(field[16, ::48], (first @ grid).T, atol=1e-3)
    np.testing.assert_allclose(field[48, ::48], (second @ grid).T, atol=1e-3)
    np.testing.assert_allclose(field[16, 72], first @ grid @ second, atol=1e-3)


def test_displacements_are_seen_in_the_crop_whatever_it_is_zoomed_by() -> None:
    grid = np.zeros((2, 3, 3))
    grid[0, 1, 1] = 6.0
    field = displaced(Warp(np.eye(2) / 2, grid), (65, 65), 3)
    np.testing.assert_allclose(field[32, 32], [3.0, 0.0], atol=1e-3)


def test_the_paper_displaces_its_nodes_by_ten_pixels() -> None:
    image = coordinates((500, 500))
    mask = np.zeros((500, 500), np.uint8)
    options = SAME_LIGHT["paper"] | {"rotate": 0, "shift": 0}
    transform = make("paper", (129, 129), (0, 500), **options)
    away = []
    for number in range(300):
        field, _ = transform(image, mask, key=(number,))
        nodes = field[::64, ::64, :2] - np.moveaxis(np.mgrid[:3, :3] * 64, 0, -1)
        away.append(nodes - nodes[1, 1])  # where the crop lies falls out
    others = np.delete(np.array(away).reshape(300, 9, 2), 4, axis=1)
    # a difference of two draws of deviation 10
    assert others.std() == pytest.approx(10 * np.sqrt(2), rel=0.03)
    assert others.mean(axis=(0, 1)) == pytest.approx([0, 0], abs=1.5)
    corners = others[:, 0, 0] - others[:, 7, 1]
    assert corners.std() == pytest.approx(20, rel=0.1)  # rows and columns, each drawn by itself


def test_warps_are_drawn_from_the_whole_of_their_range_and_no_further() -> None:
    rng = np.random.default_rng(0)
    zooms = []
    for _ in range(500):
        warp = draw_warp(Warps(scale=1.0), rng)
        zooms.append(1 / warp.matrix[0, 0])
        np.testing.assert_allclose(warp.matrix, np.eye(2) / zooms[-1])
    assert 0.5 <= min(zooms) < 0.52
    assert 1.9 < max(zooms) <= 2
    assert np.mean(np.array(zooms) < 1) == pytest.approx(0.5, abs=0.06)
    turns = [draw_warp(Warps(rotate=30.0), rng).matrix for _ in range(500)]
    angles = np.degrees([np.arctan2(m[1, 0], m[0, 0]) for m in turns])
    assert np.abs(angles).max() == pytest.approx(30, abs=0.5)
    assert angles.mean() == pytest.approx(0, abs=2)
    np.testing.assert_allclose([np.linalg.det(m) for m in turns], 1)
    slants = np.array([draw_warp(Warps(shear=10.0), rng).matrix for _ in range(500)])
    limit = np.tan(np.radians(10))
    assert np.abs(slants[:, 0, 1]).max() == pytest.approx(limit, rel=0.02)
    assert np.abs(slants[:, 1, 0]).max() == pytest.approx(limit, rel=0.02)


@pytest.mark.parametrize("name", ["medium", "heavy"])
def test_a_zoomed_crop_lies_inside_an_image_that_is_large_enough(name: str) -> None:
    still = SAME_LIGHT[name] | SAME_PLACE[name]
    del still["scale"]
    image, mask = coordinates((150, 190)), np.zeros((150, 190), np.uint8)
    transform = make(name, (64, 64), (0, 500), **still)
    seen = []
    for number in range(300):
        where, new_mask = transform(image, mask, key=(number,))
        assert (new_mask == 0).all()
        seen.append((where[0, 0, :2], where[-1, -1, :2]))
    starts, ends = np.array(seen).swapaxes(0, 1)
    assert starts.min(axis=0) == pytest.approx([0, 0], abs=2)
    assert ends.max(axis=0) == pytest.approx([149, 189], abs=2)


def test_the_paper_shifts_crops_over_the_border_by_a_tenth() -> None:
    image, mask = np.ones((100, 80, 1), np.uint8), np.ones((100, 80), np.uint8)
    options = SAME_LIGHT["paper"] | {"sigma": 0, "rotate": 0}
    transform = make("paper", (100, 80), **options)
    rows, columns = set(), set()
    for number in range(400):
        new_image, new_mask = transform(image, mask, key=(number,))
        assert (new_image == 1).all()
        rows.add(int((new_mask == 255).all(axis=1).sum()))
        columns.add(int((new_mask == 255).all(axis=0).sum()))
    assert rows == set(range(11))
    assert columns == set(range(9))


# ---- limits of OpenCV


def test_hundreds_of_channels_are_warped_as_few_are() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (50, 60, 1), dtype=np.uint8)
    mask = blocks((50, 60))
    options = {"color": 0, "saturation": 0, "noise": 0}
    few, few_mask = make("heavy", (32, 32), **options)(one.repeat(5, 2), mask, key=(1,))
    many, many_mask = make("heavy", (32, 32), **options)(one.repeat(200, 2), mask, key=(1,))
    np.testing.assert_array_equal(many_mask, few_mask)
    assert many.shape == (32, 32, 200)
    assert (many == few[..., :1]).all()


@pytest.mark.parametrize("name", WARPED)
def test_a_crop_of_an_image_too_long_for_opencv_is_warped(name: str) -> None:
    length = 70_000
    image = np.arange(length * 8, dtype=np.float32).reshape(length, 8, 1) // 8
    mask = (np.arange(length) // 1000)[:, None].repeat(8, 1).astype(np.uint8)
    transform = make(name, (24, 8), (0, length), **SAME_LIGHT[name])
    for number in range(20):
        where, new_mask = transform(image, mask, key=(number,))
        real = new_mask != 255
        away = np.abs(where[..., 0] % 1000 - 500) < 498
        assert (new_mask == where[..., 0] // 1000)[real & away].all()


@pytest.mark.parametrize("name", WARPED)
def test_a_crop_too_large_for_opencv_is_refused(name: str) -> None:
    image, mask = np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2), np.uint8)
    with pytest.raises(UserError, match="image size 2x40000: too large to be warped"):
        make(name, (2, 40_000))(image, mask, key=(0,))
