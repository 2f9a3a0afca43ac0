"""Every file of a dataset read once: in which order, by whom, and what a broken one does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.datasets.scan.cases import one, read_all, write_pairs
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.images import decode_image, decode_mask
from unet_pipeline.datasets.scan import BadPair, PairScan, content, scan_pair
from unet_pipeline.datasets.scan import pairs as pairs_module
from unet_pipeline.datasets.scan.workers import Workers
from unet_pipeline.errors import DatasetError


@dataclass(frozen=True)
class Drawn:
    """A mask that no file holds."""

    source: str
    value: int

    def digest(self) -> bytes:
        return hashlib.blake2b(bytes([self.value]), digest_size=16).digest()

    def pixels(self) -> Any:
        if self.value == 13:
            raise DatasetError(f"{self.source}: cannot be drawn")
        return np.full((4, 5), self.value, np.uint8)


def test_scans_come_in_the_order_of_the_pairs(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, 30, side=8)
    seen: list[tuple[int, int]] = []
    scans = read_all(pairs, tmp_path / "cache", on_progress=lambda *at: seen.append(at))
    assert [scan.pair for scan in scans] == pairs
    assert seen == [(done, 30) for done in range(1, 31)]
    assert scans == [scan_pair(pair) for pair in pairs]


def test_processes_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = write_pairs(tmp_path, 40)
    pairs[20].mask.write_bytes(b"not a picture")  # type: ignore[union-attr]
    alone = read_all(pairs, tmp_path / "first")
    monkeypatch.setattr(pairs_module, "_TRIAL_S", 0)
    monkeypatch.setattr(pairs_module, "_WORTHWHILE_S", 0)
    monkeypatch.setattr(pairs_module, "num_cores", lambda: 2)
    started: list[int] = []
    monkeypatch.setattr(
        pairs_module, "Workers", lambda *given: started.append(given[0]) or Workers(*given)
    )
    assert read_all(pairs, tmp_path / "second") == alone
    assert started == [2]


def test_both_broken_files_of_a_pair_are_named(tmp_path: Path) -> None:
    good = write_pairs(tmp_path, 1)[0]
    broken, empty = tmp_path / "broken.jpg", tmp_path / "empty.png"
    broken.write_bytes(good.image.read_bytes()[:200])  # type: ignore[union-attr]
    empty.touch()
    pairs = [
        Pair("a", broken, empty),
        good,
        Pair("b", good.image, empty),
        Pair("c", broken, good.mask),
    ]
    scans = read_all(pairs, tmp_path / "cache")
    both, fine, mask, image = scans
    assert isinstance(both, BadPair)
    assert str(broken) in str(both.image)
    assert str(empty) in str(both.mask)
    assert len(both.reasons) == 2
    assert isinstance(fine, PairScan)
    assert isinstance(mask, BadPair)
    assert (mask.image, len(mask.reasons)) == (None, 1)
    assert isinstance(image, BadPair)
    assert (image.mask, len(image.reasons)) == (None, 1)


def test_what_is_made_is_scanned_and_remembered(tmp_path: Path, monkeypatch: Any) -> None:
    image = write_pairs(tmp_path, 1)[0].image
    pairs = [Pair("a", image, Drawn("x.json", 2)), Pair("b", image, Drawn("y.json", 13))]
    first, bad = read_all(pairs, tmp_path / "cache")
    assert isinstance(first, PairScan)
    assert (first.mask.counts, first.mask.kind) == ({2: 20}, "made")
    assert isinstance(bad, BadPair)
    assert bad.reasons == ("y.json: cannot be drawn",)
    monkeypatch.setattr(Drawn, "pixels", lambda self: pytest.fail("was drawn again"))
    assert read_all(pairs[:1], tmp_path / "cache") == [first]


def test_what_is_made_is_remembered_where_values_are_to_be_kept(
    tmp_path: Path, monkeypatch: Any
) -> None:
    pairs = [Pair("a", write_pairs(tmp_path, 1)[0].image, Drawn("x.json", 2))]
    first = read_all(pairs, tmp_path / "cache", keep=[255])
    monkeypatch.setattr(Drawn, "pixels", lambda self: pytest.fail("was drawn again"))
    assert read_all(pairs, tmp_path / "cache", keep=[255]) == first


def test_what_is_made_by_other_rules_is_made_again(tmp_path: Path, monkeypatch: Any) -> None:
    pairs = [Pair("a", write_pairs(tmp_path, 1)[0].image, Drawn("x.json", 2))]
    (first,) = read_all(pairs, tmp_path / "cache")
    monkeypatch.setattr(Drawn, "pixels", lambda self: np.full((4, 5), 3, np.uint8))
    assert read_all(pairs, tmp_path / "cache") == [first]
    monkeypatch.setattr(content, "MADE_RULES", "2")
    (second,) = read_all(pairs, tmp_path / "cache")
    assert isinstance(first, PairScan)
    assert isinstance(second, PairScan)
    assert second.mask.counts == {3: 20}
    assert second.image.key == first.image.key
    (plain,) = write_pairs(tmp_path, 1)
    assert one(plain).content == content.content_digest(one(plain).image.key, one(plain).mask.key)


# ---- real data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "images", "masks"),
    [
        ("camvid", "train/*.png", "trainannot/*.png"),
        ("wbc1", "images/*.bmp", "masks/*.png"),
        ("isbi_membrane", "train/image/*.png", "train/label/*.png"),
        ("dsb2018_mini", "images/*.png", "masks_instance_u16/*.png"),
    ],
)
def test_real_folders_are_read_as_decoders_do(
    real_data: Callable[[str], Path], tmp_path: Path, name: str, images: str, masks: str
) -> None:
    root = real_data(name)
    sides = (sorted(root.glob(pattern))[:6] for pattern in (images, masks))
    pairs = [Pair(a.stem, a, b) for a, b in zip(*sides, strict=True)]
    for pair, scan in zip(pairs, read_all(pairs, tmp_path), strict=True):
        assert isinstance(scan, PairScan)
        assert isinstance(pair.image, Path)
        assert isinstance(pair.mask, Path)
        image = decode_image(pair.image.read_bytes(), source="")
        mask = decode_mask(pair.mask.read_bytes(), source="").values
        assert scan.image.sums == tuple(image.sum(axis=(0, 1), dtype=np.int64).tolist())
        assert sum(scan.mask.counts.values()) == mask.shape[0] * mask.shape[1]
        assert scan.image.phash
