"""Training augmentation: an image and its mask, cropped to one size and varied by a key.

Randomness is keyed, never streamed: what happens to a sample is a function of its key alone,
(seed, epoch, sample_id), so it is the same in any process, after any other sample, on any resume.

This is the only file that knows albumentations.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.errors import UserError

# Without this, the import asks a package index for news: 10 s where the network is silent
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2

Key = tuple[int | str | bytes, ...]
"""What randomness is a function of: (seed, epoch, sample_id)."""

Image = npt.NDArray[Any]
"""(H, W, C), uint8, uint16 or float32."""

Mask = npt.NDArray[np.uint8]
"""(H, W) class indices, 255 where a pixel counts for nothing."""


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


def none(*, image_size: tuple[int, int], value_range: tuple[float, float]) -> Transform:
    """Crops of `image_size` at a random place, and nothing else.

    An image of exactly that size passes unchanged. A smaller one is put at a random place of the
    crop: its pixels are reflected outwards, and the mask is void (255) there.
    """
    return _CropAndVary(image_size=image_size, value_range=value_range)


def light(
    *,
    image_size: tuple[int, int],
    value_range: tuple[float, float],
    hflip: float = 0.5,
    vflip: float = 0.0,
    scale: float = 0.2,
    rotate: float = 10.0,
    brightness: float = 0.2,
    contrast: float = 0.2,
) -> Transform:
    """Random crops, mirrored, zoomed, turned, and in another light.

    hflip, vflip: the probability of mirroring left-right and up-down.
    scale: zoom by a factor from 1/(1 + scale) to 1 + scale, the same along both axes.
    rotate: turn by up to so many degrees either way.
    brightness: add up to this share of the value range, up or down.
    contrast: multiply the distance from the image's mean by 1 - contrast to 1 + contrast.

    What comes in from outside the image is its reflection, with a void (255) mask; images are
    interpolated linearly, masks take the nearest index. Any number of channels; the light of all
    channels changes together, relative to `value_range`, and is clipped to it.
    """
    for label, chance in (("hflip", hflip), ("vflip", vflip)):
        _check(0 <= chance <= 1, label, chance, "a probability from 0 to 1")
    for label, share in (("scale", scale), ("brightness", brightness), ("contrast", contrast)):
        _check(0 <= share < 1, label, share, "a number from 0 up to, not including, 1")
    _check(0 <= rotate <= 180, "rotate", rotate, "degrees from 0 to 180")
    return _CropAndVary(
        image_size=image_size,
        value_range=value_range,
        hflip=hflip,
        vflip=vflip,
        scale=scale,
        rotate=rotate,
        brightness=brightness,
        contrast=contrast,
    )


TRANSFORMS: dict[str, Callable[..., Transform]] = {"none": none, "light": light}
"""Name -> factory; `image_size` and `value_range` come from the run, the rest are options."""


def _check(ok: bool, option: str, value: float, wanted: str) -> None:
    if not ok:
        raise UserError(f"transform light: {option} = {value}: use {wanted}")


class _CropAndVary:
    """Cut a window, flip and warp it, trim it to `image_size`, change its light."""

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        value_range: tuple[float, float],
        hflip: float = 0.0,
        vflip: float = 0.0,
        scale: float = 0.0,
        rotate: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
    ) -> None:
        if min(image_size) < 1:
            raise UserError(f"image size {image_size[0]}x{image_size[1]}: use at least 1x1")
        if not value_range[0] < value_range[1]:
            raise UserError(f"value range {value_range}: the first must be below the second")
        self.image_size = image_size
        self.value_range = value_range
        self.brightness = brightness
        self.contrast = contrast
        warps = scale > 0 or rotate > 0
        # The warp reads a window wide enough for every turn and zoom, so that nothing comes from
        # outside it: border pixels are the business of `_cut`, which treats image and mask apart.
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
        top, left = self._place(rng, mask.shape)
        image, mask = _cut(image, mask, top, left, self.window_size)
        if self.compose is not None:
            self.compose.set_random_seed(seed)
            varied = self.compose(image=image, mask=mask)
            image, mask = varied["image"], varied["mask"]
        if self.brightness or self.contrast:
            image = self._relight(rng, image)
        return np.ascontiguousarray(image), np.ascontiguousarray(mask)

    def _place(self, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[int, int]:
        """The corner of the window: its core, `image_size` large, lies where it has most image."""
        corner = []
        for size, core, window in zip(shape, self.image_size, self.window_size, strict=True):
            slack = size - core  # negative where the image is smaller than the crop
            start = int(rng.integers(min(slack, 0), max(slack, 0) + 1))
            corner.append(start - (window - core) // 2)
        return corner[0], corner[1]

    def _relight(self, rng: np.random.Generator, image: Image) -> Image:
        low, high = self.value_range
        gain = 1 + rng.uniform(-self.contrast, self.contrast)
        mean = float(image.mean(dtype=np.float64))
        offset = mean - gain * mean + rng.uniform(-self.brightness, self.brightness) * (high - low)
        changed = image.astype(np.float32) * np.float32(gain) + np.float32(offset)
        if image.dtype.kind in "ui":
            changed = np.round(changed)
        relit: Image = np.clip(changed, low, high).astype(image.dtype)
        return relit


def key_to_seed(key: Key) -> int:
    """A number below 2**63, the same everywhere for the same key and another for any other.

    >>> key_to_seed((0, 1, "a")) == key_to_seed((0, 1, "a"))
    True
    >>> key_to_seed((0, 11, "a")) == key_to_seed((0, 1, "1a"))
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in key:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest(), "big") >> 1


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


def _cut(
    image: Image, mask: Mask, top: int, left: int, size: tuple[int, int]
) -> tuple[Image, Mask]:
    """The window at (top, left): where it leaves the image, reflected pixels and a void mask."""
    height, width = mask.shape
    bottom, right = top + size[0], left + size[1]
    if top >= 0 and left >= 0 and bottom <= height and right <= width:
        return image[top:bottom, left:right], mask[top:bottom, left:right]
    rows, cols = np.arange(top, bottom), np.arange(left, right)
    # take after take: 4 times as fast as one indexing with both
    image = image.take(_reflect(rows, height), axis=0).take(_reflect(cols, width), axis=1)
    void = np.full(size, IGNORE_INDEX, dtype=np.uint8)
    inner_rows, inner_cols = slice(max(0, -top), height - top), slice(max(0, -left), width - left)
    part = mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    void[inner_rows, inner_cols] = part
    return image, void


def _reflect(index: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Indices inside 0..size-1, as between two mirrors: -1 is 1, size is size - 2, and so on."""
    if size == 1:
        return np.zeros_like(index)
    folded = np.abs(index) % (2 * size - 2)
    inside: npt.NDArray[np.int64] = np.minimum(folded, 2 * size - 2 - folded)
    return inside
