from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from unet_pipeline.datasets.duplicates import (
    MAX_BITS,
    MIN_CORRELATION,
    equal_pictures,
    near_duplicate_findings,
    near_duplicates,
)
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.images import read_image
from unet_pipeline.datasets.scan import ImageScan, PairScan, ScanStore, scan_pairs


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
        found = near_duplicates(scans, store.thumbnail, store.details)
    names = {frozenset(scans[i].pair.sample_id for i in like[:2]) for like in found}
    assert {frozenset({"one", name}) for name in changed(photo(0))} <= names
    assert not any(name.startswith("other") for pair in names for name in pair)


def unknown(scan: PairScan) -> None:
    """Pictures that cannot be read any more."""


def not_asked(scan: PairScan) -> None:
    pytest.fail(f"{scan.pair.sample_id} was compared")


def test_of_equal_pictures_one_stands_for_all(tmp_path: Path) -> None:
    """Every one with every one, a folder of one picture 72,000 times took hours."""
    with ScanStore() as store:
        (scan,) = scans_of(tmp_path, {"a": photo(0)}, store)
    assert near_duplicates([scan] * 50, not_asked, not_asked) == []


def test_equal_pictures_are_told_as_equal_not_as_similar(tmp_path: Path) -> None:
    with ScanStore() as store:
        scans = scans_of(tmp_path, {"a": photo(0), "b": photo(0), "c": photo(1)}, store)
        assert near_duplicates(scans, store.thumbnail, store.details) == []
    codes = {f.code: f for f in equal_pictures(scans, ["train", "val", "train"])}
    assert codes["duplicates-cross-splits"].examples == ("a = b",)
    assert codes["contradicting-masks"].count == 1
    assert "duplicates" not in codes
    codes = {f.code: f for f in equal_pictures(scans, ["train", "train", "train"])}
    assert codes["duplicates"].examples == ("a = b",)


def test_pictures_that_are_alike_at_large_alone_are_not_one(tmp_path: Path) -> None:
    """The same in grey, so that hashes and thumbnails agree; in colour their details differ."""
    grain = cv2.resize(np.random.default_rng(1).normal(0, 12, (32, 32)), (96, 96))
    tint = np.stack([grain, np.zeros_like(grain), -grain * 0.299 / 0.114], axis=2)
    large = photo(0) * 0.3 + 90.0
    one, other = (np.rint(large + sign * tint).astype(np.uint8) for sign in (1, -1))
    pictures = {"one": one, "other": other, "again": changed(one)["darker"]}
    with ScanStore() as store:
        scans = scans_of(tmp_path, pictures, store)
        first, second = scans[:2]
        forms = [store.thumbnail(scan) for scan in scans]
        assert np.corrcoef(*(form.ravel() for form in forms[:2]))[0, 1] > MIN_CORRELATION
        assert (first.image.phash ^ second.image.phash).bit_count() <= MAX_BITS
        found = near_duplicates(scans, store.thumbnail, store.details)
    pairs = {tuple(scans[i].pair.sample_id for i in like[:2]) for like in found}
    assert ("one", "again") in pairs
    assert not any("other" in pair for pair in pairs)


