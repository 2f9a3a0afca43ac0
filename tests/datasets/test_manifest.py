from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from unet_pipeline.classes import Classes, default_colors
from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.manifest import (
    DatasetFacts,
    Extent,
    FoldFacts,
    ImageSize,
    Manifest,
    ObjectSizes,
    Sample,
    count_splits,
    fingerprint,
    natural_key,
)
from unet_pipeline.datasets.samples_csv import load_samples
from unet_pipeline.errors import DatasetError, ResourceError, UserError


def make(data: Path, names: tuple[str, ...] = ("a", "b", "c")) -> Manifest:
    """A manifest over empty files."""
    data.mkdir(parents=True, exist_ok=True)
    samples = []
    for number, name in enumerate(names):
        for folder, extension in (("images", ".jpg"), ("masks", ".png")):
            path = data / folder / f"{name}{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        samples.append(
            Sample(
                sample_id=name,
                image_file=data / "images" / f"{name}.jpg",
                mask_file=data / "masks" / f"{name}.png" if number else None,
                split=("train", "val", "test")[number % 3],
                group=f"patient {number // 2}",
                width=640 + number,
                height=480,
                content=f"{number:032x}",
            )
        )
    classes = Classes(
        names=("sky", "straße"), colors=default_colors(2), values=(0, 7), ignore_values=(255,)
    )
    facts = DatasetFacts(
        name=data.name,
        classes=classes,
        in_channels=3,
        dtype="uint16",
        value_range=(0.0, 4095.0),
        mean=(0.1, 0.2, 1 / 3),
        std=(0.5, 0.25, 2 / 3),
        class_pixel_counts=(10**12, 3),
        ignored_pixels=5,
        num_samples=count_splits(samples),
        image_size=ImageSize(
            height=Extent(min=480, median=480, max=480), width=Extent(min=640, median=641, max=642)
        ),
        fingerprint=fingerprint(samples),
    )
    return Manifest(data, facts, tuple(samples), findings=(Finding("classes", "note", "a note"),))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    manifest = make(tmp_path / "data")
    manifest.save(tmp_path / "out")
    loaded = Manifest.load(tmp_path / "out")
    assert loaded.samples == manifest.samples
    assert loaded.facts == manifest.facts
    assert loaded.root == tmp_path / "out"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["dataset.yaml", "samples.csv"]


def test_paths_are_relative_so_that_both_folders_can_move(tmp_path: Path) -> None:
    manifest = make(tmp_path / "old" / "data")
    manifest.save(tmp_path / "old" / "out")
    table = (tmp_path / "old" / "out" / "samples.csv").read_text()
    assert "b,../data/images/b.jpg,../data/masks/b.png,val,patient 0,,641,480," in table
    (tmp_path / "old").rename(tmp_path / "new")
    loaded = Manifest.load(tmp_path / "new" / "out")
    assert loaded.samples[0].image == tmp_path / "new" / "data" / "images" / "a.jpg"
    assert loaded.facts.fingerprint == manifest.facts.fingerprint


def test_a_manifest_behind_a_link_finds_its_files(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    manifest = make(tmp_path / "data")
    manifest.save(tmp_path / "link" / "out")
    for folder in (tmp_path / "link" / "out", tmp_path / "deep" / "er" / "out"):
        assert Manifest.load(folder).samples == manifest.samples


def test_an_image_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "0001").touch()
    manifest = make(tmp_path / "data")
    (tmp_path / "data/images/a.jpg").unlink()
    (tmp_path / "data/images/a.jpg").symlink_to(tmp_path / "store" / "0001")
    manifest.save(tmp_path / "out")
    assert Manifest.load(tmp_path / "out").samples[0].image.name == "a.jpg"


def test_splits_give_their_samples_in_order(tmp_path: Path) -> None:
    manifest = make(tmp_path / "data", ("a", "b", "c", "d"))
    assert [s.sample_id for s in manifest.split("train")] == ["a", "d"]
    with pytest.raises(UserError, match="did you mean 'val'"):
        manifest.split("vall")  # type: ignore[arg-type]


def test_a_split_edited_in_a_spreadsheet_counts(tmp_path: Path) -> None:
    manifest = make(tmp_path / "data")
    manifest.save(tmp_path)
    table = tmp_path / "samples.csv"
    text = table.read_text().replace(",val,", ",train,").replace(",", ";").replace("\n", "\r\n")
    table.write_bytes(b"\xef\xbb\xbf" + text.encode() + b";;;;;;;;\r\n")
    loaded = Manifest.load(tmp_path)
    assert [s.split for s in loaded.samples] == ["train", "train", "test"]
    assert loaded.facts.num_samples == {"train": 2, "val": 0, "test": 1}
    assert loaded.facts.fingerprint != manifest.facts.fingerprint


