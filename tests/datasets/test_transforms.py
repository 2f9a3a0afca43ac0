"""Transforms: keyed, exact in size, faithful in dtype, image and mask always together."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_pipeline.datasets.transforms import TRANSFORMS, Key, build_transform, key_to_seed
from unet_pipeline.errors import UserError

ALL = pytest.mark.parametrize("name", list(TRANSFORMS))
STRONG = {"vflip": 0.5, "scale": 0.4, "rotate": 180.0, "brightness": 0.4, "contrast": 0.4}
STRONG_OF: dict[str, dict[str, Any]] = {
    "none": {"class_balance": 1.0},
    "flips": {"class_balance": 0.5, "vflip": 0.5},
    "light": STRONG | {"class_balance": 0.5},
    "medium": STRONG | {"class_balance": 0.5, "color": 0.5, "blur": 8.0, "noise": 0.5},
    "heavy": STRONG
    | {"class_balance": 0.5, "scale": 3.0, "shear": 40.0, "elastic": 0.5, "gamma": 3},
    "paper": {"class_balance": 0.5, "sigma": 60.0, "shift": 0.5},
}
RANGES: dict[str, tuple[float, float]] = {
    "uint8": (0, 255),
    "uint16": (0, 65535),
    "float32": (-1, 1),
}


def picture(
    size: tuple[int, int], channels: int = 3, dtype: str = "uint8", seed: int = 0
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    low, high = RANGES[dtype]
    image = rng.uniform(low, high, size=(*size, channels)).astype(dtype)
    return image, rng.integers(0, 4, size=size).astype(np.uint8)


def apply(
    name: str,
    image: npt.NDArray[Any],
    mask: npt.NDArray[np.uint8],
    *,
    size: tuple[int, int],
    key: Key = (0, 0, "a"),
    **options: Any,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    value_range = RANGES[str(image.dtype)]
    transform = build_transform(name, options, image_size=size, value_range=value_range)
    return transform(image, mask, key=key)


# ---- every entry of the catalogue


@ALL
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("dtype", list(RANGES))
def test_size_dtype_and_channels_are_as_promised(name: str, channels: int, dtype: str) -> None:
    image, mask = picture((40, 31), channels, dtype)
    new_image, new_mask = apply(name, image, mask, size=(24, 48))
    assert new_image.shape == (24, 48, channels)
    assert new_image.dtype == image.dtype
    assert new_mask.shape == (24, 48)
    assert new_mask.dtype == np.uint8
    assert new_image.flags.c_contiguous
    assert new_mask.flags.c_contiguous
    low, high = RANGES[dtype]
    assert low <= new_image.min()
    assert new_image.max() <= high


@ALL
@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    crop=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    key=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_any_size_fits_any_crop_and_no_class_is_invented(
    name: str, height: int, width: int, crop: tuple[int, int], key: int
) -> None:
    image, mask = picture((height, width), 1)
    mask[:] = np.where(mask > 1, 7, mask)  # 0, 1 and 7: what interpolation invents is 2 to 6
    new_image, new_mask = apply(name, image, mask, size=crop, key=(key,), **STRONG_OF[name])
    assert new_image.shape == (*crop, 1)
    assert new_mask.shape == crop
    assert set(np.unique(new_mask)) <= {*np.unique(mask).tolist(), 255}
    if name == "none":
        assert (new_mask != 255).any()


def test_flips_mirror_half_of_the_crops_and_change_nothing_else() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    seen = [apply("flips", image, image[..., 0], size=(3, 4), key=(n,))[0] for n in range(200)]
    mirrored = [np.array_equal(one, image[:, ::-1]) for one in seen]
    assert all(m or np.array_equal(one, image) for m, one in zip(mirrored, seen, strict=True))
    assert 70 < sum(mirrored) < 130
    upside_down = apply("flips", image, image[..., 0], size=(3, 4), hflip=0, vflip=1)[0]
    assert np.array_equal(upside_down, image[::-1])


@ALL
def test_the_same_key_gives_the_same_result_whatever_came_before(name: str) -> None:
    image, mask = picture((50, 60))
    transform = build_transform(name, {}, image_size=(32, 32), value_range=(0, 255))
    first = transform(image, mask, key=(0, 1, "a"))
    for number in range(5):
        transform(image, mask, key=(0, number, "b"))
    again = transform(image, mask, key=(0, 1, "a"))
    copied = pickle.loads(pickle.dumps(transform))(image, mask, key=(0, 1, "a"))
    for other in (again, copied):
        np.testing.assert_array_equal(first[0], other[0])
        np.testing.assert_array_equal(first[1], other[1])


@ALL
def test_seed_epoch_and_sample_each_change_the_result(name: str) -> None:
    image, mask = picture((200, 200))
    keys = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), *((0, n, "a") for n in range(2, 9))]
    results = {apply(name, image, mask, size=(32, 32), key=key)[0].tobytes() for key in keys}
    assert len(results) == len(keys)


def test_another_process_gives_the_same_result() -> None:
    code = (
        "import numpy as np; from unet_pipeline.datasets.transforms import TRANSFORMS;"
        "image = np.arange(30000).reshape(100, 100, 3).astype(np.uint8);"
        "mask = image[..., 0] // 90;"
        "options = dict(image_size=(64, 64), value_range=(0, 255), class_balance=0.5);"
        "made = [make(**options) for make in TRANSFORMS.values()];"
        "results = [t(image, mask, key=(3, n, 'scene')) for t in made for n in range(6)];"
        "weights = np.arange(64 * 64).reshape(64, 64) % 97;"
        "digest = [int((x.T * weights.T).sum()) for pair in results for x in pair]"
    )
    here: dict[str, Any] = {}
    exec(code, here)
    there = subprocess.run(
        [sys.executable, "-c", code + "; print(digest)"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "1"},
    )
    assert there.stdout.strip() == str(here["digest"])


@ALL
def test_the_inputs_are_left_as_they_were(name: str) -> None:
    image, mask = picture((32, 32))
    image.flags.writeable = mask.flags.writeable = False
    before = image.copy(), mask.copy()
    apply(name, image, mask, size=(40, 20), **STRONG_OF[name])
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


# ---- crops and padding


def test_none_passes_an_image_of_its_size_unchanged() -> None:
    image, mask = picture((33, 47))
    new_image, new_mask = apply("none", image, mask, size=(33, 47))
    np.testing.assert_array_equal(new_image, image)
    np.testing.assert_array_equal(new_mask, mask)


def test_light_with_everything_off_is_none() -> None:
    image, mask = picture((33, 47))
    off = dict.fromkeys(("hflip", "scale", "rotate", "brightness", "contrast"), 0.0)
    for size in ((33, 47), (20, 60)):
        for a, b in zip(
            apply("light", image, mask, size=size, **off),
            apply("none", image, mask, size=size),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_a_crop_is_a_piece_of_the_image_and_every_place_is_possible() -> None:
    image = np.arange(6 * 7, dtype=np.uint8).reshape(6, 7, 1)
    corners = set()
    for number in range(300):
        piece, mask = apply("none", image, image[..., 0], size=(4, 5), key=(number,))
        top, left = divmod(int(piece[0, 0, 0]), 7)
        np.testing.assert_array_equal(piece, image[top : top + 4, left : left + 5])
        np.testing.assert_array_equal(mask, piece[..., 0])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(3)}


def test_a_small_image_is_reflected_outwards_and_its_margin_is_void() -> None:
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4, 1)
    places = set()
    for number in range(100):
        padded, mask = apply("none", image, image[..., 0], size=(3, 7), key=(number,))
        inside = mask != 255
        left = int(inside[0].argmax())
        places.add(left)
        assert inside.sum() == 12
        np.testing.assert_array_equal(padded[:, left : left + 4], image)
        np.testing.assert_array_equal(padded[inside][:, 0], mask[inside])
        expected = np.pad(image, ((0, 0), (left, 3 - left), (0, 0)), mode="reflect")
        np.testing.assert_array_equal(padded, expected)
    assert places == {0, 1, 2, 3}


@pytest.mark.parametrize("crop", [(1, 1), (9, 9), (100, 3)])
def test_an_image_of_one_pixel_fills_the_crop(crop: tuple[int, int]) -> None:
    image, mask = np.full((1, 1, 3), 9, np.uint8), np.ones((1, 1), np.uint8)
    new_image, new_mask = apply("none", image, mask, size=crop)
    assert (new_image == 9).all()
    assert (new_mask != 255).sum() == 1


def test_what_a_turn_brings_in_is_void_in_the_mask_and_image_in_the_image() -> None:
    image, mask = np.full((64, 64, 1), 200, np.uint8), np.ones((64, 64), np.uint8)
    options = STRONG | {"brightness": 0, "contrast": 0}
    seen_void = False
    for number in range(20):
        new_image, new_mask = apply("light", image, mask, size=(64, 64), key=(number,), **options)
        assert (new_image == 200).all()  # no black corners
        assert set(np.unique(new_mask)) <= {1, 255}
        seen_void |= bool((new_mask == 255).any())
    assert seen_void


def test_a_crop_turned_and_zoomed_away_from_the_border_holds_only_real_pixels() -> None:
    rows, cols = np.mgrid[:200, :260].astype(np.float32)
    image = np.stack([rows, cols], axis=2)  # every pixel says where it comes from
    mask = (rows.astype(int) // 4 + cols.astype(int) // 4).astype(np.uint8)
    transform = build_transform(
        "light",
        STRONG | {"brightness": 0, "contrast": 0, "scale": 0.3},
        image_size=(31, 47),
        value_range=(0, 300),
    )
    reach = np.hypot(31, 47) / 2 * 1.3 + 1
    inside = 0
    for number in range(100):
        where, turned = transform(image, mask, key=(number,))
        row, col = where[15, 23]
        if reach < row < 199 - reach and reach < col < 259 - reach:
            inside += 1
            assert (turned != 255).all()
        real = turned != 255
        source_row, source_col = np.round(where[real]).astype(int).T
        assert np.mean(mask[source_row, source_col] == turned[real]) > 0.95  # else: rounding
    assert inside > 50


# ---- image and mask together


def blob(size: int, row: float, col: float) -> npt.NDArray[np.bool_]:
    y, x = np.mgrid[:size, :size]
    return (y - row) ** 2 + (x - col) ** 2 <= 12**2


@pytest.mark.parametrize("number", range(12))
def test_image_and_mask_move_together_to_half_a_pixel(number: int) -> None:
    disc = blob(96, 40 + number, 50 - number)
    image, mask = (disc * np.uint8(255))[..., None], disc.astype(np.uint8)
    options = STRONG | {"brightness": 0, "contrast": 0}
    new_image, new_mask = apply("light", image, mask, size=(96, 96), key=(number,), **options)
    visible = new_mask != 255
    weight = new_image[..., 0] * visible / 255.0
    y, x = np.mgrid[:96, :96]
    truth = new_mask == 1
    for axis in (y, x):
        of_image = (axis * weight).sum() / weight.sum()
        assert abs(of_image - axis[truth].mean()) < 0.5
    assert abs(weight.sum() - truth.sum()) < 0.03 * truth.sum()


def test_zoom_keeps_proportions_and_stays_within_its_limit() -> None:
    disc = blob(96, 47.5, 47.5)
    areas = []
    for number in range(60):
        image = np.zeros((96, 96, 1), np.uint8)
        mask = disc.astype(np.uint8)
        _, new = apply("light", image, mask, size=(96, 96), key=(number,), scale=0.3, rotate=0)
        rows, cols = np.flatnonzero((new == 1).any(1)), np.flatnonzero((new == 1).any(0))
        assert abs(np.ptp(rows) - np.ptp(cols)) <= 1
        areas.append((new == 1).sum() / disc.sum())
    factors = np.sqrt(areas)
    assert 1 / 1.3 - 0.03 < factors.min() < 0.85
    assert 1.2 < factors.max() < 1.3 + 0.03


def test_a_zoom_makes_smaller_as_often_as_larger() -> None:
    disc = blob(64, 31.5, 31.5).astype(np.uint8)
    image = np.zeros((64, 64, 1), np.uint8)
    smaller = [
        (apply("light", image, disc, size=(64, 64), key=(n,), scale=0.9, rotate=0)[1] == 1).sum()
        < disc.sum()
        for n in range(400)
    ]
    # drawn evenly from 1/1.9 to 1.9, it would be 0.34
    assert np.mean(smaller) == pytest.approx(0.5, abs=0.08)


def test_flips_happen_at_their_rate() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    off = {"scale": 0, "rotate": 0, "brightness": 0, "contrast": 0}
    for options, expected in (
        ({"hflip": 1.0}, image[:, ::-1]),
        ({"hflip": 0.0, "vflip": 1.0}, image[::-1]),
    ):
        new_image, new_mask = apply("light", image, image[..., 0], size=(4, 4), **off, **options)
        np.testing.assert_array_equal(new_image, expected)
        np.testing.assert_array_equal(new_mask, expected[..., 0])
    flipped = [
        apply("light", image, image[..., 0], size=(4, 4), key=(n,), hflip=0.25, **off)[0][0, 0, 0]
        for n in range(400)
    ]
    assert np.mean(np.array(flipped) == 3) == pytest.approx(0.25, abs=0.08)


# ---- light


@pytest.mark.parametrize("dtype", list(RANGES))
def test_light_changes_relative_to_the_value_range_and_not_the_mask(dtype: str) -> None:
    low, high = RANGES[dtype]
    image, mask = picture((40, 40), 5, dtype)
    image = (low + (high - low) * (0.4 + 0.2 * (image - low) / (high - low))).astype(dtype)
    geometry = {"hflip": 0, "scale": 0, "rotate": 0}
    shifts, gains = [], []
    for number in range(200):
        key = (number,)
        new, new_mask = apply(
            "light", image, mask, size=(40, 40), key=key, brightness=0.2, contrast=0.5, **geometry
        )
        np.testing.assert_array_equal(new_mask, mask)
        unit, new_unit = ((x.astype(float) - low) / (high - low) for x in (image, new))
        shifts.append(new_unit.mean() - unit.mean())
        gains.append(new_unit.std() / unit.std())
    assert max(np.abs(shifts)) == pytest.approx(0.2, abs=0.02)
    assert min(gains) == pytest.approx(0.5, abs=0.05)
    assert max(gains) == pytest.approx(1.5, abs=0.05)
    assert np.mean(shifts) == pytest.approx(0, abs=0.03)


def test_the_brightest_values_are_clipped_and_never_wrap() -> None:
    image = np.full((8, 8, 1), 250, np.uint8)
    image[0] = 0
    geometry = {"hflip": 0, "scale": 0, "rotate": 0}
    for number in range(50):
        key = (number,)
        new, _ = apply(
            "light", image, image[..., 0], size=(8, 8), key=key, brightness=0.9, **geometry
        )
        assert new[7, 7, 0] > new[0, 0, 0] or new[7, 7, 0] in (0, 255)


# ---- keys and options


def test_a_key_is_told_from_any_other_and_does_not_care_for_the_kind_of_integer() -> None:
    keys: list[Key] = [(0, 0, "a"), (0, 0, "b"), (0, 1, "a"), (1, 0, "a"), (0, 0, "a", "")]
    keys += [(0, 11, "1"), (0, 1, "11"), (0, 1, b"11x")]
    assert len({key_to_seed(key) for key in keys}) == len(keys)
    assert key_to_seed((np.int64(3), 1, "a")) == key_to_seed((3, 1, "a"))  # type: ignore[arg-type]
    assert all(0 <= key_to_seed(key) < 2**63 for key in keys)
    assert key_to_seed((0, 0, "not utf-8: \udcff")) >= 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lite", {}, "unknown transform 'lite': did you mean 'light'?"),
        ("none", {"hflip": 0.5}, "transform none has no option 'hflip'"),
        ("light", {"hflips": 0.5}, "did you mean 'hflip'?"),
        ("light", {"image_size": [3, 3]}, "image_size comes from the data"),
        ("light", {"hflip": 1.5}, "hflip = 1.5: use a probability"),
        ("light", {"vflip": -0.1}, "vflip = -0.1"),
        ("light", {"scale": 1.0}, "scale = 1.0"),
        ("light", {"rotate": 181}, "rotate = 181.0"),
        ("light", {"brightness": -1}, "brightness = -1.0"),
        ("light", {"contrast": float("nan")}, "contrast = nan"),
        ("light", {"class_balance": 2}, "transform light: class_balance = 2.0: use a probability"),
        ("none", {"class_balance": -1}, "transform none: class_balance = -1.0"),
        ("medium", {"hflip": 1.5}, "transform medium: hflip = 1.5: use a probability"),
        ("medium", {"scale": 3.5}, "transform medium: scale = 3.5: use a number from 0 to 3"),
        ("medium", {"noise": 1.0}, "transform medium: noise = 1.0"),
        ("medium", {"blur": 21}, "transform medium: blur = 21.0: use pixels from 0 to 20"),
        ("medium", {"color": 1}, "transform medium: color = 1.0"),
        ("medium", {"saturation": -0.1}, "transform medium: saturation = -0.1"),
        ("medium", {"gamma": 0.1}, "transform medium has no option 'gamma'"),
        ("heavy", {"shear": 41}, "transform heavy: shear = 41.0: use degrees from 0 to 40"),
        ("heavy", {"elastic": float("inf")}, "transform heavy: elastic = inf: use a share"),
        ("heavy", {"gamma": -1}, "transform heavy: gamma = -1.0"),
        ("paper", {"sigma": -1}, "transform paper: sigma = -1.0: use pixels"),
        ("paper", {"grid": 1}, "transform paper: grid = 1: use from 2 to 32 nodes"),
        ("paper", {"shift": 0.6}, "transform paper: shift = 0.6"),
        ("paper", {"value_range": [0, 1]}, "value_range comes from the data"),
    ],
)
def test_options_that_cannot_be_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        build_transform(name, options, image_size=(8, 8), value_range=(0, 1))
    assert message in str(caught.value)


@ALL
def test_sizes_and_ranges_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="image size 0x8"):
        build_transform(name, {}, image_size=(0, 8), value_range=(0, 1))
    with pytest.raises(UserError, match="value range"):
        build_transform(name, {}, image_size=(8, 8), value_range=(1, 1))
