from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.images import (
    decode_mask,
    read_image,
    read_mask,
)
from unet_pipeline.datasets.made import write_made
from unet_pipeline.datasets.scan import content
from unet_pipeline.errors import DatasetError


@dataclass(frozen=True)
class Noise:
    """Random pixels that no file holds."""

    seed: int
    shape: tuple[int, ...] = (9, 7)
    dtype: str = "uint8"

    @property
    def source(self) -> str:
        return f"noise {self.seed}"

    def digest(self) -> bytes:
        return hashlib.blake2b(repr(self).encode(), digest_size=16).digest()

    def pixels(self) -> np.ndarray:
        values = np.random.default_rng(self.seed).random(self.shape) * 3
        return values.astype(self.dtype)


def test_what_is_made_becomes_files_and_the_rest_stays(tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    photo.write_bytes(encode_png(np.zeros((9, 7, 3), np.uint8)))
    pairs = [Pair("a", photo, Noise(1)), Pair("b/c", Noise(2, (9, 7, 3)), Noise(3)),
             Pair("d", photo, photo)]  # fmt: skip
    seen: list[tuple[int, int]] = []
    first, second, third = write_made(
        pairs, tmp_path / "out", on_progress=lambda done, total: seen.append((done, total))
    )
    assert first.image == photo
    assert third == pairs[2]
    assert first.mask == tmp_path / "out/masks/a.png"
    assert second.image == tmp_path / "out/images/b/c.png"
    np.testing.assert_array_equal(read_mask(first.mask), Noise(1).pixels())
    np.testing.assert_array_equal(read_image(second.image), Noise(2, (9, 7, 3)).pixels())
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("shape", "dtype", "suffix"),
    [
        ((9, 7, 1), "uint8", ".png"),
        ((9, 7, 3), "uint16", ".png"),
        ((9, 7, 2), "uint8", ".tif"),
        ((9, 7, 5), "uint16", ".tif"),
        ((9, 7, 1), "float32", ".tif"),
        ((9, 7, 3), "float32", ".tif"),
        ((9, 70, 4), "float32", ".tif"),
    ],
)
def test_images_of_any_kind_come_back_exactly(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, suffix: str
) -> None:
    made = Noise(4, shape, dtype)
    (pair,) = write_made([Pair("x", made, Noise(1))], tmp_path)
    assert isinstance(pair.image, Path)
    assert pair.image.suffix == suffix
    pixels = read_image(pair.image)
    np.testing.assert_array_equal(pixels, made.pixels())
    assert pixels.dtype == dtype


def test_masks_are_shown_in_the_colours_of_their_classes(tmp_path: Path) -> None:
    colors = [(0, 0, 0), (200, 30, 10), (5, 6, 250)]
    (pair,) = write_made([Pair("x", Noise(2, (9, 7, 3)), Noise(1))], tmp_path, palette=colors)
    assert isinstance(pair.mask, Path)
    mask = decode_mask(pair.mask.read_bytes(), source="mask")
    assert mask.palette is not None
    assert mask.palette[:3].tolist() == [list(color) for color in colors]
    np.testing.assert_array_equal(mask.values, Noise(1).pixels())


def test_by_digest_files_are_written_once(tmp_path: Path) -> None:
    pairs = [Pair("a", Noise(2, (9, 7, 3)), Noise(1)), Pair("b", Noise(2, (9, 7, 3)), Noise(3))]
    first, second = write_made(pairs, tmp_path, by_digest=True)
    assert first.image == second.image
    assert first.mask != second.mask
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert write_made(pairs, tmp_path, by_digest=True) == [first, second]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == before


def test_other_rules_give_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [Pair("a", Noise(2, (9, 7, 3)), Noise(1))]
    first = write_made(pairs, tmp_path, by_digest=True)
    monkeypatch.setattr(content, "MADE_RULES", "2")
    second = write_made(pairs, tmp_path, by_digest=True)
    assert first[0].mask != second[0].mask


@pytest.mark.parametrize("name", ["../a", "a/../../b", "..", "/"])
def test_no_sample_id_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="rename the image"):
        write_made([Pair(name, Noise(1, (3, 3, 1)), Noise(1))], tmp_path / "out")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
