"""prepare --export: what is written is read again as the same masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.stages import sources
from unet_pipeline import cli
from unet_pipeline.datasets.manifest import Manifest

FORMATS = ("coco", "yolo", "nnunet", "plain")


def original(name: str) -> str:
    """The scene of a sample that an export may have given a longer name."""
    return name.removesuffix("_0000")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("make", [sources.coco, sources.plain])
def test_what_was_exported_is_prepared_again_with_the_same_masks(
    form: str, make: Callable[[Path], Path]
) -> None:
    source = make(Path("cells"))
    before = sources.snapshot(source)
    sources.prepare(
        source, "--export", form, "-o", "there", "--class-names", "background,cell,debris"
    )
    assert not Manifest.is_in(Path("there"))
    sources.prepare("there", "-o", "back")
    assert sources.pixels_by_class(Path("back")) == sources.expected_pixels()
    masks = {original(name): mask for name, mask in sources.masks_in(Path("back")).items()}
    assert set(masks) == {sources.name(n) for n in range(8)}
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, sources.mask_of(int(name[1:])))
    assert sources.snapshot(source) == before


@pytest.mark.parametrize("form", FORMATS)
def test_a_prepared_dataset_is_exported_with_its_splits(form: str) -> None:
    sources.prepare(sources.coco(Path("cells")), "-o", "out", "--val", "0.3", "--test", "0.3")
    before = sources.snapshot(Path("out"))
    sources.prepare("out", "--export", form, "-o", "there")
    assert sources.snapshot(Path("out")) == before
    sources.prepare("there", "-o", "back")
    assert sources.pixels_by_class(Path("back")) == sources.expected_pixels()
    splits = {s.image.stem: s.split for s in Manifest.load(Path("out")).samples}
    again = {original(s.image.stem): s.split for s in Manifest.load(Path("back")).samples}
    kept = ("test",) if form == "nnunet" else ("train", "val", "test")  # it has no val of its own
    for name, split in splits.items():
        assert again[name] == split or split not in kept


def test_void_comes_back_as_void_where_the_format_knows_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = sources.plain(Path("cells"))
    for n in range(8):
        mask = sources.mask_of(n)
        mask[:2, :5] = 255
        sources.save(source / "masks" / f"{sources.name(n)}.png", mask)
    for form in FORMATS:
        sources.prepare(source, "--export", form, "-o", form)
        warned = "80 void pixels of 8 images become background" in capsys.readouterr().err
        assert warned == (form == "yolo")
        sources.prepare(form, "-o", f"{form}-back")
        for mask in sources.masks_in(Path(f"{form}-back")).values():
            assert (mask[:2, :5] == (0 if form == "yolo" else 255)).all()
            assert (mask == 255).sum() == (0 if form == "yolo" else 10)


@pytest.mark.parametrize("form", FORMATS)
def test_classes_without_pixels_are_classes_again(form: str) -> None:
    source = sources.plain(Path("cells"))
    names = ("background", "cell", "ghost", "debris", "spare")
    for n in range(8):
        mask = np.where(sources.mask_of(n) == 2, 3, sources.mask_of(n)).astype(np.uint8)
        sources.save(source / "masks" / f"{sources.name(n)}.png", mask)
    options = ("--values", "0,1,2,3,4", "--class-names", ",".join(names))
    sources.prepare(source, "-o", "data", *options)
    sources.prepare("data", "--export", form, "-o", "there")
    sources.prepare("there", "-o", "back")
    assert Manifest.load(Path("back")).facts.classes.names == names
    former = sources.masks_in(Path("data"))
    for name, mask in sources.masks_in(Path("back")).items():
        np.testing.assert_array_equal(mask, former[original(name)])


def test_json_names_the_format_and_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    sources.plain(Path("cells"))
    capsys.readouterr()
    assert cli.run(["prepare", "cells", "--export", "yolo", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["exported"] == "yolo"
    assert summary["folder"] == "data/cells-yolo"
    assert (Path("data/cells-yolo") / "data.yaml").is_file()


@pytest.mark.parametrize("name", ["mine.txt", "classes.txt", "report.html"])
def test_a_folder_that_holds_something_is_refused_and_untouched(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sources.plain(Path("cells"))
    Path("there").mkdir()
    Path("there", name).write_text("mine")
    arguments = ["prepare", "cells", "--export", "coco", "-o", "there"]
    assert "there is not empty" in sources.error_of(capsys, arguments, 2)
    assert sources.contents(Path("there")) == {name: b"mine"}


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_folder_of_images_of_somebody_else_is_refused_and_untouched(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sources.plain(Path("cells"))
    sources.save(Path("there") / folder / "mine.png", sources.image_of(1))
    before = sources.contents(Path("there"))
    sources.error_of(capsys, ["prepare", "cells", "--export", "coco", "-o", "there"], 2)
    assert sources.contents(Path("there")) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--export", "cocoa"], "coco"),
        (["--export", "coco", "--folds", "3"], "--folds has no effect with --export"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sources.plain(Path("cells"))
    assert words in sources.error_of(capsys, ["prepare", "cells", "-o", "there", *options], 2)
    assert not Path("there").exists()


def test_damaged_data_is_not_exported(capsys: pytest.CaptureFixture[str]) -> None:
    source = sources.plain(Path("cells"))
    (source / "masks" / "s00.png").unlink()
    arguments = ["prepare", "cells", "--export", "plain", "-o", "there"]
    assert "has no mask" in sources.error_of(capsys, arguments, 4)
    assert not sources.contents(Path("there"))
