"""Whether the alpha that is dropped from a picture carried information, in every format."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.datasets.image_cases import chunk, raw_png, saved
from unet_pipeline.datasets.images import decode_image_and_alpha, decode_mask

RGB = np.random.default_rng(0).integers(1, 200, (6, 8, 3), dtype=np.uint8)


def with_alpha(alpha: int, dtype: type = np.uint8) -> np.ndarray:
    """RGBA of the full alpha but for one pixel, whose is `alpha`."""
    full = 1 if dtype is np.float32 else np.iinfo(dtype).max
    rgba = np.dstack([RGB.astype(dtype), np.full(RGB.shape[:2], full, dtype)])
    rgba[2, 3, 3] = alpha
    return rgba


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    given = {"photometric": "rgb", "extrasamples": ["unassalpha"], **options}
    tifffile.imwrite(file, pixels, **given)
    return file.getvalue()


def wide_png(color: int, pixels: np.ndarray, *extra: bytes) -> bytes:
    rows = [row.astype(">u2").tobytes() for row in pixels]
    return raw_png(rows, pixels.shape[1], 16, color, *extra)


def transparent(*levels: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(levels)}H", *levels))


def indexed(transparency: object, kind: str = "PNG") -> bytes:
    """A palette picture of the indices 0, 1 and 2."""
    picture = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), "L")
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    file = io.BytesIO()
    picture.save(file, format=kind, transparency=transparency)
    return file.getvalue()


WIDE = RGB.astype(np.uint16) * 300
PAIRS: dict[str, Callable[[bool], bytes]] = {
    "png rgba": lambda clear: saved(with_alpha(254 if clear else 255)),
    "png la": lambda clear: saved(with_alpha(0 if clear else 255), "LA"),
    "png rgba 16": lambda clear: wide_png(6, with_alpha(65534 if clear else 65535, np.uint16)),
    "png la 16": lambda clear: wide_png(
        4, with_alpha(0 if clear else 65535, np.uint16)[..., [0, 3]]
    ),
    "png rgb": lambda clear: saved(
        RGB, transparency=tuple(RGB[1, 2].tolist()) if clear else (250, 0, 0)
    ),
    "png grey": lambda clear: saved(RGB[..., 0], transparency=int(RGB[1, 2, 0]) if clear else 250),
    "png rgb 16": lambda clear: wide_png(
        2, WIDE, transparent(*WIDE[1, 2].tolist() if clear else (5, 5, 5))
    ),
    "png grey 16": lambda clear: wide_png(
        0, WIDE[..., 0], transparent(int(WIDE[1, 2, 0]) if clear else 5)
    ),
    "png grey 2": lambda clear: raw_png([b"\x1b"], 3, 2, 0, transparent(1 if clear else 3)),
    "png grey 1": lambda clear: raw_png([b"\xff"], 8, 1, 0, transparent(1 if clear else 0)),
    "png index": lambda clear: indexed(1 if clear else 3),
    "png indices": lambda clear: indexed(b"\xff\x80" if clear else b"\xff\xff\xff\x80"),
    "gif": lambda clear: indexed(1 if clear else 3, "GIF"),
    "webp": lambda clear: saved(
        with_alpha(200 if clear else 255), format="WEBP", lossless=True, exact=True
    ),
    "tiff": lambda clear: tiff(with_alpha(254 if clear else 255)),
    "tiff 16": lambda clear: tiff(with_alpha(0 if clear else 65535, np.uint16)),
    "tiff planes": lambda clear: tiff(
        np.moveaxis(with_alpha(0 if clear else 255), 2, 0), planarconfig="separate"
    ),
    "tiff float": lambda clear: tiff(with_alpha(0 if clear else 1, np.float32)),
    "tiff lzw": lambda clear: saved(
        with_alpha(9 if clear else 255), format="TIFF", compression="tiff_lzw"
    ),
    "tiff grey": lambda clear: tiff(
        with_alpha(9 if clear else 255)[..., [0, 3]], photometric="minisblack"
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_alpha_is_told_where_a_pixel_is_not_opaque(name: str) -> None:
    told = []
    for clear in (True, False):
        image = decode_image_and_alpha(PAIRS[name](clear), source=name)
        assert image.pixels.shape[2] in (1, 3)
        told.append(image.alpha)
    assert told == [True, False]


def test_alpha_of_a_mask_is_told() -> None:
    for alpha in (255, 254):
        grey = np.repeat(with_alpha(alpha)[..., :1], 3, axis=2)
        mask = decode_mask(saved(np.dstack([grey, with_alpha(alpha)[..., 3]])), source="m")
        assert (mask.values.ndim, mask.alpha) == (2, alpha == 254)
    colored = decode_mask(saved(with_alpha(0)), source="m")
    assert (colored.values.ndim, colored.alpha) == (3, True)


def test_a_fourth_channel_of_data_is_no_alpha() -> None:
    image = decode_image_and_alpha(
        tiff(with_alpha(3), extrasamples=["unspecified"]), source="infrared"
    )
    assert (image.pixels.shape[2], image.alpha) == (4, False)
