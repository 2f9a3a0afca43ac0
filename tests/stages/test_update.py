"""prepare --update: what was there keeps its place; a kill leaves a dataset that can be read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.stages import sources
from tests.stages.test_prepare import snapshot, write_pairs
from unet_pipeline import cli
from unet_pipeline.datasets.images import read_mask
from unet_pipeline.datasets.manifest import Manifest
from unet_pipeline.datasets.scan import content
from unet_pipeline.datasets.shapes import Drawing
from unet_pipeline.stages import writing

OUT = Path("data/cells")


def add_pair(source: Path, name: str, *, seed: int, values: tuple[int, ...] = (0, 255)) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(image).save(source / "images" / f"{name}.png")
    mask = rng.choice(np.array(values, dtype=np.uint8), (20, 24))
    Image.fromarray(mask).save(source / "masks" / f"{name}.png")


def splits() -> dict[str, tuple[str, int | None]]:
    return {s.sample_id: (s.split, s.fold) for s in Manifest.load(OUT).samples}


def edit_split(sample_id: str, split: str) -> None:
    path = OUT / "samples.csv"
    lines = path.read_text().splitlines()
    for n, line in enumerate(lines):
        cells = line.split(",")
        if cells[0] == sample_id:
            cells[3] = split
            lines[n] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")


def update_that_dies(source: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> tuple[int, int]:
    """An update that is interrupted at its write of that number: exit code, writes begun."""
    replace, num_writes = os.replace, 0

    def dies(*arguments: Any, **options: Any) -> None:
        nonlocal num_writes
        if Path(arguments[1]).resolve().is_relative_to(OUT.resolve()):
            num_writes += 1
            if num_writes == number:
                raise KeyboardInterrupt
        replace(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        code = cli.run(["prepare", str(source), "--update"])
    return code, num_writes


def test_old_samples_keep_their_place_new_ones_come_and_gone_ones_leave(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_pairs(tmp_path / "cells", count=10)
    assert cli.run(["prepare", str(source)]) == 0
    edit_split("0", "test")
    edit_split("1", "val")
    before = splits()
    for role in ("images", "masks"):
        (source / role / "2.png").rename(source / role / "renamed.png")
        (source / role / "3.png").unlink()
    for n in range(10, 22):
        add_pair(source, str(n), seed=n)
    capsys.readouterr()
    assert cli.run(["prepare", str(source), "--update"]) == 0
    log = capsys.readouterr().err
    after = splits()
    assert "12 new samples, 9 kept, 1 gone" in log
    assert "gone from the source: 3" in log
    assert after["renamed"] == before["2"]
    assert "3" not in after
    kept = set(before) - {"2", "3"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert len(after) == 21


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("seed", range(4))
def test_no_old_sample_moves_however_many_come(tmp_path: Path, count: int, seed: int) -> None:
    source = write_pairs(tmp_path / "cells", count=1)
    for n in range(1, count):
        add_pair(source, f"old{n}", seed=seed * 100 + n, values=(0, 255) if n % 2 else (0,))
    assert cli.run(["prepare", str(source), "--seed", str(seed)]) == 0
    for step in range(3):
        before = splits()
        for n in range(step * 3 + 1):
            add_pair(source, f"{step}-{n}", seed=seed * 1000 + step * 100 + n + 50)
        assert cli.run(["prepare", str(source), "--seed", str(seed), "--update"]) == 0
        after = splits()
        assert {name: after[name] for name in before} == before
        assert len(after) == len(before) + step * 3 + 1


def test_folds_and_classes_stay(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "cells", count=12)
    arguments = ["prepare", str(source), "--folds", "3", "--class-names", "glass,cell"]
    assert cli.run(arguments) == 0
    before = splits()
    for n in range(20, 26):
        add_pair(source, str(n), seed=n)
    assert cli.run(["prepare", str(source), "--update"]) == 0
    manifest = Manifest.load(OUT)
    assert manifest.facts.classes.names == ("glass", "cell")
    assert len(manifest.facts.folds) == 3
    after = splits()
    assert {name: after[name] for name in before} == before
    assert {fold for split, fold in after.values() if split != "test"} == {0, 1, 2}


def test_an_update_without_changes_writes_nothing(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "cells", count=9)
    assert cli.run(["prepare", str(source)]) == 0
    before = snapshot(OUT)
    stamps = {path: path.stat().st_mtime_ns for path in OUT.iterdir()}
    assert cli.run(["prepare", str(source), "--update"]) == 0
    assert snapshot(OUT) == before
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_an_update_is_what_prepare_is_where_there_is_nothing_yet(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "cells", count=9)
    assert cli.run(["prepare", str(source), "--update"]) == 0
    first = splits()
    assert cli.run(["prepare", str(source), "-o", "other"]) == 0
    assert {s.sample_id: (s.split, s.fold) for s in Manifest.load(Path("other")).samples} == first


@pytest.mark.parametrize("number", range(1, 6))
def test_a_kill_while_writing_leaves_a_dataset_that_an_update_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source = write_pairs(tmp_path / "cells", count=8)
    assert cli.run(["prepare", str(source)]) == 0
    before = splits()
    for n in range(20, 24):
        add_pair(source, str(n), seed=n)
    code, num_writes = update_that_dies(source, monkeypatch, number)
    assert code == (130 if num_writes >= number else 0)
    between = splits()
    assert {name: between[name] for name in before} == before
    assert cli.run(["prepare", str(source), "--update"]) == 0
    after = splits()
    assert {name: after[name] for name in between} == between
    assert len(after) == 12
    assert sum(Manifest.load(OUT).facts.num_samples.values()) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fix"], "--update has no effect with --fix"),
        (["--export", "coco"], "--update has no effect with --export"),
        (["--tile", "16"], "--update has no effect with --tile"),
        (["--splits-from", "x"], "--update has no effect with --splits-from"),
        (["--check"], "--update has no effect with --check"),
        (["--folds", "4"], "has no folds, which --update keeps"),
    ],
)
def test_what_does_not_go_with_an_update_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    source = write_pairs(tmp_path / "cells")
    assert cli.run(["prepare", str(source)]) == 0
    before = snapshot(OUT)
    capsys.readouterr()
    assert cli.run(["prepare", str(source), "--update", *options]) == 2
    error = capsys.readouterr().err
    assert message in error or message.replace("--update", options[0]) in error
    assert snapshot(OUT) == before


def test_a_group_that_only_samples_csv_names_can_be_undone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_pairs(tmp_path / "cells")
    assert cli.run(["prepare", str(source)]) == 0
    path = OUT / "samples.csv"
    before = path.read_text()
    rows = [line.split(",") for line in before.splitlines()]
    column = rows[0].index("group")
    rows[1][column] = rows[2][column] = "patient"
    path.write_text("\n".join(map(",".join, rows)) + "\n")
    assert cli.run(["prepare", str(source), "--update"]) == 2
    assert "or undo the groups in samples.csv" in capsys.readouterr().err
    path.write_text(before)
    assert cli.run(["prepare", str(source), "--update"]) == 0


def test_flat_pictures_that_were_one_group_stop_no_update(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "cells")
    for n in (3, 4):
        Image.new("RGB", (24, 20), (9, 9, 9)).save(source / "images" / f"{n}.png")
    assert cli.run(["prepare", str(source)]) == 0
    path = OUT / "samples.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    rows[5][rows[0].index("group")] = "3"
    path.write_text("\n".join(map(",".join, rows)) + "\n")
    assert cli.run(["prepare", str(source), "--update"]) == 0
    assert [s.group for s in Manifest.load(OUT).samples] == [str(n) for n in range(8)]


def test_other_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_pairs(tmp_path / "cells", count=4)
    assert cli.run(["prepare", str(source)]) == 0
    other = write_pairs(tmp_path / "others", count=1)
    for role in ("images", "masks"):
        (other / role / "0.png").unlink()
    for n in range(50, 54):
        add_pair(other, str(n), seed=n)
    before = snapshot(OUT)
    assert cli.run(["prepare", str(other), "--update", "-o", str(OUT)]) == 2
    assert "none of the 4 samples" in capsys.readouterr().err
    assert snapshot(OUT) == before


# ---- masks that are drawn -----------------------------------------------------------------------


pixels_of = Drawing.pixels


def drawn() -> dict[str, np.ndarray]:
    """The mask of every sample; each is there."""
    return {s.sample_id: read_mask(s.mask) for s in Manifest.load(OUT).samples if s.mask}


def test_drawn_masks_come_change_and_leave_with_their_samples(tmp_path: Path) -> None:
    source = sources.coco(tmp_path / "cells", range(6))
    assert cli.run(["prepare", str(source)]) == 0
    before, stamps = splits(), {p: p.stat().st_mtime_ns for p in (OUT / "masks").rglob("*.png")}
    shutil.rmtree(source)
    sources.coco(source, range(2, 9))
    assert cli.run(["prepare", str(source), "--update"]) == 0
    after = splits()
    assert len(after) == 7
    assert {n: after[n] for n in after if n in before} == {
        n: before[n] for n in after if n in before
    }
    files = {p: p.stat().st_mtime_ns for p in (OUT / "masks").rglob("*.png")}
    assert len(files) == 7
    assert sum(stamps.get(path) == stamp for path, stamp in files.items()) == 4
    for sample_id, mask in drawn().items():
        np.testing.assert_array_equal(mask, sources.mask_of(int(sample_id[-2:])))


def test_a_mask_whose_annotation_changed_is_drawn_anew(tmp_path: Path) -> None:
    source = sources.coco(tmp_path / "cells", range(4))
    assert cli.run(["prepare", str(source)]) == 0
    before = drawn()
    annotations = source / "annotations.json"
    tree = json.loads(annotations.read_text())
    tree["annotations"][2]["segmentation"] = [[1.0, 1.0, 9.0, 1.0, 9.0, 5.0, 1.0, 5.0]]
    annotations.write_text(json.dumps(tree))
    assert cli.run(["prepare", str(source), "--update"]) == 0
    after = drawn()
    assert (after["s01"][1:6, 1:10] == 1).all()
    assert (after["s01"] == 1).sum() == 5 * 9
    for name in ("s00", "s02", "s03"):
        np.testing.assert_array_equal(after[name], before[name])


def test_masks_are_drawn_anew_where_the_classes_changed(tmp_path: Path) -> None:
    source = sources.coco(tmp_path / "cells", range(4))
    assert cli.run(["prepare", str(source)]) == 0
    annotations = source / "annotations.json"
    tree = json.loads(annotations.read_text())
    tree["categories"].append({"id": 3, "name": "ghost"})
    tree["annotations"].append(tree["annotations"][0] | {"id": 99, "category_id": 3})
    annotations.write_text(json.dumps(tree))
    names = "background,cell,debris,ghost"
    assert cli.run(["prepare", str(source), "--update", "--class-names", names]) == 0
    manifest = Manifest.load(OUT)
    assert manifest.facts.classes.names == tuple(names.split(","))
    for sample in manifest.samples:
        assert sample.mask is not None
        with Image.open(sample.mask) as mask:
            palette = mask.getpalette() or []
        colors = [level for color in manifest.facts.classes.colors for level in color]
        assert palette[: len(colors)] == colors


def test_masks_are_drawn_anew_where_the_rules_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.coco(tmp_path / "cells", range(4))
    assert cli.run(["prepare", str(source)]) == 0
    before, masks = splits(), drawn()
    monkeypatch.setattr(content, "MADE_RULES", "2")
    monkeypatch.setattr(Drawing, "pixels", lambda self: np.flipud(pixels_of(self)))
    assert cli.run(["prepare", str(source), "--update"]) == 0
    assert splits() == before
    for name, mask in drawn().items():
        np.testing.assert_array_equal(mask, np.flipud(masks[name]))


@pytest.mark.parametrize("number", range(1, 9))
def test_a_kill_while_masks_are_drawn_leaves_the_former_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source = sources.coco(tmp_path / "cells", range(4))
    assert cli.run(["prepare", str(source)]) == 0
    before, masks = splits(), drawn()
    shutil.rmtree(source)
    sources.coco(source, range(7))
    code, num_writes = update_that_dies(source, monkeypatch, number)
    assert code == (130 if num_writes >= number else 0)
    between = splits()
    assert {name: between[name] for name in before} == before
    for name, mask in drawn().items():
        if name in masks:
            np.testing.assert_array_equal(mask, masks[name])
    assert cli.run(["prepare", str(source), "--update"]) == 0
    after = splits()
    assert {name: after[name] for name in between} == between
    assert len(after) == len(list((OUT / "masks").rglob("*.png"))) == 7


def test_the_progress_of_an_update_is_that_of_the_masks_it_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.coco(tmp_path / "cells", range(4))
    assert cli.run(["prepare", str(source)]) == 0
    shutil.rmtree(source)
    sources.coco(source, range(7))
    bars: list[list[int]] = []

    @contextlib.contextmanager
    def bar(label: str, *, total: int, unit: str) -> Iterator[Any]:
        bars.append([total])
        yield types.SimpleNamespace(move_to=lambda done, count: bars[-1].append(done))

    monkeypatch.setattr(writing, "progress_bar", bar)
    assert cli.run(["prepare", str(source), "--update"]) == 0
    assert bars == [[3, 1, 2, 3]]
