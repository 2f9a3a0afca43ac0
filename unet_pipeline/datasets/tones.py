"""An image in another light: brightness, contrast, colour, gamma, blur and noise.

All of it relative to the value range of the images, for any number of channels and any type.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from unet_pipeline.datasets.crops import Image
from unet_pipeline.datasets.warps import MOST_CHANNELS, by_channels

SOMETIMES = 0.3
"""How often an image is put in another light, how often it is blurred, and how often noise is
added: as a rule it stays as the images are that will be predicted. In another light always, 13
passes over CamVid gave 0.05 less mean IoU (docs/log.md)."""

_GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue: Rec. 601
_DEPTHS = {"uint8": cv2.CV_8U, "uint16": cv2.CV_16U, "float32": cv2.CV_32F}
_SMALLEST_BLUR = 0.3  # pixels; below it no value changes

_Values = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Tones:
    """How much the light may change; the defaults leave it as it is.

    In 3 of 10 images each: brightness, contrast, gamma and color together; saturation; blur; noise.
    brightness: add up to this share of the value range, up or down.
    contrast: multiply the distance from the image's mean by 1 - contrast to 1 + contrast.
    gamma: raise values, as shares of the range, to a power from 1/(1 + gamma) to 1 + gamma.
    color: multiply each channel by its own factor from 1 - color to 1 + color.
    saturation: multiply the distance of colours from grey by 1 - saturation to 1 + saturation.
    blur: by a Gaussian of up to so many pixels.
    noise: Gaussian, of a standard deviation of up to this share of the range.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    color: float = 0.0
    saturation: float = 0.0
    blur: float = 0.0
    noise: float = 0.0

    @property
    def has_curve(self) -> bool:
        """Whether the values of a picture change by a function of value, channel and its mean."""
        return any((self.brightness, self.contrast, self.gamma, self.color))


def relight(
    image: Image, limits: Tones, rng: np.random.Generator, value_range: tuple[float, float]
) -> Image:
    """`image` (H, W, C) in a light drawn within `limits`, of the same type, within `value_range`.

    Channels change together, but for `color`. `saturation` changes 8-bit images of three channels
    alone: what else has three as a rule measures something, and has no grey.
    """
    if limits == Tones():
        return image
    changed = False
    if limits.has_curve and rng.random() < SOMETIMES:
        image = _apply_curve(image, _draw_curve(image, limits, rng, value_range))
    colored = image.shape[2] == 3 and image.dtype == np.uint8
    if limits.saturation and colored and rng.random() < SOMETIMES:
        factor = 1 + rng.uniform(-limits.saturation, limits.saturation)
        image = cv2.transform(image, factor * np.eye(3) + (1 - factor) * _GREY)
        changed = True
    if limits.blur and rng.random() < SOMETIMES:
        image = _blur(image, rng.uniform(0, limits.blur))
        changed = True
    if limits.noise and rng.random() < SOMETIMES:
        deviation = rng.uniform(0, limits.noise) * (value_range[1] - value_range[0])
        image = _add_noise(image, deviation, rng)
        changed = True
    if changed and value_range != _type_range(image):  # OpenCV clips to the type
        image = np.clip(image, *value_range).astype(image.dtype)
    return image


def _draw_curve(
    image: Image, limits: Tones, rng: np.random.Generator, value_range: tuple[float, float]
) -> Callable[[_Values], _Values]:
    """A function from old values (..., C) to new ones; C is 1 where all channels change alike."""
    low, high = value_range
    gain = 1 + rng.uniform(-limits.contrast, limits.contrast)
    mean = float(image.mean(dtype=np.float64))
    offset = mean - gain * mean + rng.uniform(-limits.brightness, limits.brightness) * (high - low)
    most = np.log1p(limits.gamma)
    power = float(np.exp(rng.uniform(-most, most))) if limits.gamma else 1.0
    gains = None
    if limits.color:
        factors = rng.uniform(-limits.color, limits.color, size=image.shape[2])
        gains = 1 + np.asarray(factors, dtype=np.float32)

    def curve(values: _Values) -> _Values:
        if limits.gamma:
            share = np.clip((values - low) / (high - low), 0, 1)
            values = low + (high - low) * _power(share, power)
        if gains is not None:
            values = (values - low) * gains + low
        values = values * np.float32(gain) + np.float32(offset)
        if image.dtype.kind in "ui":
            values = np.round(values)
        clipped: _Values = np.clip(values, low, high)
        return clipped

    return curve


def _apply_curve(image: Image, curve: Callable[[_Values], _Values]) -> Image:
    if image.dtype != np.uint8 or image.shape[2] > MOST_CHANNELS:
        return curve(image.astype(np.float32)).astype(image.dtype)
    table = curve(np.arange(256, dtype=np.float32)[None, :, None]).astype(np.uint8)
    if table.shape[2] == 1:  # for all channels
        flat = image.reshape(len(image), -1)
        return cv2.LUT(flat, table.ravel()).reshape(image.shape)
    return cv2.LUT(image, table)


def _power(values: _Values, power: float) -> _Values:
    """4 times as fast as numpy's."""
    raised: npt.NDArray[Any] = cv2.pow(values.reshape(len(values), -1), power)
    return raised.reshape(values.shape)


def _blur(image: Image, sigma: float) -> Image:
    if sigma < _SMALLEST_BLUR:
        return image

    def blurred(part: Image) -> Any:
        return cv2.GaussianBlur(part, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)

    return by_channels(blurred, image)


def _add_noise(image: Image, deviation: float, rng: np.random.Generator) -> Image:
    """8 times as fast as drawing normal numbers: one byte a value chooses among 256 of them."""
    flat = image.reshape(len(image), -1)
    chosen = np.frombuffer(rng.bytes(flat.size), dtype=np.uint8).reshape(flat.shape)
    noise = cv2.LUT(chosen, _normal_quantiles() * np.float32(deviation))
    noisy = cv2.add(flat, noise, dtype=_DEPTHS[image.dtype.name])
    return noisy.reshape(image.shape)


@functools.cache
def _normal_quantiles() -> _Values:
    """256 numbers as likely as each other, of mean 0 and standard deviation 1: a normal curve."""
    normal = NormalDist()
    values = np.array([normal.inv_cdf((n + 0.5) / 256) for n in range(256)])
    scaled: _Values = (values / values.std()).astype(np.float32)
    return scaled


def _type_range(image: Image) -> tuple[float, float] | None:
    if image.dtype.kind not in "ui":
        return None
    limits = np.iinfo(image.dtype)
    return limits.min, limits.max
