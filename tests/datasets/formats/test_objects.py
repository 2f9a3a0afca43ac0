from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unet_pipeline.datasets.formats.contract import Found, list_tree
from unet_pipeline.datasets.formats.object_masks import ObjectMasks
from unet_pipeline.datasets.formats.objects import FORMAT
from unet_pipeline.errors import DatasetError, UserError

SIZE = (8, 10)  # height, width


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    return save(path, np.zeros((*size, 3), dtype=np.uint8))


def box(path: Path, rows: slice, columns: slice, value: int = 255) -> Path:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[rows, columns] = value
    return save(path, mask)


def two_objects(folder: Path, name: str) -> None:
    picture(folder / name / "images" / f"{name}.png")
    box(folder / name / "masks" / "p.png", slice(0, 2), slice(0, 3))
    box(folder / name / "masks" / "q.png", slice(4, 8), slice(5, 10))


def read(root: Path) -> Found:
    return FORMAT.read(list_tree(root), None, None)


def recognised(root: Path) -> bool:
    return FORMAT.recognise(list_tree(root)) is not None


def mask_of(found: Found, sample_id: str) -> ObjectMasks:
    mask = next(pair.mask for pair in found.pairs if pair.sample_id == sample_id)
    assert isinstance(mask, ObjectMasks)
    return mask


def codes(found: Found) -> list[tuple[str, str, int]]:
    return [(f.code, f.severity, f.count) for f in found.findings]


def test_the_objects_of_an_image_become_one_mask(tmp_path: Path) -> None:
    two_objects(tmp_path, "b10")
    two_objects(tmp_path, "b2")
    assert recognised(tmp_path)
    found = read(tmp_path)
    assert [pair.sample_id for pair in found.pairs] == ["b2", "b10"]
    expected = np.zeros(SIZE, dtype=np.uint8)
    expected[0:2, 0:3] = 255
    expected[4:8, 5:10] = 255
    assert np.array_equal(mask_of(found, "b2").pixels(), expected)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "foreground")
    assert found.class_list.values == (0, 255)
    assert found.ignore_values == ()
    assert found.findings == ()


def test_images_beside_each_other_have_folders_of_masks_by_their_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.png")
        box(tmp_path / "masks" / name / "1.png", slice(0, 1), slice(0, 4))
    assert recognised(tmp_path)
    found = read(tmp_path)
    assert [(p.sample_id, p.image) for p in found.pairs] == [
        (name, tmp_path / "images" / f"{name}.png") for name in ("a", "b")
    ]
    assert (mask_of(found, "a").pixels() == 255).sum() == 4


def test_folders_of_classes_give_the_classes_by_name(tmp_path: Path) -> None:
    picture(tmp_path / "x" / "images" / "x.png")
    box(tmp_path / "x" / "masks" / "tissue" / "1.png", slice(0, 8), slice(0, 8))
    box(tmp_path / "x" / "masks" / "Nucleus" / "1.png", slice(2, 4), slice(2, 4))
    picture(tmp_path / "y" / "images" / "y.png")
    box(tmp_path / "y" / "masks" / "debris" / "1.png", slice(0, 1), slice(0, 1))
    assert recognised(tmp_path)
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names[0] == "background"
    assert found.class_list.values == (0, 1, 2, 3)
    index = {name: k for k, name in enumerate(found.class_list.names)}
    assert set(index) == {"background", "tissue", "Nucleus", "debris"}
    pixels = mask_of(found, "x").pixels()
    assert pixels[0, 0] == index["tissue"]
    assert mask_of(found, "y").pixels()[0, 0] == index["debris"]
    # the smaller object is on top though the other is later by name
    assert (pixels[2:4, 2:4] == index["Nucleus"]).all()
    assert (pixels == index["tissue"]).sum() == 64 - 4


def test_folders_of_classes_may_lie_below_masks_by_name(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    box(tmp_path / "masks" / "a" / "cell" / "1.png", slice(0, 1), slice(0, 1))
    picture(tmp_path / "images" / "b.png")
    box(tmp_path / "masks" / "b" / "dirt" / "1.png", slice(0, 1), slice(0, 2))
    box(tmp_path / "masks" / "b" / "dirt" / "2.png", slice(1, 2), slice(0, 2))
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "cell", "dirt")
    assert (mask_of(found, "b").pixels() == 2).sum() == 4


