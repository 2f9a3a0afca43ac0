"""Files to be scanned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.scan import BadPair, PairScan, ScanStore, scan_pair, scan_pairs


def write_pairs(folder: Path, count: int, *, side: int = 40) -> list[Pair]:
    pairs = []
    for number in range(count):
        rng = np.random.default_rng(number)
        image, mask = folder / f"{number}.jpg", folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(image)
        mask.write_bytes(encode_png(rng.integers(0, 3, (side, side)).astype(np.uint8)))
        pairs.append(Pair(str(number), image, mask))
    return pairs


def read_all(pairs: list[Pair], folder: Path, **options: Any) -> list[PairScan | BadPair]:
    with ScanStore(folder) as store:
        return list(scan_pairs(pairs, store=store, **options))


def one(pair: Pair) -> PairScan:
    scan = scan_pair(pair)
    assert isinstance(scan, PairScan)
    return scan


def photo(seed: int, side: int = 200) -> Any:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (side, side, 3)), (0, 0), side / 20)
    return np.clip(128 + noise * 50 / noise.std(), 0, 255).astype(np.uint8)


def saved(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path
