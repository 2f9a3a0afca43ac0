"""Arrays -> the bytes of image files that give them back exactly."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from unet_pipeline.datasets.images import Color, ImageArray


def encode_lossless(pixels: ImageArray) -> tuple[str, bytes]:
    """Suffix and bytes of a file of (H, W, C): PNG where that can hold it, else TIFF."""
    if pixels.dtype != np.float32 and pixels.shape[2] in (1, 3):
        return ".png", encode_png(pixels)  # type: ignore[arg-type]
    return ".tif", encode_tiff(pixels)


def encode_tiff(pixels: npt.NDArray[Any]) -> bytes:
    """A TIFF file of (H, W) or (H, W, C), any type; the pixels come back exactly."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels,
        photometric="rgb" if pixels.shape[2:] == (3,) else "minisblack",
        planarconfig="contig" if pixels.ndim == 3 else None,
        compression="zlib",
    )
    return file.getvalue()


def encode_png(
    array: npt.NDArray[np.uint8 | np.uint16], palette: Sequence[Color] | None = None
) -> bytes:
    """A PNG file of (H, W) or (H, W, 3), 8 or 16 bits; the pixels come back exactly.

    palette: colours for the values of an 8-bit (H, W) array, which viewers then show; values
        beyond it are white.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype == np.uint16:
        # Pillow has no 16-bit colour; OpenCV orders colours blue, green, red
        picture = array[..., ::-1] if array.ndim == 3 else array
        return bytes(cv2.imencode(".png", np.ascontiguousarray(picture))[1])
    image = Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        # All 256: of a shorter palette Pillow makes 1, 2 or 4 bits a pixel, which cut a void 255
        padded = [*palette, *[(255, 255, 255)] * (256 - len(palette))]
        image.putpalette([level for color in padded for level in color])
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
