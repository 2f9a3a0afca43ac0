"""Which pictures are found to be equal, and which nearly so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tests.datasets.scan.cases import one, photo
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.file_kind import FileKind
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.scan.pixels import scan_image


def test_equal_pixels_have_one_digest_whatever_their_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 41, 3), dtype=np.uint8)
    mask = tmp_path / "mask.png"
    mask.write_bytes(encode_png(np.zeros((37, 41), np.uint8)))
    digests = set()
    for suffix in ("png", "bmp", "tif", "webp"):
        path = tmp_path / f"image.{suffix}"
        Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == "webp" else {}))
        digests.add(one(Pair("a", path, mask)).image.picture)
    assert len(digests) == 1


def test_pictures_with_the_same_values_elsewhere_differ_in_their_digest() -> None:
    digests = set()
    for place in range(64 * 64):
        image = np.zeros((64, 64, 1), np.uint8)
        image.flat[place] = 200
        digests.add(scan_image(image, FileKind("png"))[0].picture)
    assert len(digests) == 64 * 64


def hash_of(image: Any) -> int:
    return scan_image(np.ascontiguousarray(image), FileKind("png"))[0].phash


def test_a_picture_changed_a_little_keeps_its_perceptual_hash() -> None:
    for seed in range(10):
        image = photo(seed)
        brighter = np.clip(image.astype(float) * 1.1 + 8, 0, 255).astype(np.uint8)
        smaller = cv2.resize(image, (131, 97), interpolation=cv2.INTER_AREA)
        jpeg = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 1)
        wide = image.astype(np.uint16) * 200
        for changed in (brighter, smaller, jpeg, wide):
            assert (hash_of(image) ^ hash_of(changed)).bit_count() <= 6


def test_other_pictures_have_other_perceptual_hashes() -> None:
    hashes = [hash_of(photo(seed)) for seed in range(30)]
    nearest = min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i])
    assert nearest > 10


def test_a_flat_picture_has_no_perceptual_hash() -> None:
    assert hash_of(np.full((50, 60, 3), 7, np.uint8)) == 0