def test_objects_with_and_without_a_class_do_not_mix(tmp_path: Path) -> None:
    two_objects(tmp_path, "x")
    box(tmp_path / "x" / "masks" / "cell" / "1.png", slice(0, 1), slice(0, 1))
    with pytest.raises(DatasetError, match=r"p\.png: is in no class folder.*cell/"):
        read(tmp_path)


def test_splits_are_the_folders_above_the_ids(tmp_path: Path) -> None:
    two_objects(tmp_path / "train", "a")
    two_objects(tmp_path / "val", "a")
    two_objects(tmp_path / "val", "b")
    assert recognised(tmp_path)
    found = read(tmp_path)
    assert [(p.sample_id, p.split) for p in found.pairs] == [
        ("b", "val"),
        ("train/a", "train"),
        ("val/a", "val"),
    ]
    assert "splits by folder: train 1, val 2" in found.sentence


def test_images_without_any_masks_in_their_folder_are_left_out(tmp_path: Path) -> None:
    two_objects(tmp_path / "stage1_train", "a")
    picture(tmp_path / "stage1_test" / "t1" / "images" / "t1.png")
    picture(tmp_path / "stage1_test" / "t2" / "images" / "t2.png")
    found = read(tmp_path)
    assert [p.sample_id for p in found.pairs] == ["a"]
    assert found.left_out == ("left out: 2 images in stage1_test/, which have no masks",)
    assert found.findings == ()


@pytest.mark.parametrize("with_folder", [True, False])
def test_an_image_without_object_files_is_all_background(tmp_path: Path, with_folder: bool) -> None:
    two_objects(tmp_path, "a")
    picture(tmp_path / "empty" / "images" / "e.png", (5, 7))
    if with_folder:
        (tmp_path / "empty" / "masks").mkdir()
    found = read(tmp_path)
    mask = mask_of(found, "empty")
    assert mask.pixels().shape == (5, 7)
    assert not mask.pixels().any()
    assert mask.pixels_and_overlap()[1] == 0
    assert len(mask.digest()) == 16
    assert codes(found) == [("background-images", "note", 1)]


def test_masks_without_an_image_are_an_error(tmp_path: Path) -> None:
    two_objects(tmp_path, "a")
    box(tmp_path / "lost" / "masks" / "p.png", slice(0, 1), slice(0, 1))
    found = read(tmp_path)
    assert [p.sample_id for p in found.pairs] == ["a"]
    assert codes(found) == [("unpaired-masks", "error", 1)]
    assert found.findings[0].examples == ("lost/masks",)


