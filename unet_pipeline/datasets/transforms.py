"""Training augmentation: an image and its mask, cropped to one size and varied by a key.

Randomness is keyed, never streamed: what happens to a sample is a function of its key alone,
(seed, epoch, sample_id), so it is the same in any process, after any other sample, on any resume.

Of every transform: what comes in from outside an image is its reflection, with a void (255) mask;
images are interpolated linearly, masks take the nearest index; images have any number of channels.

This is the only file that knows albumentations.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets.crops import (
    ClassBalance,
    Image,
    Mask,
    Place,
    corners,
    cut,
    place,
    place_around,
)
from unet_pipeline.datasets.keys import Key, key_to_seed
from unet_pipeline.datasets.presets import (
    SHARE,
    check_options,
    check_run,
    heavy,
    medium,
    paper,
)
from unet_pipeline.datasets.tones import Tones, relight

# Without this, the import asks a package index for news: 10 s where the network is silent
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2

__all__ = [
    "TRANSFORMS",
    "Image",
    "Key",
    "Mask",
    "Transform",
    "build_transform",
    "flips",
    "heavy",
    "key_to_seed",
    "light",
    "medium",
    "none",
    "paper",
]


class Transform(Protocol):
    """(image, mask, key) -> image and mask of exactly `image_size`, in the dtypes they came in."""

    def __call__(self, image: Image, mask: Mask, *, key: Key) -> tuple[Image, Mask]:
        """The augmented pair; the same for the same key, always."""


def build_transform(
    name: str,
    options: Mapping[str, Any],
    *,
    image_size: tuple[int, int],
    value_range: tuple[float, float],
) -> Transform:
    """The transform called `name` of `TRANSFORMS`, with `options` checked and completed.

    image_size: (height, width) of what comes out. value_range: black and white of the images.
    Raises `UserError` for unknown names and options and for values out of range.
    """
    factory = lookup(TRANSFORMS, name, kind="transform")
    given = {"image_size": image_size, "value_range": value_range}
    checked = complete(factory, options, label=f"transform {name}", given=tuple(given))
    return factory(**given, **checked)


def none(
    *,
    image_size: tuple[int, int],
    value_range: tuple[float, float],
    class_balance: float = 0.0,
) -> Transform:
    """Crops of `image_size` at a random place, and nothing else.

    An image of exactly that size passes unchanged. A smaller one is put at a random place of the
    crop: its pixels are reflected outwards, and the mask is void (255) there.
    class_balance: the probability that a crop, of an image larger than it, is placed so that it
    holds a pixel of a class that is drawn from all classes of the image alike, class 0 only where
    there is no other.
    """
    check_options("none", {"class_balance": class_balance})
    return _CropAndVary(image_size=image_size, value_range=value_range, class_balance=class_balance)


def flips(
    *,
    image_size: tuple[int, int],
    value_range: tuple[float, float],
    class_balance: float = 0.0,
    hflip: float = 0.5,
    vflip: float = 0.0,
) -> Transform:
    """Random crops, mirrored: for trainings that see each sample a few times only.

    class_balance: as for `none`. hflip, vflip: the probability of mirroring left-right and up-down.
    """
    check_options("flips", {"class_balance": class_balance, "hflip": hflip, "vflip": vflip})
    return _CropAndVary(
        image_size=image_size,
        value_range=value_range,
        class_balance=class_balance,
        hflip=hflip,
        vflip=vflip,
    )


def light(
    *,
    image_size: tuple[int, int],
    value_range: tuple[float, float],
    class_balance: float = 0.0,
    hflip: float = 0.5,
    vflip: float = 0.0,
    scale: float = 0.2,
    rotate: float = 10.0,
    brightness: float = 0.2,
    contrast: float = 0.2,
) -> Transform:
    """Random crops, mirrored, zoomed, turned, and 3 of 10 in another light.

    class_balance: as for `none`; what is turned out of sight is placed anew, up to 4 times.
    hflip, vflip: the probability of mirroring left-right and up-down.
    scale: zoom by a factor from 1/(1 + scale) to 1 + scale, the same along both axes.
    rotate: turn by up to so many degrees either way.
    brightness: add up to this share of the value range, up or down.
    contrast: multiply the distance from the image's mean by 1 - contrast to 1 + contrast.

    The light of all channels changes together, relative to `value_range`, and is clipped to it.
    """
    warps = {"hflip": hflip, "vflip": vflip, "scale": scale, "rotate": rotate}
    lights = {"brightness": brightness, "contrast": contrast}
    check_options("light", {"class_balance": class_balance, **warps, **lights}, scale=SHARE)
    return _CropAndVary(
        image_size=image_size,
        value_range=value_range,
        class_balance=class_balance,
        **warps,
        tones=Tones(**lights),
    )


TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "none": none,
    "flips": flips,
    "light": light,
    "medium": medium,
    "heavy": heavy,
    "paper": paper,
}
"""Name -> factory; `image_size` and `value_range` come from the run, the rest are options."""


_TRIES = 4  # of a crop around a class: 1 in 16 is turned or zoomed out of sight at the defaults


class _CropAndVary:
    """Cut a window, flip and warp it, trim it to `image_size`, change its light."""

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        value_range: tuple[float, float],
        class_balance: float,
        hflip: float = 0.0,
        vflip: float = 0.0,
        scale: float = 0.0,
        rotate: float = 0.0,
        tones: Tones | None = None,
    ) -> None:
        check_run(image_size, value_range)
        self.image_size = image_size
        self.value_range = value_range
        self.tones = tones or Tones()
        self.balance = ClassBalance(class_balance)
        warps = scale > 0 or rotate > 0
        # The warp reads a window wide enough for every turn and zoom, so that nothing comes from
        # outside it: border pixels are the business of `cut`, which treats image and mask apart.
        self.window_size = _window_size(image_size, scale, rotate) if warps else image_size
        steps: list[Any] = []
        if hflip > 0:
            steps.append(A.HorizontalFlip(p=hflip))
        if vflip > 0:
            steps.append(A.VerticalFlip(p=vflip))
        if warps:
            steps.append(_affine(scale, rotate))
            steps.append(A.CenterCrop(*image_size))
        # One Compose for ever, seeded anew for each key: building one costs more than an image.
        # Its checks of shapes are ours already.
        self.compose = A.Compose(steps, is_check_shapes=False) if steps else None

    def __call__(self, image: Image, mask: Mask, *, key: Key) -> tuple[Image, Mask]:
        seed = key_to_seed(key)
        rng = np.random.default_rng(seed)
        allowed = corners(mask.shape, self.image_size)
        corner = place(allowed, rng)
        balanced = self.balance(mask, self.image_size, key=key)
        if balanced is None:
            new_image, new_mask = self._vary(image, mask, corner, seed)
        else:
            point, own_rng = balanced
            for _ in range(_TRIES):
                corner = place_around(point, allowed, self.image_size, own_rng)
                new_image, new_mask = self._vary(image, mask, corner, seed)
                if (new_mask == mask[point]).any():
                    break
        new_image = relight(new_image, self.tones, rng, self.value_range)
        return np.ascontiguousarray(new_image), np.ascontiguousarray(new_mask)

    def _vary(self, image: Image, mask: Mask, corner: Place, seed: int) -> tuple[Image, Mask]:
        """The crop at `corner`, cut from the middle of a window that is flipped and warped."""
        top, left = (
            first - (window - side) // 2
            for first, window, side in zip(corner, self.window_size, self.image_size, strict=True)
        )
        image, mask = cut(image, mask, (top, left), self.window_size)
        if self.compose is None:
            return image, mask
        self.compose.set_random_seed(seed)
        varied = self.compose(image=image, mask=mask)
        return varied["image"], varied["mask"]


def _affine(scale: float, rotate: float) -> Any:
    return A.Affine(
        scale=(1 / (1 + scale), 1 + scale),
        balanced_scale=scale > 0,  # as often smaller as larger
        keep_ratio=True,
        rotate=(-rotate, rotate),
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        border_mode=cv2.BORDER_CONSTANT,
        fill_mask=IGNORE_INDEX,
        p=1.0,
    )


def _window_size(size: tuple[int, int], scale: float, rotate: float) -> tuple[int, int]:
    """The smallest window, of the parity of `size`, that holds it turned and zoomed out."""
    height, width = size
    # The corners of the turned crop reach furthest at the largest angle, or where a diagonal
    # points along an axis, if that angle is allowed.
    limit = math.radians(rotate)
    to_axis = (math.atan2(width, height), math.atan2(height, width))
    extents = []
    for side, other, angle in ((height, width, to_axis[0]), (width, height, to_axis[1])):
        turn = min(limit, angle)
        extents.append(side * math.cos(turn) + other * math.sin(turn))
    reach = [math.ceil(extent * (1 + scale)) + 2 for extent in extents]  # 2: linear interpolation
    window = [max(side, wide + (wide - side) % 2) for side, wide in zip(size, reach, strict=True)]
    return window[0], window[1]
