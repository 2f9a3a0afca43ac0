from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from unet_pipeline.datasets.duplicates import (
    equal_pictures,
    near_duplicate_findings,
    near_duplicates,
)
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.scan import PairScan, ScanStore, scan_pairs


def photo(seed: int, side: int = 96) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def scans_of(folder: Path, pictures: dict[str, np.ndarray], store: ScanStore) -> list[PairScan]:
    pairs = []
    for number, (name, pixels) in enumerate(pictures.items()):
        image, mask = folder / f"{name}.png", folder / f"{name}_mask.png"
        image.write_bytes(encode_png(pixels))
        values = np.zeros(pixels.shape[:2], np.uint8)
        values[: number + 2] = 1
        mask.write_bytes(encode_png(values))
        pairs.append(Pair(name, image, mask))
    return [s for s in scan_pairs(pairs, store=store, keep=[]) if isinstance(s, PairScan)]


def changed(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """One picture as it comes back from other hands."""
    jpeg = cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 1)
    return {
        "jpeg": jpeg,
        "smaller": cv2.resize(pixels, (48, 48), interpolation=cv2.INTER_AREA),
        "darker": (pixels * 0.7 + 5).astype(np.uint8),
        "cut": np.ascontiguousarray(pixels[1:-1, 1:-1]),
    }


def test_a_picture_changed_a_little_is_found_and_others_are_not(tmp_path: Path) -> None:
    others = {f"other{seed}": photo(seed) for seed in range(1, 40)}
    pictures = {"one": photo(0), **changed(photo(0)), **others}
    with ScanStore() as store:
        scans = scans_of(tmp_path, pictures, store)
        found = near_duplicates(scans, store.thumbnail)
    names = {frozenset(scans[i].pair.sample_id for i in like[:2]) for like in found}
    assert {frozenset({"one", name}) for name in changed(photo(0))} <= names
    assert not any(name.startswith("other") for pair in names for name in pair)


def test_equal_pictures_are_told_as_equal_not_as_similar(tmp_path: Path) -> None:
    with ScanStore() as store:
        scans = scans_of(tmp_path, {"a": photo(0), "b": photo(0), "c": photo(1)}, store)
        assert near_duplicates(scans, store.thumbnail) == []
    codes = {f.code: f for f in equal_pictures(scans, ["train", "val", "train"])}
    assert codes["duplicates-cross-splits"].examples == ("a = b",)
    assert codes["contradicting-masks"].count == 1
    assert "duplicates" not in codes
    codes = {f.code: f for f in equal_pictures(scans, ["train", "train", "train"])}
    assert codes["duplicates"].examples == ("a = b",)


def test_flat_pictures_are_like_nothing(tmp_path: Path) -> None:
    pictures = {f"{level}": np.full((40, 40, 3), level, np.uint8) for level in (0, 90, 255)}
    with ScanStore() as store:
        scans = scans_of(tmp_path, pictures, store)
        assert near_duplicates(scans, store.thumbnail) == []


def test_similar_pictures_across_splits_are_a_warning(tmp_path: Path) -> None:
    with ScanStore() as store:
        scans = scans_of(tmp_path, {"a": photo(0), "b": changed(photo(0))["jpeg"]}, store)
        likenesses = near_duplicates(scans, store.thumbnail)
    (finding,) = near_duplicate_findings(scans, ["train", "test"], likenesses)
    assert (finding.code, finding.severity) == ("near-duplicates-cross-splits", "warning")
    assert finding.examples == ("a ~ b",)
    assert finding.message.startswith("2 pictures are nearly equal")
    (finding,) = near_duplicate_findings(scans, ["train", "train"], likenesses)
    assert (finding.code, finding.severity) == ("near-duplicates", "note")


def test_a_video_is_few_groups_and_not_all_its_pairs(tmp_path: Path) -> None:
    frames = {}
    for number in range(60):
        frame = photo(number % 2).copy()
        frame[:6, :6] = number
        frames[f"f{number:02d}"] = frame
    with ScanStore() as store:
        scans = scans_of(tmp_path, frames, store)
        likenesses = near_duplicates(scans, store.thumbnail)
    assert len(likenesses) == 2 * 30 * 29 // 2
    splits = ["train" if n < 40 else "val" for n in range(60)]
    (finding,) = near_duplicate_findings(scans, splits, likenesses)
    assert finding.count == 2
    assert "60 pictures" in finding.message
    assert "in 2 groups" in finding.message
    assert all(int(e[1:3]) < 40 <= int(e[-2:]) for e in finding.examples)
