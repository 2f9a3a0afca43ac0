"""The presets that warp an image in one reading: medium, heavy, and the U-Net paper's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from unet_pipeline.datasets.crops import (
    ClassBalance,
    Image,
    Mask,
    corners,
    place,
    place_around,
)
from unet_pipeline.datasets.keys import Key, key_to_seed
from unet_pipeline.datasets.tones import Tones, relight
from unet_pipeline.datasets.warps import Warper, Warps, draw_warp
from unet_pipeline.errors import UserError

_HEAVY_NODES = 5


def medium(
    *,
    image_size: tuple[int, int],
    value_range: tuple[float, float],
    class_balance: float = 0.0,
    hflip: float = 0.5,
    vflip: float = 0.0,
    scale: float = 0.4,
    rotate: float = 15.0,
    brightness: float = 0.25,
    contrast: float = 0.25,
    color: float = 0.1,
    saturation: float = 0.3,
    blur: float = 1.0,
    noise: float = 0.02,
) -> WarpedCrops:
    """Light, and more of it: wider zoom, other colours, and now and then a blur or noise.

    In 3 of 10 crops each: brightness, contrast and color; saturation; blur; noise. What `light` has
    means the same; a crop that `class_balance` places always shows its pixel.
    vflip is off: where up and down differ, as in most photographs, what stands on its head is never
    met again. Set it to 0.5 where they do not, as under a microscope or from the air.
    color: multiply each channel by its own factor from 1 - color to 1 + color.
    saturation: multiply the distance of colours from grey by 1 - saturation to 1 + saturation, in
    8-bit images of three channels.
    blur: a Gaussian blur of up to so many pixels.
    noise: Gaussian noise with a deviation of up to this share of the value range.
    """
    return _warped(
        "medium",
        {},
        image_size=image_size,
        value_range=value_range,
        class_balance=class_balance,
        warps=Warps(hflip=hflip, vflip=vflip, scale=scale, rotate=rotate),
        tones=Tones(
            brightness=brightness,
            contrast=contrast,
            color=color,
            saturation=saturation,
            blur=blur,
            noise=noise,
        ),
    )


def heavy(
    *,
    image_size: tuple[int, int],
    value_range: tuple[float, float],
    class_balance: float = 0.0,
    hflip: float = 0.5,
    vflip: float = 0.0,
    scale: float = 1.0,
    rotate: float = 30.0,
    shear: float = 10.0,
    elastic: float = 0.02,
    brightness: float = 0.3,
    contrast: float = 0.4,
    gamma: float = 0.5,
    color: float = 0.2,
    saturation: float = 0.5,
    blur: float = 2.0,
    noise: float = 0.05,
) -> WarpedCrops:
    """Medium, and more of it: zoom from half to double, sheared and bent, with gamma.

    What `medium` has means the same. For long runs on few images.
    shear: slant rows and columns by up to so many degrees either way.
    elastic: bend by moving the nodes of a 5x5 grid by Gaussian amounts with this share of the
    crop's shorter side as deviation, bicubically interpolated between them.
    gamma: with brightness, raise values, as shares of the value range, to a power from
    1/(1 + gamma) to 1 + gamma.
    """
    return _warped(
        "heavy",
        {"elastic": elastic},
        image_size=image_size,
        value_range=value_range,
        class_balance=class_balance,
        warps=Warps(
            hflip=hflip,
            vflip=vflip,
            scale=scale,
            rotate=rotate,
            shear=shear,
            bend=elastic * min(image_size),
            nodes=_HEAVY_NODES,
        ),
        tones=Tones(
            brightness=brightness,
            contrast=contrast,
            gamma=gamma,
            color=color,
            saturation=saturation,
            blur=blur,
            noise=noise,
        ),
    )


def paper(
    *,
    image_size: tuple[int, int],
    value_range: tuple[float, float],
    class_balance: float = 0.0,
    sigma: float = 10.0,
    grid: int = 3,
    shift: float = 0.1,
    rotate: float = 180.0,
    brightness: float = 0.2,
    contrast: float = 0.2,
) -> WarpedCrops:
    """The U-Net paper's own: elastic deformation on a 3x3 grid, shifts, turns and grey values.

    Ronneberger, Fischer and Brox 2015, section 3.1. The deformation is theirs to the number; of
    the rest the paper names the kind, "shift and rotation invariance" and "gray value variations",
    and no amount.
    sigma: the standard deviation, in pixels, of the displacement of each node along either axis.
    grid: nodes along each side of the crop, the first and last in its corners; the displacements of
    pixels between them are interpolated bicubically. Made for crops of some hundred pixels: much
    smaller ones fold over.
    shift: a crop may reach over the image's border by up to this share of its height and width.
    rotate: turn by up to so many degrees either way.
    brightness, contrast: as for `light`.
    """
    return _warped(
        "paper",
        {"sigma": sigma, "grid": grid, "shift": shift},
        image_size=image_size,
        value_range=value_range,
        class_balance=class_balance,
        warps=Warps(rotate=rotate, bend=sigma, nodes=grid),
        tones=Tones(brightness=brightness, contrast=contrast),
        beyond=shift,
    )


Limit = tuple[Callable[[float], bool], str]
"""Whether a value is within it, and the values that are, in words."""

SHARE: Limit = (lambda v: 0 <= v < 1, "a number from 0 up to, not including, 1")
_CHANCE: Limit = (lambda v: 0 <= v <= 1, "a probability from 0 to 1")
_LIMITS: dict[str, Limit] = {
    "class_balance": _CHANCE,
    "hflip": _CHANCE,
    "vflip": _CHANCE,
    "scale": (lambda v: 0 <= v <= 3, "a number from 0 to 3"),
    "rotate": (lambda v: 0 <= v <= 180, "degrees from 0 to 180"),
    "shear": (lambda v: 0 <= v <= 40, "degrees from 0 to 40"),
    "elastic": (lambda v: 0 <= v <= 0.5, "a share of the crop from 0 to 0.5"),
    "sigma": (lambda v: 0 <= v <= 1000, "pixels from 0 to 1000"),
    "grid": (lambda v: 2 <= v <= 32, "from 2 to 32 nodes a side"),
    "shift": (lambda v: 0 <= v <= 0.5, "a share of the crop from 0 to 0.5"),
    "brightness": SHARE,
    "contrast": SHARE,
    "gamma": (lambda v: 0 <= v <= 3, "a number from 0 to 3"),
    "color": SHARE,
    "saturation": (lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    "blur": (lambda v: 0 <= v <= 20, "pixels from 0 to 20"),
    "noise": SHARE,
}


def check_options(preset: str, options: Mapping[str, float], **other: Limit) -> None:
    """Raises `UserError` for the first option of `preset` beyond its limit.

    other: limits of this preset where they differ from those of the rest.
    """
    limits = _LIMITS | other
    for option, value in options.items():
        within, wanted = limits[option]
        if not within(value):
            raise UserError(f"transform {preset}: {option} = {value}: use {wanted}")


def check_run(image_size: tuple[int, int], value_range: tuple[float, float]) -> None:
    """Raises `UserError` for sizes and ranges that no transform can have."""
    if min(image_size) < 1:
        raise UserError(f"image size {image_size[0]}x{image_size[1]}: use at least 1x1")
    if not value_range[0] < value_range[1]:
        raise UserError(f"value range {value_range}: the first must be below the second")


def _warped(
    preset: str,
    own_options: Mapping[str, float],
    *,
    image_size: tuple[int, int],
    value_range: tuple[float, float],
    class_balance: float,
    warps: Warps,
    tones: Tones,
    beyond: float = 0.0,
) -> WarpedCrops:
    """The crops of `preset`; its options, `own_options` among them, are checked."""
    named = dataclasses.asdict(warps) | dataclasses.asdict(tones)
    common = {name: value for name, value in named.items() if name in _LIMITS}
    check_options(preset, {"class_balance": class_balance, **own_options, **common})
    return WarpedCrops(
        image_size=image_size,
        value_range=value_range,
        class_balance=class_balance,
        warps=warps,
        tones=tones,
        beyond=beyond,
    )


class WarpedCrops:
    """Places a crop, warps it straight out of the image, and changes its light."""

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        value_range: tuple[float, float],
        class_balance: float,
        warps: Warps,
        tones: Tones,
        beyond: float = 0.0,
    ) -> None:
        check_run(image_size, value_range)
        self.image_size = image_size
        self.value_range = value_range
        self.warps = warps
        self.tones = tones
        self.beyond = beyond
        self.balance = ClassBalance(class_balance)
        self.warper = Warper(image_size, nodes=warps.nodes if warps.bend else 0)

    def __call__(self, image: Image, mask: Mask, *, key: Key) -> tuple[Image, Mask]:
        rng = np.random.default_rng(key_to_seed(key))
        warp = draw_warp(self.warps, rng)
        seen = self.warper.seen(warp)
        allowed = corners(mask.shape, self.image_size, seen=seen, beyond=self.beyond)
        corner = place(allowed, rng)
        balanced = self.balance(mask, seen, key=key)
        if balanced is not None:
            point, own_rng = balanced
            corner = place_around(
                *(point, allowed, self.image_size, own_rng),
                matrix=warp.matrix,
                margin=self.warper.margin(warp),
            )
        image, mask = self.warper(image, mask, corner, warp)
        image = relight(image, self.tones, rng, self.value_range)
        return np.ascontiguousarray(image), np.ascontiguousarray(mask)