def test_two_cells_with_backgrounds_of_their_own_are_no_leak(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = real_data("wbc1") / "images"
    paths = [next(folder.glob(f"{name}.*")) for name in ("079", "290")]
    cells = {path.stem: read_image(path) for path in paths}
    with ScanStore() as store:
        scans = scans_of(tmp_path, {**cells, **changed(cells["079"])}, store)
        found = near_duplicates(scans, store.thumbnail, store.details)
    pairs = {tuple(scans[i].pair.sample_id for i in like[:2]) for like in found}
    assert {("079", name) for name in changed(cells["079"])} <= pairs
    assert not any("290" in pair for pair in pairs)


def test_flat_pictures_are_like_nothing(tmp_path: Path) -> None:
    pictures = {f"{level}": np.full((64, 64, 3), level, np.uint8) for level in (0, 90, 255)}
    with ScanStore() as store:
        scans = scans_of(tmp_path, pictures, store)
        assert near_duplicates(scans, store.thumbnail, store.details) == []
        assert near_duplicates(scans, not_asked, not_asked) == []


def test_pictures_of_one_colour_are_no_duplicates(tmp_path: Path) -> None:
    glass = np.full((30, 40, 3), (240, 240, 242), np.uint8)
    dust = glass.copy()
    dust[3, 4] += 1
    pictures = {"a": glass, "b": glass, "c": dust, "d": dust, "e": glass[..., :1], "f": glass // 99}
    with ScanStore() as store:
        scans = scans_of(tmp_path, {**pictures, "g": glass[..., :1]}, store)
    assert [s.image.is_flat for s in scans] == [True, True, False, False, True, True, True]
    findings = list(equal_pictures(scans, ["train"] * 7))
    assert {f.examples for f in findings} == {("c = d",)}


def test_deep_pictures_are_of_one_colour_only_if_all_pixels_are(tmp_path: Path) -> None:
    flat = np.full((300, 300, 3), (60_000, 59_999, 3), np.uint16)
    spots = flat.copy()
    spots[0, 0, 0] += 1
    spots[9, 9, 0] -= 1  # the mean is a whole number still
    with ScanStore() as store:
        scans = scans_of(tmp_path, {"flat": flat, "spots": spots}, store)
    assert [s.image.is_flat for s in scans] == [True, False]


# ---- what is near -------------------------------------------------------------------------------


def with_hash(scan: PairScan, phash: int) -> PairScan:
    image = scan.image
    measures = [image.low, image.high, *image.sums, *image.squares]
    packed = ImageScan.pack(image.facts, measures, phash=phash, picture=phash.to_bytes(16, "big"))
    return replace(scan, image=packed)


@pytest.mark.parametrize(("bits", "near"), [(10, True), (11, False)])
def test_hashes_may_differ_in_ten_bits(tmp_path: Path, bits: int, near: bool) -> None:
    with ScanStore() as store:
        (scan,) = scans_of(tmp_path, {"a": photo(0)}, store)
        thumbnail = store.thumbnail(scan)
    pair = [with_hash(scan, 2**63), with_hash(scan, 2**63 + 2**bits - 1)]
    assert bool(near_duplicates(pair, lambda _: thumbnail, unknown)) is near


@pytest.mark.parametrize(("correlation", "near"), [(0.975, True), (0.965, False)])
def test_thumbnails_must_agree_too(tmp_path: Path, correlation: float, near: bool) -> None:
    with ScanStore() as store:
        (scan,) = scans_of(tmp_path, {"a": photo(0)}, store)
    across, down = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16))
    mixed = correlation * across + (1 - correlation**2) ** 0.5 * down
    forms = [np.rint(128 + 80 * form).astype(np.uint8) for form in (across, mixed)]
    assert abs(np.corrcoef(*(form.ravel() for form in forms))[0, 1] - correlation) < 0.002
    pair = [with_hash(scan, 2**63), with_hash(scan, 2**63 + 1)]
    assert bool(near_duplicates(pair, lambda one: forms[one.image.phash & 1], unknown)) is near


@pytest.mark.parametrize(("side", "near"), [(48, True), (47, False)])
def test_small_pictures_are_not_compared(tmp_path: Path, side: int, near: bool) -> None:
    pictures = {"a": photo(0, side), "b": changed(photo(0, side))["darker"]}
    with ScanStore() as store:
        scans = scans_of(tmp_path, pictures, store)
        assert bool(near_duplicates(scans, store.thumbnail, store.details)) is near


def test_similar_pictures_across_splits_are_a_warning(tmp_path: Path) -> None:
    with ScanStore() as store:
        scans = scans_of(tmp_path, {"a": photo(0), "b": changed(photo(0))["jpeg"]}, store)
        likenesses = near_duplicates(scans, store.thumbnail, store.details)
    (finding,) = near_duplicate_findings(scans, ["train", "test"], likenesses, fixed=False)
    assert (finding.code, finding.severity) == ("near-duplicates-cross-splits", "warning")
    assert finding.examples == ("a ~ b",)
    assert finding.message.startswith("2 pictures are nearly equal")
    assert "--group-regex" in finding.remedy
    (finding,) = near_duplicate_findings(scans, ["train", "test"], likenesses, fixed=True)
    assert "--" not in finding.remedy
    assert "samples.csv" in finding.remedy
    (finding,) = near_duplicate_findings(scans, ["train", "train"], likenesses, fixed=False)
    assert (finding.code, finding.severity) == ("near-duplicates", "note")


def test_a_video_is_few_groups_and_not_all_its_pairs(tmp_path: Path) -> None:
    frames = {}
    for number in range(60):
        frame = photo(number % 2).copy()
        frame[:6, :6] = number
        frames[f"f{number:02d}"] = frame
    with ScanStore() as store:
        scans = scans_of(tmp_path, frames, store)
        likenesses = near_duplicates(scans, store.thumbnail, store.details)
    assert len(likenesses) == 2 * 30 * 29 // 2
    splits = ["train" if n < 40 else "val" for n in range(60)]
    (finding,) = near_duplicate_findings(scans, splits, likenesses, fixed=False)
    assert finding.count == 2
    assert "60 pictures" in finding.message
    assert "in 2 groups" in finding.message
    assert all(int(e[1:3]) < 40 <= int(e[-2:]) for e in finding.examples)
