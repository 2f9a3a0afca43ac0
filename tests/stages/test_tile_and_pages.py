"""prepare --tile and --pages: one file becomes several samples, or the channels of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.stages import sources
from unet_pipeline import cli
from unet_pipeline.datasets import tiles
from unet_pipeline.datasets.images import read_image, read_mask
from unet_pipeline.datasets.manifest import SAMPLES_FILE, Manifest

HEIGHT, WIDTH = 48, 60


def wide(n: int) -> tuple[Any, Any]:
    """An image of 60x48 pixels, every one of its own colour, and its mask of 0 and 255."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([rows * 5, columns * 4, rows * 0 + n * 20], axis=-1).astype(np.uint8)
    mask = np.where((rows + columns + n) % 24 < 12, 0, 255).astype(np.uint8)
    return image, mask


def large(root: Path, count: int = 5) -> Path:
    for n in range(count):
        image, mask = wide(n)
        sources.save(root / "images" / f"big{n}.png", image)
        sources.save(root / "masks" / f"big{n}.png", mask)
    return root


def test_tiles_hold_the_pixels_of_their_place() -> None:
    source = large(Path("maps"))
    before = sources.snapshot(source)
    sources.prepare(source, "--tile", "32", "--overlap", "0.25", "-o", "out")
    assert sources.snapshot(source) == before
    manifest = Manifest.load(Path("out"))
    # rows begin at 0 and 16, columns at 0, 24 and 28, the last of both shifted back inside
    places = {(0, 0), (0, 24), (0, 28), (16, 0), (16, 24), (16, 28)}
    seen: dict[str, set[tuple[int, int]]] = {}
    for sample in manifest.samples:
        big, place = sample.sample_id.split("/")
        top, left = (int(part[1:]) for part in place.split("_"))
        seen.setdefault(big, set()).add((top, left))
        image, mask = wide(int(big[3:]))
        window = np.s_[top : top + 32, left : left + 32]
        assert sample.image.is_relative_to(Path("out/images").resolve())
        assert sample.mask is not None
        assert sample.mask.is_relative_to(Path("out/masks").resolve())
        np.testing.assert_array_equal(read_image(sample.image), image[window])
        np.testing.assert_array_equal(read_mask(sample.mask, encoding="grey"), mask[window])
    assert seen == {f"big{n}": places for n in range(5)}


def test_tiles_of_an_image_are_one_group_in_one_split() -> None:
    sources.prepare(large(Path("maps")), "--tile", "32", "-o", "out")
    splits: dict[str, set[str]] = {}
    for sample in Manifest.load(Path("out")).samples:
        assert sample.group == sample.sample_id.split("/")[0]
        splits.setdefault(sample.group, set()).add(sample.split)
    assert all(len(some) == 1 for some in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}


def test_tiles_are_trained_on() -> None:
    sources.prepare(large(Path("maps")), "--tile", "32", "-o", "out")
    assert (sources.train("out") / "best.safetensors").is_file()


def test_a_prepared_dataset_is_cut_with_its_splits() -> None:
    sources.prepare(large(Path("maps")), "-o", "whole", "--val", "0.3", "--test", "0.3")
    sources.prepare("whole", "--tile", "32", "-o", "out")
    whole = sources.splits_in(Path("whole"))
    for sample_id, split in sources.splits_in(Path("out")).items():
        assert split == whole[sample_id.split("/")[0]]


def test_folds_of_a_prepared_dataset_are_those_of_its_tiles() -> None:
    sources.prepare(large(Path("maps"), 12), "-o", "whole", "--folds", "3", "--test", "0.2")
    table = Path("whole") / SAMPLES_FILE
    rows = table.read_text().splitlines()
    place = next(n for n, row in enumerate(rows) if ",val," in row)
    rows[place] = rows[place].replace(",val,", ",train,")  # by hand
    table.write_text("\n".join(rows) + "\n")
    sources.prepare("whole", "--tile", "32", "-o", "out")
    whole = {s.sample_id: (s.split, s.fold) for s in Manifest.load(Path("whole")).samples}
    assert {fold for _, fold in whole.values()} == {0, 1, 2, None}
    tiled = Manifest.load(Path("out"))
    for tile in tiled.samples:
        assert (tile.split, tile.fold) == whole[tile.sample_id.split("/")[0]]
    assert len(tiled.facts.folds) == 3


def test_folds_asked_for_anew_are_dealt_anew() -> None:
    sources.prepare(large(Path("maps"), 12), "-o", "whole", "--folds", "3", "--test", "0")
    sources.prepare("whole", "--tile", "32", "-o", "out", "--folds", "4")
    folds = {s.sample_id.split("/")[0]: s.fold for s in Manifest.load(Path("out")).samples}
    assert set(folds.values()) == {0, 1, 2, 3}


def test_blank_tiles_tie_no_images_together() -> None:
    for n in range(12):
        image, mask = wide(n)
        image[:32, :32] = (240, 240, 242)  # glass beside the tissue
        mask[:32, :32] = 0
        sources.save(Path("slides") / "images" / f"s{n}.png", image)
        sources.save(Path("slides") / "masks" / f"s{n}.png", mask)
    sources.prepare("slides", "--tile", "32", "-o", "out")
    samples = Manifest.load(Path("out")).samples
    assert {s.group for s in samples} == {f"s{n}" for n in range(12)}
    assert {s.split for s in samples} == {"train", "val", "test"}


