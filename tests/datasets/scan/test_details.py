"""The details of a picture, kept by content once they were asked for."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.datasets.scan.cases import one, photo, write_pairs
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.images import read_image
from unet_pipeline.datasets.scan import PairScan, ScanStore, reading
from unet_pipeline.datasets.scan.picture_hash import details_of
from unet_pipeline.datasets.scan.store import FILE_NAME
from unet_pipeline.errors import ResourceError


@pytest.fixture
def scans(tmp_path: Path) -> list[PairScan]:
    return [one(pair) for pair in write_pairs(tmp_path, 2)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    read = reading.read_bytes

    def opening(path: Path) -> bytes:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(reading, "read_bytes", opening)
    return names


def details(folder: Path, scan: PairScan) -> npt.NDArray[np.float16] | None:
    """As the check of another day asks for them."""
    with ScanStore(folder / "cache") as store:
        return store.details(scan)


def path_of(scan: PairScan) -> Path:
    assert isinstance(scan.pair.image, Path)
    return scan.pair.image


def test_they_are_read_once(tmp_path: Path, scans: list[PairScan], opened: list[str]) -> None:
    """Those of a video were read anew by each check, which took most of its time."""
    fresh, kept = details(tmp_path, scans[0]), details(tmp_path, scans[0])
    assert opened == [path_of(scans[0]).name]
    assert fresh is not None
    assert kept is not None
    np.testing.assert_array_equal(fresh, kept)
    np.testing.assert_array_equal(fresh, details_of(read_image(path_of(scans[0]))))
    other = details(tmp_path, scans[1])
    assert other is not None
    assert not np.array_equal(fresh, other)


@pytest.mark.parametrize("fault", ["gone", "another"])
def test_those_of_a_changed_file_are_not_kept(
    tmp_path: Path, scans: list[PairScan], fault: str
) -> None:
    path, former = path_of(scans[0]), path_of(scans[0]).read_bytes()
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(path_of(scans[1]).read_bytes())
    assert details(tmp_path, scans[0]) is None
    path.write_bytes(former)
    mine, theirs = details(tmp_path, scans[0]), details(tmp_path, scans[1])
    assert mine is not None
    assert theirs is not None
    assert not np.array_equal(mine, theirs)


def test_damaged_ones_are_read_anew(
    tmp_path: Path, scans: list[PairScan], opened: list[str]
) -> None:
    fresh = details(tmp_path, scans[0])
    database = sqlite3.connect(tmp_path / "cache" / FILE_NAME)
    with database:
        database.execute("UPDATE scans SET record = zeroblob(100) WHERE topic LIKE '%details'")
    database.close()
    again = details(tmp_path, scans[0])
    assert len(opened) == 2
    assert fresh is not None
    assert again is not None
    np.testing.assert_array_equal(fresh, again)


@dataclass(frozen=True)
class Drawn:
    """A picture that is no file."""

    seed: int
    source: str = "drawn"

    def digest(self) -> bytes:
        return bytes([self.seed] * 16)

    def pixels(self) -> npt.NDArray[np.uint8]:
        pixels: npt.NDArray[np.uint8] = photo(self.seed)
        return pixels


def test_those_of_what_is_no_file_are_kept_too(
    tmp_path: Path, scans: list[PairScan], monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = tmp_path / "mask.png"
    mask.write_bytes(scans[0].pair.mask.read_bytes())  # type: ignore[union-attr]
    scan = one(Pair("drawn", Drawn(3), mask))  # type: ignore[arg-type]
    fresh = details(tmp_path, scan)
    monkeypatch.setattr(Drawn, "pixels", lambda self: pytest.fail("was drawn again"))
    kept = details(tmp_path, scan)
    assert fresh is not None
    assert kept is not None
    np.testing.assert_array_equal(fresh, kept)


def test_a_lack_of_memory_is_one_clear_error(
    tmp_path: Path, scans: list[PairScan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(data: bytes, **options: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(reading, "decode_image", too_much)
    with pytest.raises(ResourceError, match="not enough memory to decode it"):
        details(tmp_path, scans[0])