def test_strange_names_survive(tmp_path: Path) -> None:
    names = ("with, comma", 'with "quotes"', "new\nline", "=sum(a1)", "grün", "a;b")
    manifest = make(tmp_path / "data", names)
    manifest.save(tmp_path / "out")
    assert Manifest.load(tmp_path / "out").samples == manifest.samples


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")
    try:
        manifest = make(tmp_path / "data", (name, "b"))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    manifest.save(tmp_path / "out")
    assert Manifest.load(tmp_path / "out").samples == manifest.samples


def test_the_fingerprint_is_of_ids_splits_and_contents_only(tmp_path: Path) -> None:
    samples = make(tmp_path / "data").samples
    moved = make(tmp_path / "elsewhere").samples
    assert fingerprint(moved[::-1]) == fingerprint(samples)
    assert len(fingerprint(samples)) == 64
    for change in ({"split": "test"}, {"content": "f"}, {"sample_id": "z"}):
        changed = (dataclasses.replace(samples[0], **change), *samples[1:])
        assert fingerprint(changed) != fingerprint(samples)
    assert fingerprint(samples[:2]) != fingerprint(samples)


def test_the_fingerprint_stays_what_runs_have_recorded(tmp_path: Path) -> None:
    rows = [("a", "train", "1"), ("a/b", "val", ""), ("ä", "test", "22")]
    text = "".join(f"{len(part)}:{part}" for row in sorted(rows) for part in row)
    one = make(tmp_path / "data").samples[0]
    samples = [
        dataclasses.replace(one, sample_id=i, split=s, content=c)  # type: ignore[arg-type]
        for i, s, c in rows[::-1]
    ]
    assert fingerprint(samples) == hashlib.sha256(text.encode()).hexdigest()


def test_a_folder_without_a_manifest_is_a_user_error(tmp_path: Path) -> None:
    assert not Manifest.is_in(tmp_path)
    with pytest.raises(UserError, match=r"no prepared dataset.*unet prepare") as caught:
        Manifest.load(tmp_path)
    assert caught.value.exit_code == 2
    make(tmp_path / "data").save(tmp_path)
    assert Manifest.is_in(tmp_path)


def edited(folder: Path, name: str, old: str, new: str) -> None:
    make(folder / "data").save(folder)
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("dataset.yaml", "format_version: 1", "format_version: 2", "upgrade unet-pipeline"),
        ("dataset.yaml", "in_channels: 3", "in_channels: 0", "in_channels: .*prepare again"),
        ("dataset.yaml", "in_channels: 3", "in_channel: 3", "; remove .* and prepare again"),
        ("dataset.yaml", "name: data", "name: [", "no valid YAML"),
        ("samples.csv", ",val,", ",valid,", r"row 3: unknown split 'valid': did you mean 'val'"),
        ("samples.csv", ",641,", ",wide,", r"row 3: width 'wide'"),
        ("samples.csv", "patient 0,,641", "patient 0,x,641", r"row 3: fold 'x'"),
        ("samples.csv", "patient 0,,641", "patient 0,1,641", "has a fold 1, but .* knows 0 folds"),
        ("samples.csv", "split", "part", "has no column split; remove .* and prepare again"),
        ("samples.csv", "\nb,", "\na,", r"sample ids occur twice \(a\)"),
        ("samples.csv", "\nb,", "\n,", "row 3: sample_id or image is empty"),
        ("samples.csv", "images/c.jpg", "images/gone.jpg", r"1 of 5 files .* not there any more"),
    ],
)
def test_a_damaged_manifest_is_named(
    tmp_path: Path, name: str, old: str, new: str, words: str
) -> None:
    edited(tmp_path, name, old, new)
    with pytest.raises(DatasetError, match=words) as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_yaml_that_would_execute_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "data").save(tmp_path)
    target = tmp_path / "executed"
    (tmp_path / "dataset.yaml").write_text(f'!!python/object/apply:os.mkdir ["{target}"]')
    with pytest.raises(DatasetError, match="no valid YAML"):
        Manifest.load(tmp_path)
    assert not target.exists()


def test_the_facts_are_plain_yaml(tmp_path: Path) -> None:
    make(tmp_path / "data").save(tmp_path)
    content = yaml.safe_load((tmp_path / "dataset.yaml").read_text())
    assert content["classes"]["names"] == ["sky", "straße"]
    assert content["value_range"] == [0.0, 4095.0]
    assert "straße" in (tmp_path / "dataset.yaml").read_text(encoding="utf-8")


