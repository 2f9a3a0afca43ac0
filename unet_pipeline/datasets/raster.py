"""What every decoder gives: the pixels of a file before they are an image or a mask."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

MAX_PIXELS = 2**28
"""Width times height; 16384 x 16384. A small file can claim more than any memory holds."""

MAX_BYTES = 2**32
"""The size of a file, and of its decoded pixels."""


PAGES_HINT = (
    "one picture a file is read: use --pages samples (each page is a sample) or --pages channels "
    "(each is a channel)"
)
"""What to do with a file of several pages or frames."""


class Raster(NamedTuple):
    """What a file holds, before it is taken as an image or as a mask.

    pixels: (H, W, C) in the file's own type, upright, an alpha channel dropped.
    palette: (N, 3) uint8 where the pixels are indices into it, else None.
    scale: the factor by which 1-, 2- and 4-bit grey was spread to 0..255: 255, 85 or 17, else 1.
    lossy: the values are blurred by the compression (JPEG, lossy WebP).
    alpha: some pixel is not opaque in the file, by its alpha channel or by a transparent colour.
    """

    pixels: npt.NDArray[Any]
    palette: npt.NDArray[np.uint8] | None = None
    scale: int = 1
    lossy: bool = False
    alpha: bool = False


class Header(NamedTuple):
    """The size that `read_image` gives for a file: upright width, height, and channels."""

    width: int
    height: int
    channels: int


def upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """`pixels` (H, W, ...) turned as the EXIF / TIFF orientation 1..8 says; others mean 1."""
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def channel_axis(shape: tuple[int, ...]) -> int:
    """Where an array of `shape` (H, W, C) or (C, H, W) has its channels: 0 or 2.

    The smaller end is taken, the last where both are equal: up to 64 channels there, up to 16 in
    front, where a longer axis is rather a stack of pictures. Raises ValueError for other shapes.
    """
    if len(shape) == 3:
        if shape[2] <= 64 and shape[2] <= shape[0]:
            return 2
        if shape[0] <= 16:
            return 0
    raise ValueError(f"an array of shape {shape} is no picture of (height, width, channels)")


def raster_of_pillow(picture: Image.Image) -> Raster:
    """The pixels of an opened Pillow image, by one explicit table from its mode to an array.

    Raises ValueError for a mode that is not in the table.
    """
    picture.load()
    mode = picture.mode
    if mode == "1":
        pixels = np.asarray(picture)[..., None].astype(np.uint8) * np.uint8(255)
        return Raster(pixels, scale=255, alpha=_is_seen(picture, pixels))
    if mode == "P":
        colours = np.array(picture.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        palette = np.zeros((256, 3), dtype=np.uint8)  # an index beyond a short palette is black
        palette[: len(colours)] = colours
        pixels = np.asarray(picture)[..., None]
        return Raster(pixels, palette, alpha=_is_seen(picture, pixels))
    if mode in ("L", "I;16", "I", "F", "I;16B", "I;16L"):
        pixels = np.asarray(picture)[..., None]
        return Raster(pixels, alpha=_is_seen(picture, pixels))
    if mode == "LA":
        pixels = np.ascontiguousarray(np.asarray(picture)[..., :1])
        return Raster(pixels, alpha=_shows_through(picture))
    if mode == "RGBX":  # four samples, the last one not said to be alpha: data
        return Raster(np.ascontiguousarray(np.asarray(picture)))
    if mode == "RGB":
        pixels = np.ascontiguousarray(np.asarray(picture))
        return Raster(pixels, alpha=_is_seen(picture, pixels))
    if mode in ("RGBA", "PA", "RGBa"):
        rgba = picture if mode == "RGBA" else picture.convert("RGBA")
        pixels = np.ascontiguousarray(np.asarray(rgba)[..., :3])
        return Raster(pixels, alpha=_shows_through(rgba))
    if mode in ("CMYK", "YCbCr", "LAB"):
        return Raster(np.asarray(picture.convert("RGB")))
    raise ValueError(f"has the colour mode {mode}, which is not read")


def _shows_through(picture: Image.Image) -> bool:
    """Whether the alpha channel of a picture is not opaque everywhere."""
    lowest, _ = picture.getchannel("A").getextrema()
    return bool(lowest != 255)


def _is_seen(picture: Image.Image, pixels: npt.NDArray[Any]) -> bool:
    """Whether any of `pixels` (H, W, C) has the colour or the index that is called transparent."""
    transparent = picture.info.get("transparency")
    if transparent is None:
        return False
    if isinstance(transparent, bytes):  # the alpha of each index, those that are left out opaque
        alpha = np.frombuffer(transparent.ljust(256, b"\xff")[:256], np.uint8)
        return bool((alpha[pixels] != 255).any())
    return bool((pixels == np.array(transparent)).all(axis=2).any())
