"""One file read: what its head says, its alpha, and nothing that depends on the clock."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.scan.cases import one, photo, saved, write_pairs
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.scan import reading, scan_pair
from unet_pipeline.datasets.scan.reading import read_part
from unet_pipeline.errors import ResourceError


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_the_orientation_and_the_stored_size_are_told(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(photo(1, 64)[:, :40])
    path = saved(tmp_path / f"a.{suffix}", image, exif=exif(6))
    mask = saved(tmp_path / "m.png", Image.new("L", (64, 40)))
    scan = one(Pair("a", path, mask)).image
    assert (scan.orientation, scan.stored_size) == (6, (64, 40))
    assert (scan.height, scan.width) == (40, 64)
    assert scan.kind == {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGBA", "png"), ("RGBA", "webp"), ("RGBA", "tif"), ("LA", "png"), ("LA", "tif")],
)  # WebP has no grey
def test_alpha_that_is_opaque_says_nothing(tmp_path: Path, suffix: str, mode: str) -> None:
    picture = Image.new(mode, (30, 20), (9, 255) if mode == "LA" else (9, 9, 9, 255))
    picture.putpixel((0, 0), (1, 255) if mode == "LA" else (1, 2, 3, 255))
    mask = saved(tmp_path / "m.png", Image.new("L", (30, 20)))
    path = saved(tmp_path / f"opaque.{suffix}", picture)
    assert not one(Pair("a", path, mask)).image.alpha
    picture.putpixel((3, 4), (0, 254) if mode == "LA" else (0, 0, 0, 254))
    path = saved(
        tmp_path / f"clear.{suffix}", picture, **({"exact": True} if suffix == "webp" else {})
    )
    assert one(Pair("a", path, mask)).image.alpha


def test_a_transparent_palette_colour_is_alpha_where_it_is_used(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image = saved(tmp_path / "i.png", Image.new("L", (2, 2)))
    for transparent, expected in ((1, True), (5, False)):
        path = saved(tmp_path / f"{transparent}.png", picture, transparency=transparent)
        assert one(Pair("a", image, path)).mask.alpha is expected


def test_bits_are_those_of_the_file(tmp_path: Path) -> None:
    image = saved(tmp_path / "i.png", Image.new("L", (8, 4)))
    one_bit = saved(tmp_path / "1.png", Image.new("1", (8, 4)))
    wide = tmp_path / "16.png"
    wide.write_bytes(encode_png(np.ones((4, 8), np.uint16)))
    bilevel = saved(tmp_path / "1.tif", Image.new("1", (8, 4)))
    array = tmp_path / "a.npy"
    np.save(array, np.ones((4, 8), np.uint16))
    seen = [
        (scan.bits, scan.wide, scan.kind)
        for path in (one_bit, wide, bilevel, array)
        for scan in [one(Pair("a", image, path)).mask]
    ]
    assert seen == [
        (1, False, "png"), (16, True, "png"), (1, False, "tiff"), (16, True, "npy"),
    ]  # fmt: skip


def test_reading_is_free_of_the_clock(tmp_path: Path) -> None:
    """What is read of a file depends on its content alone."""
    pair = write_pairs(tmp_path, 1)[0]
    assert isinstance(pair.image, Path)
    first = read_part("image", pair.image, (), lambda *_: None)
    time.sleep(0.02)
    pair.image.touch()
    second = read_part("image", pair.image, (), lambda *_: None)
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    assert (first.key, first.record) == (second.key, second.record)
    assert first.stamp != second.stamp


def test_too_little_memory_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = write_pairs(tmp_path, 1)[0]

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(reading, "decode_image_and_alpha", fail)
    with pytest.raises(ResourceError, match=r"0\.jpg: there is not enough memory"):
        scan_pair(pair)
