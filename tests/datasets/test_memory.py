"""What a check holds of each pair: of twenty thousand, memory must hardly grow."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from tests.datasets.scan.cases import write_pairs
from unet_pipeline.config import DataSettings
from unet_pipeline.datasets.doctor import examine
from unet_pipeline.datasets.formats import Found, Pair
from unet_pipeline.datasets.scan import ScanStore, record_file
from unet_pipeline.stages.opening import index_options


def many_pairs(folder: Path, count: int) -> tuple[Pair, ...]:
    """Pairs with paths of their own that lead to twelve files, so that little has to be read."""
    folder.mkdir()
    files = write_pairs(folder, 12)
    for number in range(count):
        known = files[number % len(files)]
        for file, suffix in ((known.image, ".jpg"), (known.mask, ".png")):
            assert isinstance(file, Path)
            (folder / f"case{number:05d}{suffix}").hardlink_to(file)
    names = [f"case{number:05d}" for number in range(count)]
    return tuple(Pair(n, folder / f"{n}.jpg", folder / f"{n}.png") for n in names)


def highest(pairs: tuple[Pair, ...], folder: Path) -> int:
    """The bytes that a check takes at its peak beside the pairs, when all files are known."""
    with ScanStore(folder / "cache") as store:
        tracemalloc.start()
        try:
            examine(
                Found(pairs, "made for the occasion"),
                source=folder,
                name="many",
                options=index_options(DataSettings()),
                store=store,
            )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_a_check_takes_a_quarter_of_a_kilobyte_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_file, "_MOST_HELD", 2**14)  # as if they were thirty times as many
    few, many = 400, 1600
    pairs = many_pairs(tmp_path / "pairs", many)
    highest(pairs, tmp_path)  # reads the files
    grown = highest(pairs, tmp_path) - highest(pairs[:few], tmp_path)
    # 220 as measured; 400 with the numbers of files in memory, 845 when all were objects
    assert grown / (many - few) < 300


def test_long_paths_of_a_pair_take_no_memory(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 50)
    tracemalloc.start()
    try:
        pairs = [Pair(str(n), folder / f"{n}.jpg", folder / f"{n}_mask.png") for n in range(1000)]
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size / len(pairs) < 200  # the paths alone would take 500
    assert pairs[7].image == folder / "7.jpg"
    assert pairs[7].mask == folder / "7_mask.png"


def test_a_pair_with_another_id_or_file_keeps_the_rest() -> None:
    pair = Pair("a/1", Path("x/1.jpg"), Path("y/other.png"), "val", "g", 2)
    assert pair.renamed("b/12") == Pair("b/12", "x/1.jpg", "y/other.png", "val", "g", 2)
    assert pair.renamed("b/12").image == Path("x/1.jpg")
    moved = pair.with_files(Path("z/1.png"), pair.mask_file)
    assert (moved.image, moved.mask) == (Path("z/1.png"), Path("y/other.png"))
    assert (moved.sample_id, moved.split, moved.group, moved.fold) == ("a/1", "val", "g", 2)