def many_rows(folder: Path, number: int) -> tuple[Sample, ...]:
    """A saved manifest of `number` rows over three images, one of them below another folder."""
    manifest = make(folder / "data", ("x", "sub/y", "z"))
    rows = tuple(
        dataclasses.replace(
            manifest.samples[i % 3],
            sample_id=f"s{i}",
            split=("train", "val", "test", "train")[i % 4],
            content=f"{i:032x}",
        )
        for i in range(number)
    )
    dataclasses.replace(manifest, samples=rows).save(folder)
    return rows


def test_a_hundred_thousand_rows_cost_one_listing_a_folder_and_no_question_a_file(
    tmp_path: Path,
) -> None:
    rows = many_rows(tmp_path, 100_000)
    asked: Counter[str] = Counter()
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and (event in ("open", "os.listdir", "os.scandir") or "stat" in event):
            asked[f"{event} {arguments[0]}"] += 1

    stats = 0
    real_stat = os.stat

    def counted_stat(*arguments: object, **options: object) -> os.stat_result:
        nonlocal stats
        stats += 1
        return real_stat(*arguments, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", counted_stat)
        sys.addaudithook(watch)  # it cannot be taken away again
        loaded = Manifest.load(tmp_path)
        watching = False
    assert loaded.samples == rows
    listed = {name: count for name, count in asked.items() if name.startswith("os.")}
    folders = ("images", "images/sub", "masks", "masks/sub")
    assert listed == {f"os.scandir {tmp_path / 'data' / name}": 1 for name in folders}
    opened = [name for name in asked if name.startswith("open ")]
    assert set(opened) <= {f"open {tmp_path / n}" for n in ("samples.csv", "dataset.yaml")}
    assert 0 < stats < 20


def test_a_row_that_is_cut_short_is_empty_at_its_end(tmp_path: Path) -> None:
    make(tmp_path / "data").save(tmp_path)
    table = tmp_path / "samples.csv"
    table.write_text(table.read_text().replace(f",{1:032x}", ""))
    assert Manifest.load(tmp_path).samples[1].content == ""


@pytest.mark.parametrize("lacking", ["", "fold"])
def test_a_row_with_more_cells_than_the_header_is_named(tmp_path: Path, lacking: str) -> None:
    make(tmp_path / "data").save(tmp_path)
    table = tmp_path / "samples.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()]
    if lacking:
        at = rows[0].index(lacking)
        rows = [[*row[:at], *row[at + 1 :]] for row in rows]
    width = len(rows[0])
    rows[2].append("1")
    table.write_text("".join(",".join(row) + "\n" for row in rows))
    with pytest.raises(DatasetError) as caught:
        load_samples(table)
    assert str(caught.value) == (
        f"{table}, row 3: has {width + 1} cells, the header {width}: put names that hold the "
        "delimiter into quotes"
    )


@pytest.mark.parametrize("surplus", [",,,", ", ,"])
def test_empty_cells_behind_a_row_are_no_fault(tmp_path: Path, surplus: str) -> None:
    manifest = make(tmp_path / "data")
    manifest.save(tmp_path)
    table = tmp_path / "samples.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()]
    header, *others = [",".join([*row[:5], *row[6:]]) for row in rows]  # without fold
    table.write_text("\n".join([header, *(row + surplus for row in others)]))
    assert tuple(load_samples(table).samples) == manifest.samples


def test_a_quote_that_nobody_closes_is_one_line(tmp_path: Path) -> None:
    many_rows(tmp_path, 3000)
    table = tmp_path / "samples.csv"
    table.write_text(table.read_text().replace("\ns1,", '\n"s1,', 1))
    with pytest.raises(DatasetError, match="is no table that can be parsed: field larger"):
        load_samples(table)


def test_the_rows_alone_are_read_where_files_have_moved(tmp_path: Path) -> None:
    manifest = make(tmp_path / "data")
    manifest.save(tmp_path / "out")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    table = load_samples(tmp_path / "out" / "samples.csv")
    assert tuple(table.samples) == manifest.samples
    assert len(table.gone) == 5
    with pytest.raises(UserError, match=r"samples\.csv: cannot be read"):
        load_samples(tmp_path / "samples.csv")


def test_files_elsewhere_in_the_tree_keep_their_absolute_paths(tmp_path: Path) -> None:
    manifest = make(tmp_path / "data")
    manifest.save(tmp_path)
    table = tmp_path / "samples.csv"
    image = manifest.samples[0].image
    table.write_text(table.read_text().replace("data/images/a.jpg", f"{image}"))
    assert Manifest.load(tmp_path).samples == manifest.samples


# ---- folds --------------------------------------------------------------------------------------


def of_fold(number: int) -> FoldFacts:
    return FoldFacts(
        value_range=(0.0, 1000.0 + number),
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.5, 0.5 + number),
        class_pixel_counts=(10, number),
        ignored_pixels=number,
    )