def test_tiles_that_no_group_of_the_expression_takes_stay_with_their_image() -> None:
    for n in range(12):
        image, mask = wide(n)
        name = f"pat{n}_a" if n < 6 else f"x{n}"
        sources.save(Path("mixed") / "images" / f"{name}.png", image)
        sources.save(Path("mixed") / "masks" / f"{name}.png", mask)
    sources.prepare("mixed", "--tile", "32", "-o", "out", "--group-regex", "^(pat[0-9]+)_")
    splits: dict[str, set[str]] = {}
    for sample in Manifest.load(Path("out")).samples:
        splits.setdefault(sample.sample_id.split("/")[0], set()).add(sample.split)
    assert len(splits) == 12
    assert all(len(some) == 1 for some in splits.values()), splits


def test_wrong_mask_values_are_told_before_anything_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "write_file", lambda *_: pytest.fail("was cut"))
    large(Path("maps"))
    arguments = ["prepare", "maps", "--tile", "32", "-o", "out", "--values", "0,7"]
    message = sources.error_of(capsys, arguments, 4)
    assert "mask values 255 (in big" in message
    assert not Path("out").exists()


def test_an_error_half_way_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    source = large(Path("maps"))
    sources.save(source / "masks" / "big3.png", wide(3)[1][:, :50])
    arguments = ["prepare", "maps", "--tile", "32", "-o", "out"]
    assert "50x48" in sources.error_of(capsys, arguments, 4)
    assert not Path("out").exists() or not list(Path("out").iterdir())


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_folder_of_somebody_else_is_refused_and_untouched(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    large(Path("maps"))
    sources.save(Path("out") / folder / "mine.png", sources.image_of(1))
    before = sources.contents(Path("out"))
    arguments = ["prepare", "maps", "--tile", "32", "-o", "out"]
    assert f"holds a folder {folder} already" in sources.error_of(capsys, arguments, 2)
    assert sources.contents(Path("out")) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tile", "8"], "tile"),
        (["--tile", "32", "--overlap", "1"], "overlap"),
        (["--overlap", "0.5"], "--overlap is for tiles"),
    ],
)
def test_tiles_that_cannot_be_are_refused(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    large(Path("maps"), 2)
    assert words in sources.error_of(capsys, ["prepare", "maps", "-o", "out", *options], 2)
    assert not Path("out").exists()


# ---- pages --------------------------------------------------------------------------------------


def page(n: int, k: int) -> Any:
    return np.random.default_rng([n, k]).integers(0, 256, (32, 40), dtype=np.uint8)


def stacks(root: Path, count: int = 5, *, pages_of_masks: int = 1) -> Path:
    """Grey TIFF files of three pages; masks of one page, or of as many."""
    for n in range(count):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        tifffile.imwrite(
            root / "images" / f"z{n}.tif",
            np.stack([page(n, k) for k in range(3)]),
            photometric="minisblack",
            metadata=None,
        )
        masks = np.stack([sources.mask_of(n + k) for k in range(pages_of_masks)])
        tifffile.imwrite(
            root / "masks" / f"z{n}.tif", masks if pages_of_masks > 1 else masks[0],
            photometric="minisblack", metadata=None,
        )  # fmt: skip
    return root


def test_stacks_are_refused_with_both_ways_out(capsys: pytest.CaptureFixture[str]) -> None:
    stacks(Path("stacks"))
    message = sources.error_of(capsys, ["prepare", "stacks", "-o", "out"], 4)
    assert "--pages" in message
    assert "pages" in message.replace("--pages", "")
    assert not sources.contents(Path("out"))


def test_pages_are_channels() -> None:
    source = stacks(Path("stacks"))
    before = sources.snapshot(source)
    sources.prepare(source, "--pages", "channels", "-o", "out")
    assert sources.snapshot(source) == before
    manifest = Manifest.load(Path("out"))
    assert manifest.facts.in_channels == 3
    assert len(manifest.samples) == 5
    for sample in manifest.samples:
        n = int(sample.sample_id[1:])
        wanted = np.stack([page(n, k) for k in range(3)], axis=-1)
        np.testing.assert_array_equal(read_image(sample.image), wanted)
    assert (sources.train("out") / "best.safetensors").is_file()


def test_pages_are_samples_of_one_group() -> None:
    sources.prepare(stacks(Path("stacks"), pages_of_masks=3), "--pages", "samples", "-o", "out")
    manifest = Manifest.load(Path("out"))
    assert manifest.facts.in_channels == 1
    assert len(manifest.samples) == 15
    splits: dict[str, set[str]] = {}
    for sample in manifest.samples:
        stack, number = sample.sample_id.split("/")
        assert sample.group == stack
        splits.setdefault(stack, set()).add(sample.split)
        n, k = int(stack[1:]), int(number[1:])
        np.testing.assert_array_equal(read_image(sample.image)[..., 0], page(n, k))
        assert sample.mask is not None
        np.testing.assert_array_equal(
            read_mask(sample.mask, encoding="palette"), sources.mask_of(n + k)
        )
    assert all(len(some) == 1 for some in splits.values())


@pytest.mark.parametrize(
    ("pages", "of_masks", "words"),
    [("samples", 1, "as many"), ("channels", 3, "it needs one")],
)
def test_pages_that_do_not_fit_leave_nothing_behind(
    pages: str, of_masks: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stacks(Path("stacks"), pages_of_masks=of_masks)
    arguments = ["prepare", "stacks", "--pages", pages, "-o", "out"]
    assert words in sources.error_of(capsys, arguments, 4)
    assert not Path("out").exists()


def test_pages_without_effect_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    sources.plain(Path("cells"))
    arguments = ["prepare", "cells", "--pages", "samples"]
    assert "no image has several pages" in sources.error_of(capsys, arguments, 2)


def test_a_stack_is_trained_on_without_preparing_it() -> None:
    source = stacks(Path("stacks"))
    run = sources.train(source, "--set", "data.pages=channels")
    assert cli.run(["evaluate", "--model", str(run), "--tracking", "off", "--split", "val"]) == 0
