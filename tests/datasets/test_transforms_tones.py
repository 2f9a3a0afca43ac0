"""The light of an augmented crop: relative to the value range, whatever the type and channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from unet_pipeline.datasets.tones import SOMETIMES, Tones, relight

RANGES: dict[str, tuple[float, float]] = {
    "uint8": (0, 255),
    "uint16": (0, 65535),
    "float32": (-1, 1),
}
STRONG = Tones(
    brightness=0.3, contrast=0.4, gamma=0.5, color=0.2, saturation=0.5, blur=2.0, noise=0.05
)


def lit(
    image: npt.NDArray[Any],
    number: int,
    value_range: tuple[float, float] | None = None,
    **tones: Any,
) -> npt.NDArray[Any]:
    limits = value_range or RANGES[image.dtype.name]
    return relight(image, Tones(**tones), np.random.default_rng(number), limits)


def unit(channels: int = 3, size: tuple[int, int] = (32, 40)) -> npt.NDArray[np.float64]:
    """Smooth values from 0 to 1."""
    rows, cols = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(rows * (c + 2) / 20) * np.cos(cols * (c + 3) / 20) for c in range(channels)]
    values: npt.NDArray[np.float64] = (np.stack(waves, axis=2) + 1) / 2
    return values


def held(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    low, high = RANGES[dtype]
    scaled = low + values * (high - low)
    return (scaled if dtype == "float32" else np.round(scaled)).astype(dtype)


def share(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    low, high = RANGES[image.dtype.name]
    values: npt.NDArray[np.float64] = (image.astype(float) - low) / (high - low)
    return values


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 70])
def test_every_type_is_changed_alike(channels: int) -> None:
    tones = {
        "brightness": 0.2,
        "contrast": 0.3,
        "gamma": 0.5,
        "color": 0.2,
        "blur": 2,
        "noise": 0.1,
    }
    for number in range(40):
        results = [
            # Not down to black, where gamma makes much of how uint8 is rounded
            share(lit(held(0.1 + 0.9 * unit(channels), dtype), number, **tones))
            for dtype in sorted(RANGES)
        ]
        for result in results[1:]:
            np.testing.assert_allclose(result, results[0], atol=3 / 255)


@pytest.mark.parametrize("dtype", list(RANGES))
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_values_stay_within_their_range_and_type(dtype: str, channels: int) -> None:
    low, high = (0.1, 0.3) if dtype == "float32" else (20, 200)
    image = (low + unit(channels) * (high - low)).astype(dtype)
    ends = set()
    for number in range(60):
        new = relight(image, STRONG, np.random.default_rng(number), (low, high))
        assert new.dtype == image.dtype
        assert new.shape == image.shape
        assert np.float32(low) <= new.min()
        assert new.max() <= np.float32(high)
        ends |= {new.min() == np.float32(low), new.max() == np.float32(high)}
    assert ends == {True, False}


def test_color_multiplies_each_channel_by_its_own_factor() -> None:
    image = np.full((4, 4, 5), 100, np.uint16)
    factors = np.array([lit(image, n, (0, 200), color=0.2)[0, 0] for n in range(300)]) / 100
    assert factors.min() == pytest.approx(0.8, abs=0.01)
    assert factors.max() == pytest.approx(1.2, abs=0.01)
    assert np.abs(np.corrcoef(factors.T)[~np.eye(5, dtype=bool)]).max() < 0.25
    black = np.zeros((4, 4, 5), np.uint8)
    assert not any(lit(black, n, color=0.2).any() for n in range(10))


def test_saturation_moves_colours_to_and_from_grey_and_leaves_grey() -> None:
    image = np.array([[[120, 120, 120], [150, 100, 100]]], np.uint8)
    distances = []
    for number in range(300):
        grey, red = lit(image, number, saturation=0.5)[0]
        assert grey.tolist() == [120, 120, 120]
        assert abs(red @ [0.299, 0.587, 0.114] - image[0, 1] @ [0.299, 0.587, 0.114]) < 1
        distances.append(float(red[0]) - float(red[1]))
    assert min(distances) == pytest.approx(25, abs=2)
    assert max(distances) == pytest.approx(75, abs=2)


@pytest.mark.parametrize(("dtype", "channels"), [("uint16", 3), ("float32", 3), ("uint8", 4)])
def test_saturation_leaves_what_is_no_photograph(dtype: str, channels: int) -> None:
    image = held(unit(channels), dtype)
    for number in range(20):
        np.testing.assert_array_equal(lit(image, number, saturation=1.0), image)


TONES = {"brightness": 0.2, "contrast": 0.2, "gamma": 0.3, "color": 0.1, "saturation": 0.3}


@pytest.mark.parametrize("tone", list(TONES))
def test_an_image_mostly_keeps_its_light(tone: str) -> None:
    """In another light always, CamVid was learned far worse."""
    image = held(unit(), "uint8")
    changed = [(lit(image, number, **{tone: TONES[tone]}) != image).any() for number in range(400)]
    assert np.mean(changed) == pytest.approx(SOMETIMES, abs=0.06)


def test_gamma_keeps_black_and_white_and_moves_the_middle_both_ways() -> None:
    image = held(np.array([[[0.0], [0.5], [1.0]]]), "float32")
    middles = []
    for number in range(1000):
        black, middle, white = share(lit(image, number, gamma=0.5))[0, :, 0]
        assert (black, white) == (0, 1)
        if middle != 0.5:
            middles.append(middle)
    assert min(middles) == pytest.approx(0.5**1.5, abs=0.01)
    assert max(middles) == pytest.approx(0.5 ** (1 / 1.5), abs=0.01)
    assert np.mean(np.array(middles) < 0.5) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("dtype", list(RANGES))
def test_noise_is_normal_sometimes_and_as_strong_as_it_may_be(dtype: str) -> None:
    image = held(np.full((64, 64, 3), 0.5), dtype)
    clean = share(image)
    deviations = []
    for number in range(400):
        noise = share(lit(image, number, noise=0.1)) - clean
        if noise.any():
            deviations.append(noise.std())
            assert abs(noise.mean()) < 0.005
    assert len(deviations) / 400 == pytest.approx(SOMETIMES, abs=0.06)
    assert max(deviations) == pytest.approx(0.1, abs=0.01)
    assert np.mean(deviations) == pytest.approx(0.05, abs=0.01)


def test_noise_has_the_shape_of_a_normal_curve_and_no_pattern() -> None:
    image = np.zeros((256, 256, 3), np.float32)
    noises = (lit(image, number, (-9, 9), noise=0.1) for number in range(40))
    noise = next(n for n in noises if n.std() > 0.3)
    flat = (noise / noise.std()).ravel()
    assert stats.kstest(flat, "norm").statistic < 0.01
    assert abs(stats.kurtosis(flat)) < 0.2
    rows = noise[..., 0] / noise.std()
    for one, other in ((rows[1:], rows[:-1]), (rows[:, 1:], rows[:, :-1]), (rows, noise[..., 1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("dtype", list(RANGES))
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_blur_happens_sometimes_smooths_and_keeps_the_mean(dtype: str, channels: int) -> None:
    image = held(np.random.default_rng(0).uniform(0.3, 0.7, (48, 48, channels)), dtype)
    ratios = []
    for number in range(400):
        new = share(lit(image, number, blur=2.0))
        ratios.append(new.std() / share(image).std())
        assert new.mean() == pytest.approx(share(image).mean(), abs=0.005)
    changed = np.array(ratios) < 0.99
    # a tenth of the blurs are too slight to change anything
    assert 0.15 < changed.mean() < SOMETIMES + 0.06
    assert min(ratios) == pytest.approx(1 / (2 * np.sqrt(np.pi) * 2), abs=0.03)  # of white noise


def test_nothing_changes_where_all_is_off() -> None:
    image = held(unit(), "uint8")
    assert lit(image, 0) is image
