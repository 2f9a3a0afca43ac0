"""Sources of every format, from the files as they are to masks of new images."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.stages import sources
from unet_pipeline import cli
from unet_pipeline.datasets.manifest import Manifest, Sample


def scores(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    """What `unet evaluate` finds, without the folder that it wrote."""
    capsys.readouterr()
    command = ["evaluate", "--tracking", "off", "--num-pictures", "0", "--json"]
    assert cli.run([*command, *map(str, arguments)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    del found["folder"]
    return found


# ---- each format, prepared ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [sources.coco, sources.labelme, sources.yolo, sources.objects, sources.table]
)
def test_a_source_is_prepared_trained_on_evaluated_and_predicted(
    make: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = make(Path("cells"))
    before = sources.snapshot(source)
    sources.prepare(source, "-o", "out")
    assert f"format {make.__name__} (" in capsys.readouterr().err
    manifest = Manifest.load(Path("out"))
    names, masks = manifest.facts.classes.names, sources.masks_in(Path("out"))
    for sample in manifest.samples:
        wanted = sources.mask_of(int(sample.image.stem[1:]))
        wanted = wanted if len(names) == 3 else (wanted > 0).astype(np.uint8)
        np.testing.assert_array_equal(masks[sample.image.stem], wanted)
    assert len(masks) == 8
    run = sources.train("out")
    assert scores(capsys, "--model", run)["num_images"] == manifest.facts.num_samples["test"]
    images = sorted(str(sample.image) for sample in manifest.samples)
    assert cli.run(["predict", *images, "--model", str(run), "-o", "predicted"]) == 0
    for n in range(8):
        with Image.open(Path("predicted") / f"{sources.name(n)}.png") as mask:
            assert mask.size == (sources.WIDTH, sources.HEIGHT)
            assert set(np.unique(np.asarray(mask))) <= set(manifest.facts.classes.values)
    assert sources.snapshot(source) == before


@pytest.mark.parametrize("make", [sources.coco, sources.labelme, sources.yolo])
def test_classes_have_the_names_of_the_annotations(make: Callable[[Path], Path]) -> None:
    sources.prepare(make(Path("cells")), "-o", "out")
    assert sources.pixels_by_class(Path("out")) == sources.expected_pixels()


def test_a_table_gives_splits_and_groups() -> None:
    sources.prepare(sources.table(Path("cells")), "-o", "out")
    splits = ["train", "train", "train", "train", "val", "val", "test", "test"]
    rows = [(s.image.stem, s.split, s.group) for s in Manifest.load(Path("out")).samples]
    assert rows == [(sources.name(n), splits[n], f"g{n // 2}") for n in range(8)]


def test_an_annotation_file_is_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    sources.coco(Path("cells"))
    sources.prepare("cells/annotations.json", "-o", "out")
    assert sources.pixels_by_class(Path("out")) == sources.expected_pixels()


# ---- which format -------------------------------------------------------------------------------


def both(root: Path) -> Path:
    """A folder with the annotations of COCO and of labelme."""
    sources.coco(root)
    sources.labelme(root / "images")
    return root


def test_two_formats_in_one_folder_ask_which(capsys: pytest.CaptureFixture[str]) -> None:
    both(Path("cells"))
    for arguments in (["-o", "out"], ["--check"]):
        message = sources.error_of(capsys, ["prepare", "cells", *arguments], 4)
        assert "coco (" in message
        assert "labelme (" in message
        assert "--format" in message
    assert not Path("out").exists()


@pytest.mark.parametrize("form", ["coco", "labelme"])
def test_the_format_that_is_named_is_read(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    sources.prepare(both(Path("cells")), "--format", form, "-o", "out")
    assert f"format {form} (" in capsys.readouterr().err
    assert sources.pixels_by_class(Path("out")) == sources.expected_pixels()


@pytest.mark.parametrize(("wrong", "right"), [("labelm", "labelme"), ("cocoo", "coco")])
def test_an_unknown_format_is_refused_with_what_was_meant(
    wrong: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    both(Path("cells"))
    message = sources.error_of(capsys, ["prepare", "cells", "--format", wrong, "-o", "out"], 2)
    assert repr(wrong) in message
    assert f"did you mean {right!r}" in message
    assert not Path("out").exists()


def test_a_format_that_the_folder_is_not_says_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources.plain(Path("cells"))
    message = sources.error_of(capsys, ["prepare", "cells", "--format", "coco"], 4)
    assert ".json" in message


# ---- without preparing --------------------------------------------------------------------------


def test_a_coco_folder_is_trained_on_as_it_is_and_scored_after_the_cache_is_gone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = sources.coco(Path("cells"))
    before = sources.snapshot(source)
    run = sources.train(source, "--set", "data.val_fraction=0.3")
    cache = Path(os.environ["UNET_CACHE_DIR"])
    assert len(list((cache / "made" / "masks").iterdir())) == 8
    first = scores(capsys, "--model", run, "--split", "val")
    shutil.rmtree(cache)
    assert scores(capsys, "--model", run, "--split", "val") == first
    assert scores(capsys, "--model", run, "--data", source, "--split", "val") == first
    assert sources.snapshot(source) == before


def test_a_run_is_scored_on_what_was_prepared_as_on_the_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = sources.train(sources.coco(Path("cells")))
    sources.prepare("cells", "-o", "out")
    direct = scores(capsys, "--model", run, "--split", "test")
    prepared = scores(capsys, "--model", run, "--data", "out", "--split", "test")
    assert direct == prepared


ELSEWHERE = {
    "swapped": {"debris": 1, "cell": 2},
    "far apart": {"cell": 90, "debris": 17},
}


@pytest.mark.parametrize("categories", ELSEWHERE.values(), ids=ELSEWHERE)
def test_categories_of_other_numbers_are_matched_by_name(
    categories: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = sources.train(sources.coco(Path("cells")))
    numbers = range(10, 16)
    sources.coco(Path("alike"), numbers)
    sources.coco(Path("other"), numbers, categories=categories)
    alike = scores(capsys, "--model", run, "--data", "alike")
    assert scores(capsys, "--model", run, "--data", "other") == alike
    assert alike["num_images"] == 6


def test_a_prepared_dataset_of_other_numbers_is_matched_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = sources.train(sources.coco(Path("cells")))
    sources.coco(Path("alike"), range(10, 16))
    sources.coco(Path("other"), range(10, 16), categories={"debris": 1, "cell": 2})
    for name in ("alike", "other"):
        sources.prepare(name, "-o", f"{name}-out")
    alike = scores(capsys, "--model", run, "--data", "alike-out", "--split", "all")
    assert scores(capsys, "--model", run, "--data", "other-out", "--split", "all") == alike


def test_data_that_knows_fewer_classes_is_matched_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = sources.train(sources.coco(Path("cells")))
    sources.coco(Path("some"), range(10, 13))
    content = json.loads(Path("some/annotations.json").read_text())
    for entry in content["annotations"]:
        entry["category_id"] = 2 if entry["category_id"] == 2 else 0
    content["categories"] = [{"id": 2, "name": "debris"}]  # the first and only: value 1
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 2]
    Path("some/annotations.json").write_text(json.dumps(content))
    sources.plain(Path("same"), range(10, 13))
    for n in range(10, 13):
        mask = sources.mask_of(n)
        mask[mask == 1] = 0
        sources.save(Path("same/masks") / f"{sources.name(n)}.png", mask)
    some = scores(capsys, "--model", run, "--data", "some")
    same = scores(capsys, "--model", run, "--data", "same")
    assert some == same


# ---- splits, groups, folds ----------------------------------------------------------------------


def patients(root: Path, count: int = 6) -> Path:
    """Three slices of each of `count` patients."""
    for n in range(3 * count):
        name = f"patient{n // 3:02d}_slice{n % 3}.png"
        sources.save(root / "images" / name, sources.image_of(n))
        sources.save(root / "masks" / name, sources.mask_of(n))
    return root


def of_patients(samples: tuple[Sample, ...]) -> dict[str, set[Any]]:
    result: dict[str, set[Any]] = {}
    for sample in samples:
        result.setdefault(sample.sample_id[:9], set()).add((sample.group, sample.split))
    return result


def test_names_that_look_like_groups_are_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    sources.prepare(patients(Path("scans")), "-o", "out")
    assert "--group-regex" in capsys.readouterr().err


def test_a_group_is_never_parted(capsys: pytest.CaptureFixture[str]) -> None:
    sources.prepare(patients(Path("scans")), "-o", "out", "--group-regex", r"patient\d+")
    assert "--group-regex" not in capsys.readouterr().err
    seen = of_patients(Manifest.load(Path("out")).samples)
    assert all(len(some) == 1 for some in seen.values())
    assert {group for some in seen.values() for group, _ in some} == set(seen)
    assert {split for some in seen.values() for _, split in some} == {"train", "val", "test"}


def test_a_regex_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    patients(Path("scans"), 2)
    arguments = ["prepare", "scans", "-o", "out", "--group-regex", "patient("]
    assert "patient(" in sources.error_of(capsys, arguments, 2)
    assert not Path("out").exists() or not list(Path("out").iterdir())


def test_folds_are_a_column_and_one_of_them_validates() -> None:
    sources.prepare(patients(Path("scans")), "-o", "out", "--group-regex", r"patient\d+",
                    "--folds", "3")  # fmt: skip
    header = (Path("out") / "samples.csv").read_text().splitlines()[0]
    assert "fold" in header.split(",")
    manifest = Manifest.load(Path("out"))
    folds: dict[str, set[int | None]] = {}
    for sample in manifest.samples:
        assert (sample.fold is None) == (sample.split == "test")
        folds.setdefault(sample.group, set()).add(sample.fold)
    assert all(len(some) == 1 for some in folds.values())
    assert set.union(*folds.values()) == {None, 0, 1, 2}
    run = sources.train("out", "--fold", "1")
    assert (run / "best.safetensors").is_file()
    assert "fold: 1" in (run / "config.yaml").read_text()


def test_the_fractions_are_those_that_were_asked_for() -> None:
    source = sources.plain(Path("cells"), range(60))
    sources.prepare(source, "-o", "some", "--val", "0.4", "--test", "0.3")
    sources.prepare(source, "-o", "none", "--val", "0.4", "--test", "0")
    some, none = (Manifest.load(Path(f)).facts.num_samples for f in ("some", "none"))
    assert abs(some["val"] - 24) <= 8
    assert abs(some["test"] - 18) <= 8
    assert none["test"] == 0


def test_images_that_are_added_move_no_old_one_with_splits_from() -> None:
    """Among 20 and 40 images a rare class is topped up from other places; here from none."""
    rare = {1, 2, 4}  # the images that hold debris

    def write(root: Path, numbers: range) -> Path:
        for n in numbers:
            mask = sources.mask_of(n)
            mask[mask == 2] = 2 if n in rare or n >= 20 else 0
            sources.save(root / "images" / f"{sources.name(n)}.png", sources.image_of(n))
            sources.save(root / "masks" / f"{sources.name(n)}.png", mask)
        return root

    write(Path("cells"), range(20))
    sources.prepare("cells", "-o", "old")
    old = sources.splits_in(Path("old"))
    write(Path("cells"), range(20, 40))
    sources.prepare("cells", "-o", "fresh")
    sources.prepare("cells", "-o", "kept", "--splits-from", "old")
    fresh, kept = (sources.splits_in(Path(name)) for name in ("fresh", "kept"))
    assert {name: fresh[name] for name in old} != old  # else this test shows nothing
    assert {name: kept[name] for name in old} == old
    assert len(kept) == 40


def test_splits_from_a_place_without_samples_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources.plain(Path("cells"))
    arguments = ["prepare", "cells", "-o", "out", "--splits-from", "nowhere"]
    assert "samples.csv" in sources.error_of(capsys, arguments, 2)
    assert not Path("out").exists()
