"""The cache of scans: what is not read again, and that no state of its file is an error."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.scan import PairScan, ScanStore, reading, scan_pairs, tables
from unet_pipeline.datasets.scan import store as store_module
from unet_pipeline.datasets.scan.store import FILE_NAME
from unet_pipeline.files import cache_folder


def write_pairs(folder: Path, count: int = 3) -> list[Pair]:
    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for number in range(count):
        rng = np.random.default_rng(number)
        image, mask = folder / f"{number}.png", folder / f"{number}_mask.png"
        Image.fromarray(rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)).save(image)
        mask.write_bytes(encode_png(rng.integers(0, 3, (24, 30)).astype(np.uint8)))
        for path in (image, mask):  # as files are that nobody is writing at this moment
            past = time.time() - 1000 - number
            os.utime(path, (past, past))
        pairs.append(Pair(str(number), image, mask))
    return pairs


def read_all(pairs: list[Pair], folder: Path, **options: Any) -> list[PairScan]:
    with ScanStore(folder) as store:
        scans = list(scan_pairs(pairs, store=store, **options))
    assert all(isinstance(scan, PairScan) for scan in scans)
    return scans  # type: ignore[return-value]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The names of the files that are opened, and of those that are decoded."""
    seen: dict[str, list[str]] = {"opened": [], "decoded": []}
    read = reading.read_bytes
    image, mask = reading.decode_image_and_alpha, reading.decode_mask

    def opening(path: Path) -> bytes:
        seen["opened"].append(path.name)
        return read(path)

    def decoding(decoder: Any) -> Any:
        def decode(data: bytes, *, source: str) -> Any:
            seen["decoded"].append(Path(source).name)
            return decoder(data, source=source)

        return decode

    monkeypatch.setattr(reading, "read_bytes", opening)
    monkeypatch.setattr(reading, "decode_image_and_alpha", decoding(image))
    monkeypatch.setattr(reading, "decode_mask", decoding(mask))
    return seen


def test_a_second_run_opens_no_file(tmp_path: Path, reads: dict[str, list[str]]) -> None:
    pairs = write_pairs(tmp_path / "data")
    first = read_all(pairs, tmp_path / "cache")
    assert len(reads["opened"]) == len(reads["decoded"]) == 6
    reads["opened"].clear()
    assert read_all(pairs, tmp_path / "cache") == first
    assert reads["opened"] == []


def test_values_to_be_kept_matter_only_where_there_are_too_many(
    tmp_path: Path, reads: dict[str, list[str]]
) -> None:
    pairs = write_pairs(tmp_path / "data")
    read_all(pairs, tmp_path / "cache")
    many = np.arange(600, dtype=np.uint16).reshape(20, 30)
    (tmp_path / "data" / "0_mask.png").write_bytes(encode_png(np.resize(many, (24, 30))))
    os.utime(tmp_path / "data" / "0_mask.png", (1e9, 1e9))
    read_all(pairs, tmp_path / "cache")
    reads["decoded"].clear()
    scans = read_all(pairs, tmp_path / "cache", keep=[599])
    assert reads["decoded"] == ["0_mask.png"]
    assert scans[0].mask.counts[599] == 1


def test_a_touched_file_is_read_and_not_decoded(tmp_path: Path, reads: Any) -> None:
    pairs = write_pairs(tmp_path / "data")
    first = read_all(pairs, tmp_path / "cache")
    reads["opened"].clear()
    reads["decoded"].clear()
    (tmp_path / "data" / "1.png").touch()
    assert read_all(pairs, tmp_path / "cache") == first
    assert (reads["opened"], reads["decoded"]) == (["1.png"], [])