def with_folds(data: Path) -> Manifest:
    """Samples a to g: b, e in test; folds 0, 1, 2, 0 and none for the others."""
    manifest = make(data, tuple("abcdefg"))
    folds = (0, None, 1, 2, None, 0, None)
    splits = ("train", "test", "val", "train", "test", "val", "train")
    samples = tuple(
        dataclasses.replace(sample, fold=fold, split=split)
        for sample, fold, split in zip(manifest.samples, folds, splits, strict=True)
    )
    changes = {
        "folds": tuple(of_fold(i) for i in range(3)),
        "percentiles": {"p1": (3.0, 4.0, 5.0)},
        "objects": {"sky": ObjectSizes(num_objects=2, min_area=1, median_area=3, max_area=9)},
        "num_samples": count_splits(samples),
        "fingerprint": fingerprint(samples),
    }
    facts = manifest.facts.model_copy(update=changes)
    return dataclasses.replace(manifest, samples=samples, facts=facts)


def test_folds_and_facts_for_reports_survive_a_round_trip(tmp_path: Path) -> None:
    manifest = with_folds(tmp_path / "data")
    manifest.save(tmp_path / "out")
    loaded = Manifest.load(tmp_path / "out")
    assert loaded.samples == manifest.samples
    assert loaded.facts == manifest.facts


def test_one_fold_validates_and_the_others_train(tmp_path: Path) -> None:
    manifest = with_folds(tmp_path / "data")
    second = manifest.fold(1)
    assert [s.split for s in second.samples] == [
        "train", "test", "val", "train", "test", "train", "train"]  # fmt: skip
    assert second.facts.num_samples == {"train": 4, "val": 1, "test": 2}
    assert second.facts.value_range == (0.0, 1001.0)
    assert second.facts.std == (0.5, 0.5, 1.5)
    assert (second.facts.class_pixel_counts, second.facts.ignored_pixels) == ((10, 1), 1)
    assert second.facts.percentiles == {}  # of samples that validate now
    assert second.facts.objects == {}
    assert second.facts.classes == manifest.facts.classes
    scored = [s.sample_id for k in range(3) for s in manifest.fold(k).split("val")]
    assert sorted(scored) == ["a", "c", "d", "f"]


def test_the_fingerprint_of_a_fold_is_that_of_its_splits(tmp_path: Path) -> None:
    manifest = with_folds(tmp_path / "data")
    folds = [manifest.fold(k) for k in range(3)]
    assert len({fold.facts.fingerprint for fold in folds}) == 3
    folds[2].save(tmp_path / "out")  # as a run folder holds it
    loaded = Manifest.load(tmp_path / "out")
    assert loaded.facts == folds[2].facts
    assert loaded.fold(0).facts == folds[0].facts


@pytest.mark.parametrize("number", [-1, 3])
def test_a_fold_that_is_not_there_is_a_user_error(tmp_path: Path, number: int) -> None:
    with pytest.raises(UserError, match=rf"fold {number}: .* has the folds 0 to 2"):
        with_folds(tmp_path).fold(number)


def test_a_dataset_without_folds_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unet prepare SOURCE --folds 5"):
        make(tmp_path).fold(0)


def test_a_manifest_of_the_first_version_still_loads(tmp_path: Path) -> None:
    manifest = make(tmp_path / "data")
    manifest.save(tmp_path)
    table = tmp_path / "samples.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()]
    table.write_text("".join(",".join([*row[:5], *row[6:]]) + "\n" for row in rows))
    assert "fold" not in table.read_text()
    facts = yaml.safe_load((tmp_path / "dataset.yaml").read_text())
    for name in ("folds", "percentiles", "objects"):
        del facts[name]
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(facts))
    loaded = Manifest.load(tmp_path)
    assert loaded.samples == manifest.samples
    assert loaded.facts == manifest.facts


def test_numbers_in_names_sort_as_numbers() -> None:
    names = ["b", "a10", "a2", "a2b", "10", "9", "a"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a2", "a2b", "a10", "b"]
    assert natural_key("x²") != natural_key("x2")


def test_a_folder_that_cannot_be_looked_into_is_named_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ResourceError, match=r"locked: permission denied") as caught:
        Manifest.is_in(tmp_path / "locked")
    assert "dataset.yaml" not in str(caught.value)
