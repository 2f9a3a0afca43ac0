from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import yaml

from unet_pipeline.classes import Classes, default_colors
from unet_pipeline.datasets.manifest import (
    DatasetFacts,
    Extent,
    ImageSize,
    Manifest,
    Sample,
    count_splits,
    fingerprint,
    natural_key,
)
from unet_pipeline.errors import DatasetError, UserError


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
                image=data / "images" / f"{name}.jpg",
                mask=data / "masks" / f"{name}.png" if number else None,
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
    return Manifest(data, facts, tuple(samples), notes=("a note",))


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
    assert "b,../data/images/b.jpg,../data/masks/b.png,val,patient 0,641,480," in table
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
    table.write_bytes(b"\xef\xbb\xbf" + text.encode() + b";;;;;;;\r\n")
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
        ("dataset.yaml", "in_channels: 3", "in_channel: 3", "prepare again"),
        ("dataset.yaml", "name: data", "name: [", "no valid YAML"),
        ("samples.csv", ",val,", ",valid,", r"row 3: unknown split 'valid': did you mean 'val'"),
        ("samples.csv", ",641,", ",wide,", r"row 3: width 'wide'"),
        ("samples.csv", "split", "part", "has no column split"),
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


def test_twenty_thousand_rows_survive_a_round_trip(tmp_path: Path) -> None:
    manifest = make(tmp_path / "data", ("x",))
    one = manifest.samples[0]
    rows = tuple(
        dataclasses.replace(one, sample_id=f"s{i}", content=f"{i:032x}") for i in range(20_000)
    )
    dataclasses.replace(manifest, samples=rows).save(tmp_path)
    assert Manifest.load(tmp_path).samples == rows


def test_numbers_in_names_sort_as_numbers() -> None:
    names = ["b", "a10", "a2", "a2b", "10", "9", "a"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a2", "a2b", "a10", "b"]
    assert natural_key("x²") != natural_key("x2")