def test_a_changed_file_is_read_anew_even_with_its_old_time(tmp_path: Path, reads: Any) -> None:
    pairs = write_pairs(tmp_path / "data")
    read_all(pairs, tmp_path / "cache")
    path = tmp_path / "data" / "0_mask.png"
    before = path.stat()
    with path.open("r+b") as file:  # in place: the same inode, size and time
        file.write(encode_png(np.full((24, 30), 7, np.uint8)).ljust(before.st_size, b"\0"))
        file.truncate(before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    reads["opened"].clear()
    second = read_all(pairs, tmp_path / "cache")
    assert reads["opened"] == ["0_mask.png"]
    assert second[0].mask.counts == {7: 720}


def test_a_copy_elsewhere_is_not_decoded(tmp_path: Path, reads: dict[str, list[str]]) -> None:
    pairs = write_pairs(tmp_path / "data")
    first = read_all(pairs, tmp_path / "cache")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    reads["decoded"].clear()
    copies = [
        Pair(p.sample_id, tmp_path / "copy" / p.image.name, tmp_path / "copy" / p.mask.name)  # type: ignore[union-attr]
        for p in pairs
    ]
    second = read_all(copies, tmp_path / "cache")
    assert reads["decoded"] == []
    assert [s.image for s in second] == [s.image for s in first]


def test_a_copy_is_not_decoded_where_values_are_to_be_kept(tmp_path: Path, reads: Any) -> None:
    pairs = write_pairs(tmp_path / "data")
    first = read_all(pairs, tmp_path / "cache", keep=[255])
    for name in ("0_mask.png", "1.png"):
        (tmp_path / "data" / name).touch()
    reads["decoded"].clear()
    assert read_all(pairs, tmp_path / "cache", keep=[255]) == first
    assert read_all(pairs, tmp_path / "cache", keep=[7]) == first
    assert reads["decoded"] == []


def test_masks_of_too_many_values_are_not_opened_again(tmp_path: Path, reads: Any) -> None:
    pairs = write_pairs(tmp_path / "data", 1)
    path = tmp_path / "data" / "0_mask.png"
    path.write_bytes(encode_png(np.resize(np.arange(600, dtype=np.uint16), (24, 30))))
    os.utime(path, (1e9, 1e9))
    first = read_all(pairs, tmp_path / "cache", keep=[599])
    reads["opened"].clear()
    assert read_all(pairs, tmp_path / "cache", keep=[599]) == first
    assert reads["opened"] == []
    read_all(pairs, tmp_path / "cache", keep=[598])
    assert reads["opened"] == ["0_mask.png"]


def test_a_link_to_a_folder_is_the_folder(tmp_path: Path, reads: dict[str, list[str]]) -> None:
    pairs = write_pairs(tmp_path / "data", 1)
    read_all(pairs, tmp_path / "cache")
    (tmp_path / "link").symlink_to(tmp_path / "data", target_is_directory=True)
    reads["opened"].clear()
    linked = Pair("0", tmp_path / "link" / "0.png", tmp_path / "link" / "0_mask.png")
    read_all([linked], tmp_path / "cache")
    assert reads["opened"] == []


def test_another_version_of_the_scan_reads_anew(
    tmp_path: Path, reads: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = write_pairs(tmp_path / "data", 1)
    read_all(pairs, tmp_path / "cache")
    reads["decoded"].clear()
    monkeypatch.setattr(reading, "VERSION", reading.VERSION + 1)
    read_all(pairs, tmp_path / "cache")
    assert len(reads["decoded"]) == 2


def test_a_file_written_this_moment_is_not_trusted_by_its_time(tmp_path: Path, reads: Any) -> None:
    pairs = write_pairs(tmp_path / "data", 1)
    ahead = time.time_ns()
    assert isinstance(pairs[0].image, Path)
    with ScanStore(tmp_path / "cache") as store:
        os.utime(pairs[0].image, ns=(ahead, time.time_ns()))
        list(scan_pairs(pairs, store=store))
    reads["opened"].clear()
    read_all(pairs, tmp_path / "cache")
    assert reads["opened"] == ["0.png"]


def test_histogram_and_thumbnail_are_kept(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data", 2)
    with ScanStore(tmp_path / "cache") as store:
        scans = [scan for scan in scan_pairs(pairs, store=store) if isinstance(scan, PairScan)]
        fresh = [(store.histogram(scan), store.thumbnail(scan)) for scan in scans]
    with ScanStore(tmp_path / "cache") as store:
        kept = [(store.histogram(scan), store.thumbnail(scan)) for scan in scans]
    for pair, before, after in zip(pairs, fresh, kept, strict=True):
        pixels = np.asarray(Image.open(str(pair.image)))
        assert before[0] is not None
        assert after[0] is not None
        assert after[1] is not None
        np.testing.assert_array_equal(before[0], after[0])
        np.testing.assert_array_equal(
            after[0][1], np.bincount(pixels[..., 1].ravel(), minlength=256)
        )
        assert (after[1].shape, after[1].dtype) == ((16, 16), np.uint8)


# ---- states of the file -------------------------------------------------------------------------


def complete(pairs: list[Pair], folder: Path) -> None:
    """All scans come, with their histograms, whatever the cache is."""
    with ScanStore(folder) as store:
        for scan in scan_pairs(pairs, store=store):
            assert isinstance(scan, PairScan)
            assert store.histogram(scan) is not None
            assert store.thumbnail(scan) is not None


@pytest.mark.parametrize(
    "content", [b"", b"no database at all" * 100, b"SQLite format 3\0" + b"\1" * 9000]
)
def test_a_damaged_cache_is_begun_anew(tmp_path: Path, content: bytes, reads: Any) -> None:
    pairs = write_pairs(tmp_path / "data")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / FILE_NAME).write_bytes(content)
    complete(pairs, tmp_path / "cache")
    reads["opened"].clear()
    complete(pairs, tmp_path / "cache")
    assert reads["opened"] == []


@pytest.mark.parametrize("seed", range(12))
def test_damage_within_the_cache_changes_no_fact(tmp_path: Path, seed: int) -> None:
    pairs = write_pairs(tmp_path / "data", 20)
    first = read_all(pairs, tmp_path / "cache")
    path = tmp_path / "cache" / FILE_NAME
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(100, len(data), 2 ** rng.integers(1, 10)):
        data[place] ^= 0xFF
    path.write_bytes(data)
    assert read_all(pairs, tmp_path / "cache") == first
    complete(pairs, tmp_path / "cache")


def test_a_locked_cache_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PATIENCE_S", 0.05)
    pairs = write_pairs(tmp_path / "data")
    with ScanStore(tmp_path / "cache"):
        pass
    other = sqlite3.connect(tmp_path / "cache" / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        complete(pairs, tmp_path / "cache")
    finally:
        other.close()


def test_two_at_once_share_the_cache(tmp_path: Path, reads: dict[str, list[str]]) -> None:
    pairs = write_pairs(tmp_path / "data", 6)
    with ScanStore(tmp_path / "cache") as first, ScanStore(tmp_path / "cache") as second:
        for one, other in zip(
            scan_pairs(pairs[:3], store=first), scan_pairs(pairs[3:], store=second), strict=True
        ):
            assert first.histogram(one) is not None  # type: ignore[arg-type]
            assert second.histogram(other) is not None  # type: ignore[arg-type]
    reads["opened"].clear()
    read_all(pairs, tmp_path / "cache")
    assert reads["opened"] == []


def test_a_cache_that_cannot_be_written_is_still_read(
    tmp_path: Path, reads: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = write_pairs(tmp_path / "data", 4)
    read_all(pairs[:2], tmp_path / "cache")
    reads["opened"].clear()
    connect = tables.connect

    def read_only(path: Path) -> sqlite3.Connection:
        database = connect(path)
        if path.parent == tmp_path / "cache":
            database.execute("PRAGMA query_only = ON")
        return database

    monkeypatch.setattr(tables, "connect", read_only)
    complete(pairs, tmp_path / "cache")
    assert sorted(reads["opened"]) == ["2.png", "2_mask.png", "3.png", "3_mask.png"]


def test_a_full_disk_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = tables.connect

    def full(path: Path) -> sqlite3.Connection:
        database = connect(path)
        database.execute("PRAGMA max_page_count = 1")
        return database

    monkeypatch.setattr(tables, "connect", full)
    complete(write_pairs(tmp_path / "data"), tmp_path / "cache")


def test_no_folder_for_the_cache_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    complete(write_pairs(tmp_path / "data"), tmp_path / "file" / "cache")


def test_no_folder_for_temporary_files_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise FileNotFoundError("no usable temporary directory found")

    monkeypatch.setattr(store_module.tempfile, "TemporaryDirectory", refuse)
    (tmp_path / "file").touch()
    complete(write_pairs(tmp_path / "data"), tmp_path / "file" / "cache")


def test_what_was_not_seen_for_long_is_thrown_out(
    tmp_path: Path, reads: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = write_pairs(tmp_path / "data", 120)[:60], write_pairs(tmp_path / "data", 120)[60:]
    monkeypatch.setattr(tables.time, "time", lambda: 1_000_000.0)
    read_all(old, tmp_path / "cache")
    before = (tmp_path / "cache" / FILE_NAME).stat().st_size
    monkeypatch.setattr(tables.time, "time", lambda: 2_000_000.0)
    monkeypatch.setattr(store_module, "SIZE_LIMIT", before * 5 // 4)
    read_all(new, tmp_path / "cache")
    assert (tmp_path / "cache" / FILE_NAME).stat().st_size <= before * 5 // 4
    reads["opened"].clear()
    read_all(new, tmp_path / "cache")
    assert reads["opened"] == []
    read_all(old, tmp_path / "cache")
    assert len(reads["opened"]) > 30


def test_what_is_used_is_not_thrown_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = write_pairs(tmp_path / "data", 1)
    monkeypatch.setattr(tables.time, "time", lambda: 1_000_000.0)
    read_all(pairs, tmp_path / "cache")
    monkeypatch.setattr(tables.time, "time", lambda: 2_000_000.0)
    read_all(pairs, tmp_path / "cache")
    database = sqlite3.connect(tmp_path / "cache" / FILE_NAME)
    assert database.execute("SELECT DISTINCT seen FROM scans").fetchall() == [(2_000_000,)]
    database.close()


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNET_CACHE_DIR", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    with ScanStore() as store:
        assert store.paths == [tmp_path / "own" / FILE_NAME]
    monkeypatch.delenv("UNET_CACHE_DIR")
    assert cache_folder().name == "unet-pipeline"


def test_names_that_are_no_text_are_kept(tmp_path: Path, reads: dict[str, list[str]]) -> None:
    pair = write_pairs(tmp_path / "data", 1)[0]
    odd = tmp_path / "data" / os.fsdecode(b"bild\xff.png")
    try:
        shutil.copy2(str(pair.image), odd)
    except OSError:
        pytest.skip("this file system takes only text as names")
    pairs = [Pair("0", odd, pair.mask)]
    first = read_all(pairs, tmp_path / "cache")
    reads["opened"].clear()
    assert read_all(pairs, tmp_path / "cache") == first
    assert reads["opened"] == []