def test_a_folder_of_masks_by_name_without_its_image_is_an_error(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    box(tmp_path / "masks" / "a" / "1.png", slice(0, 1), slice(0, 4))
    box(tmp_path / "masks" / "gone" / "1.png", slice(0, 1), slice(0, 4))
    assert codes(read(tmp_path)) == [("unpaired-masks", "error", 1)]


def test_two_images_of_one_set_of_masks_are_an_error(tmp_path: Path) -> None:
    two_objects(tmp_path, "a")
    two_objects(tmp_path, "b")
    picture(tmp_path / "b" / "images" / "other.png")
    found = read(tmp_path)
    assert [p.sample_id for p in found.pairs] == ["a"]
    assert codes(found) == [("ambiguous-images", "error", 1)]
    assert "b/images/other.png" in found.findings[0].examples[0]


@pytest.mark.parametrize("split", ["", "train/", "val/"])
def test_a_folder_of_images_and_a_folder_of_masks_are_no_objects(
    tmp_path: Path, split: str
) -> None:
    for name in "abc":
        picture(tmp_path / f"{split}images" / f"{name}.png")
        box(tmp_path / f"{split}masks" / f"{name}.png", slice(0, 1), slice(0, 4))
    with pytest.raises(DatasetError, match="no folder with one mask file for each object"):
        read(tmp_path)


def test_masks_of_different_sizes_are_refused_by_name(tmp_path: Path) -> None:
    two_objects(tmp_path, "a")
    save(tmp_path / "a" / "masks" / "z.png", np.ones((3, 4), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"z\.png: is 4x3 pixels, its image a\.png 10x8"):
        mask_of(read(tmp_path), "a").pixels()


def test_overlapping_pixels_are_counted_once_each(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "images" / "a.png")
    for name in ("1", "2", "3"):
        box(tmp_path / "a" / "masks" / f"{name}.png", slice(0, 2), slice(0, 3))
    box(tmp_path / "a" / "masks" / "4.png", slice(1, 3), slice(2, 4))
    mask = mask_of(read(tmp_path), "a")
    assert mask.pixels_and_overlap()[1] == 6
    assert (mask.pixels() > 0).sum() == 6 + 3


def test_foreground_is_what_is_not_zero_and_over_the_middle_in_a_jpeg(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "images" / "a.png")
    box(tmp_path / "a" / "masks" / "1.png", slice(0, 1), slice(0, 1), value=1)
    sharp = np.zeros(SIZE, dtype=np.uint8)
    sharp[4:8, 0:5] = 255
    save(tmp_path / "a" / "masks" / "2.jpg", sharp, quality=50)
    color = np.zeros((*SIZE, 3), dtype=np.uint8)
    color[0, 9] = (0, 0, 200)
    save(tmp_path / "a" / "masks" / "3.png", color)
    pixels = mask_of(read(tmp_path), "a").pixels()
    assert pixels[0, 0] == 255
    assert pixels[0, 9] == 255
    assert ((pixels > 0).sum()) == 1 + 1 + 20


def test_the_digest_follows_bytes_and_values(tmp_path: Path) -> None:
    two_objects(tmp_path, "a")
    mask = mask_of(read(tmp_path), "a")
    former = mask.digest()
    assert mask.digest() == former
    assert ObjectMasks(mask.folder, mask.names, (1, 2), mask.image).digest() != former
    box(tmp_path / "a" / "masks" / "p.png", slice(0, 2), slice(0, 4))
    assert mask.digest() != former
    assert pickle.loads(pickle.dumps(mask)) == mask


def test_folders_of_plain_pairs_are_not_recognised(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("1", "2") if split == "train" else ("3",):
            picture(tmp_path / "splits" / split / "images" / f"{name}.png")
            picture(tmp_path / "splits" / split / "masks" / f"x{name}.png")
    picture(tmp_path / "splits" / "val" / "masks" / "4.png")
    for city in ("rome", "oslo"):
        picture(tmp_path / "cities" / city / "images" / "1.png")
        picture(tmp_path / "cities" / city / "masks" / "1.png")
        picture(tmp_path / "nested" / "images" / city / "1.png")
        picture(tmp_path / "nested" / "masks" / city / "1.png")
    picture(tmp_path / "one" / "slide" / "images" / "1.png")
    picture(tmp_path / "one" / "slide" / "masks" / "1.png")
    picture(tmp_path / "one" / "slide" / "masks" / "2.png")
    for root in ("splits", "cities", "nested", "one"):
        assert not recognised(tmp_path / root), root
    with pytest.raises(DatasetError, match="one mask file for each object"):
        read(tmp_path / "one" / "slide" / "images")


def test_naming_folders_is_refused(tmp_path: Path) -> None:
    two_objects(tmp_path, "a")
    with pytest.raises(UserError, match="without --images and --masks"):
        FORMAT.read(list_tree(tmp_path), "images", None)


def test_nuclei_of_the_data_science_bowl_agree_with_their_numbered_masks(
    real_data: Callable[[str], Path],
) -> None:
    root = real_data("dsb2018_mini")
    assert recognised(root / "stage1_layout")
    found = read(root / "stage1_layout")
    assert len(found.pairs) == 9
    assert found.findings == ()
    compared = 0
    for pair in found.pairs:
        numbered = root / "masks_instance_u16" / f"{pair.sample_id[:16]}.png"
        if not numbered.exists():
            continue
        with Image.open(numbered) as file:
            expected = np.asarray(file) > 0
        mask = mask_of(found, pair.sample_id)
        assert np.array_equal(mask.pixels(), np.where(expected, 255, 0))
        assert mask.pixels_and_overlap()[1] == 0
        compared += 1
    assert compared >= 5


def test_a_copy_in_the_layout_of_objects_below_plain_folders_is_not_taken_for_the_data(
    real_data: Callable[[str], Path],
) -> None:
    assert not recognised(real_data("dsb2018_mini"))


@pytest.mark.parametrize("wrong", ["p", "q"])
def test_of_files_of_two_sizes_the_one_is_named_that_does_not_fit_the_image(
    tmp_path: Path, wrong: str
) -> None:
    two_objects(tmp_path, "a")
    two_objects(tmp_path, "b")
    save(tmp_path / "a" / "masks" / f"{wrong}.png", np.ones((3, 10), np.uint8))
    expected = rf"{wrong}\.png: is 10x3 pixels, its image a\.png 10x8: save all masks"
    with pytest.raises(DatasetError, match=expected):
        mask_of(read(tmp_path), "a").pixels()
