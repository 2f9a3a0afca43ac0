from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from unet_pipeline.datasets.formats.contract import Found, list_tree
from unet_pipeline.datasets.formats.plain import read
from unet_pipeline.errors import DatasetError, UserError

RealData = Callable[[str], Path]


def find_pairs(source: Path, *, images: str | None = None, masks: str | None = None) -> Found:
    return read(list_tree(source), images, masks)


def tree(root: Path, *names: str) -> Path:
    """Empty files; pairing looks at names alone. {a,b} in a name stands for both."""
    for name in names:
        if "{" in name:
            before, rest = name.split("{", 1)
            middle, after = rest.split("}", 1)
            tree(root, *(f"{before}{part}{after}" for part in middle.split(",")))
            continue
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def rows(found: Found, root: Path) -> list[tuple[str, str, str, str | None]]:
    return [
        (p.sample_id, os.path.relpath(p.image, root), os.path.relpath(p.mask, root), p.split)
        for p in found.pairs
    ]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "masks"),
        ("imgs", "masks"),
        ("image", "label"),
        ("img", "gt"),
        ("Images", "Masks"),
        ("JPEGImages", "SegmentationClass"),
        ("images", "annotations"),
        ("images", "masks_png"),
        ("image", "GroundTruth"),
        ("cell_images", "cell_masks"),
        ("photos", "photo_labels"),
    ],
)
def test_two_folders_side_by_side_are_paired(tmp_path: Path, images: str, masks: str) -> None:
    tree(tmp_path, f"{images}/{{b,a10,a2}}.jpg", f"{masks}/{{a10,a2,b}}.png", "README.md")
    found = find_pairs(tmp_path)
    assert rows(found, tmp_path) == [
        (stem, f"{images}/{stem}.jpg", f"{masks}/{stem}.png", None) for stem in ("a2", "a10", "b")
    ]
    assert found.sentence == f"3 pairs: images in {images}/, masks in {masks}/"
    assert found.left_out == ()


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}/images/x.png", "{}/masks/x.png"),
        ("images/{}/x.png", "masks/{}/x.png"),
        ("{}/x.png", "{}annot/x.png"),
        ("{}/x.png", "{}_annot/x.png"),
        ("{}_images/x.png", "{}_masks/x.png"),
        ("images_{}/x.png", "masks_{}/x.png"),
        ("data/{}/images/x.png", "data/{}/masks/x.png"),
        ("{}/x.jpg", "{}/x_mask.png"),
        ("{}/x.jpg", "{}/x.png"),
        ("images/{}/x.png", "masks/{}/x_mask.png"),
    ],
)
@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_splits_are_folders_above_below_or_in_the_names(
    tmp_path: Path, image: str, mask: str, val: str
) -> None:
    for split in ("train", val, "test"):
        tree(tmp_path, image.format(split), mask.format(split))
    found = find_pairs(tmp_path)
    assert {p.split: os.path.relpath(p.image, tmp_path) for p in found.pairs} == {
        "train": image.format("train"),
        "val": image.format(val),
        "test": image.format("test"),
    }
    assert [p.split for p in found.pairs if mask.format(val) in str(p.mask)] == ["val"]
    assert found.sentence.endswith("splits by folder: train 1, val 1, test 1")
    # the same name in three splits makes three ids
    assert sorted(p.sample_id for p in found.pairs) == ["test/x", "train/x", "val/x"]


def test_ids_name_no_split_where_they_are_unique(tmp_path: Path) -> None:
    tree(tmp_path, "train/images/a.png", "train/masks/a.png", "val/images/b.png", "val/masks/b.png")
    assert [p.sample_id for p in find_pairs(tmp_path).pairs] == ["a", "b"]


def test_one_side_may_have_splits_and_the_other_none(tmp_path: Path) -> None:
    tree(tmp_path, "images/train/a.png", "images/val/b.png", "masks/{a,b}.png")
    assert [(p.sample_id, p.split) for p in find_pairs(tmp_path).pairs] == [
        ("a", "train"),
        ("b", "val"),
    ]


def test_subfolders_are_mirrored(tmp_path: Path) -> None:
    tree(tmp_path, "images/{p1,p2}/{x,y}.png", "masks/{p1,p2}/{x,y}.png")
    found = find_pairs(tmp_path)
    assert [p.sample_id for p in found.pairs] == ["p1/x", "p1/y", "p2/x", "p2/y"]
    assert all(p.image.parent.name == p.mask.parent.name for p in found.pairs)


def test_a_subfolder_that_one_side_has_throughout_tells_nothing_apart(tmp_path: Path) -> None:
    tree(tmp_path, "images/x.jpg", "annotations/trimaps/x.png", "annotations/xmls/x.xml")
    assert rows(find_pairs(tmp_path), tmp_path)[0][:3] == (
        "x",
        "images/x.jpg",
        "annotations/trimaps/x.png",
    )


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("x.png", "x_mask.png"),
        ("x.png", "x_Mask.png"),
        ("x.png", "x_label.png"),
        ("x.png", "x-seg.png"),
        ("x.tif", "x_GT.tif"),
        ("x.png", "x_gt.png"),
        ("x.jpg", "mask_x.png"),
        ("x_image.png", "x_mask.png"),
        ("image_7.png", "mask_7.png"),
        ("7_sat.jpg", "7_mask.png"),
        ("X.PNG", "x_mask.PNG"),
    ],
)
def test_names_may_carry_their_role(tmp_path: Path, image: str, mask: str) -> None:
    one = tree(tmp_path / "one", image, mask)
    assert [(p.image.name, p.mask.name) for p in find_pairs(one).pairs] == [(image, mask)]
    two = tree(tmp_path / "two", f"images/{image}", f"masks/{mask}")
    assert [(p.image.name, p.mask.name) for p in find_pairs(two).pairs] == [(image, mask)]


@pytest.mark.parametrize(
    ("image", "mask"), [(".jpg", ".png"), (".tif", ".gif"), (".bmp", ".png"), (".png", ".npy")]
)
def test_in_one_folder_the_extension_tells_them_apart(
    tmp_path: Path, image: str, mask: str
) -> None:
    tree(tmp_path, f"x{image}", f"x{mask}", f"y{image}", f"y{mask}")
    found = find_pairs(tmp_path)
    assert [(p.image.suffix, p.mask.suffix) for p in found.pairs] == [(image, mask)] * 2
    assert found.sentence == f"2 pairs: images ({image}) and masks ({mask}) in one folder"


def test_the_strictest_agreement_of_names_wins(tmp_path: Path) -> None:
    # x_mask is an image here, with a mask of its own
    tree(tmp_path, "images/{x,x_mask}.png", "masks/{x,x_mask}.png")
    assert [(p.image.stem, p.mask.stem) for p in find_pairs(tmp_path).pairs] == [
        ("x", "x"),
        ("x_mask", "x_mask"),
    ]


def test_the_plain_folder_is_preferred_and_the_other_is_mentioned(tmp_path: Path) -> None:
    tree(tmp_path, "images/x.png", "masks/x.png", "masks_color/x.png", "preview/{x,y}.png")
    found = find_pairs(tmp_path)
    assert [p.mask.parent.name for p in found.pairs] == ["masks"]
    assert found.left_out == ("left out: 3 images in masks_color/, preview/",)


def test_what_lies_deeper_is_something_else(tmp_path: Path) -> None:
    tree(tmp_path, "images/x.png", "masks/x.png", "extra/one/images/p.png", "extra/one/masks/q.png")
    found = find_pairs(tmp_path)
    assert [p.sample_id for p in found.pairs] == ["x"]
    assert found.left_out == ("left out: 2 images in extra/one/images/, extra/one/masks/",)


def test_images_of_a_split_without_any_masks_are_left_out_and_mentioned(tmp_path: Path) -> None:
    tree(tmp_path, "train_images/a.png", "train_masks/a.png", "test_images/{b,c}.png")
    found = find_pairs(tmp_path)
    assert [p.sample_id for p in found.pairs] == ["a"]
    assert found.left_out == ("left out: 2 images in test_images/, which have no masks at all",)


def test_pairs_in_no_split_are_left_out_beside_splits(tmp_path: Path) -> None:
    tree(tmp_path, "images/train/a.png", "masks/train/a.png", "images/b.png", "masks/b.png")
    found = find_pairs(tmp_path)
    assert [p.sample_id for p in found.pairs] == ["a"]
    assert found.left_out == ("left out: 1 pair in no split (b)",)


def test_hidden_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    tree(tmp_path, "images/x.png", "masks/x.png", "images/.y.png", ".cache/images/z.png")
    tree(tmp_path, "__MACOSX/images/x.png", "images/Thumbs.db", "masks/notes.txt")
    found = find_pairs(tmp_path)
    assert [p.sample_id for p in found.pairs] == ["x"]
    assert found.left_out == ()


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    tree(tmp_path / "far", "images/x.png", "masks/x.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(tmp_path / "far" / "images")
    (data / "masks").symlink_to(tmp_path / "far" / "masks")
    (data / "self").symlink_to(data)
    found = find_pairs(data)
    assert [str(p.image) for p in found.pairs] == [str(data / "images" / "x.png")]


def test_composed_and_decomposed_letters_are_the_same_name(tmp_path: Path) -> None:
    tree(tmp_path, "images/gr\u00fcn.png", "masks/gru\u0308n.png")
    assert [p.sample_id for p in find_pairs(tmp_path).pairs] == ["gr\u00fcn"]


# ---- named folders ------------------------------------------------------------------------------


def test_folders_can_be_named(tmp_path: Path) -> None:
    tree(tmp_path, "left/x.png", "drawn/x.png", "right/x.png")
    found = find_pairs(tmp_path, images="left", masks="drawn")
    assert rows(found, tmp_path) == [("x", "left/x.png", "drawn/x.png", None)]
    assert found.left_out == ("left out: 1 image in right/",)


def test_one_named_folder_leaves_the_other_to_be_recognised(tmp_path: Path) -> None:
    tree(tmp_path, "images/x.png", "drawn/x.png", "masks/x.png", "left/x.png")
    found = find_pairs(tmp_path, masks="drawn")
    assert [(p.image.parent.name, p.mask.parent.name) for p in found.pairs] == [("images", "drawn")]
    found = find_pairs(tmp_path, images="left")
    assert [(p.image.parent.name, p.mask.parent.name) for p in found.pairs] == [("left", "masks")]


def test_a_named_folder_may_lie_in_every_split(tmp_path: Path) -> None:
    tree(tmp_path, "{train,val}/rgb_left/x.png", "{train,val}/drawn/x.png", "{train,val}/rgb/x.png")
    found = find_pairs(tmp_path, images="rgb_left", masks="drawn")
    assert rows(found, tmp_path) == [
        ("train/x", "train/rgb_left/x.png", "train/drawn/x.png", "train"),
        ("val/x", "val/rgb_left/x.png", "val/drawn/x.png", "val"),
    ]


def test_named_folders_may_have_splits_below_or_lie_elsewhere(tmp_path: Path) -> None:
    data = tree(
        tmp_path / "data", "pics/train/x.png", "pics/val/y.png", "drawn/{train/x,val/y}.png"
    )
    found = find_pairs(data, images="pics", masks="drawn")
    assert [(p.sample_id, p.split) for p in found.pairs] == [("x", "train"), ("y", "val")]
    tree(tmp_path / "other", "x.png", "y.png")
    found = find_pairs(data, images="pics", masks=str(tmp_path / "other"))
    assert [(p.sample_id, p.split, p.mask.parent.name) for p in found.pairs] == [
        ("x", "train", "other"),
        ("y", "val", "other"),
    ]
    found = find_pairs(data, images="pics", masks="../other")
    assert len(found.pairs) == 2


def test_a_named_image_folder_may_hold_the_masks_too(tmp_path: Path) -> None:
    tree(tmp_path, "good/{x.jpg,x.png}", "bad/{y.jpg,y.png}")
    assert [p.sample_id for p in find_pairs(tmp_path, images="good").pairs] == ["good/x"]


def test_a_named_folder_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    tree(tmp_path, "images/x.png", "masks/x.png")
    with pytest.raises(UserError, match=r"--masks gt: .* which holds images/, masks/") as caught:
        find_pairs(tmp_path, masks="gt")
    assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="name the same files"):
        find_pairs(tmp_path, images="images", masks="images")


@pytest.mark.parametrize(("one", "other"), [("images", "masks"), ("train/imgs", "train/labels")])
def test_exchanged_folders_are_asked_about(tmp_path: Path, one: str, other: str) -> None:
    tree(tmp_path, f"{one}/{{x,y}}.jpg", f"{other}/{{x,y}}.png")
    with pytest.raises(UserError, match=f"--images {other} and --masks {one}: are .* exchanged"):
        find_pairs(tmp_path, images=other, masks=one)
    assert len(find_pairs(tmp_path, images=one, masks=other).pairs) == 2


def test_a_named_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    tree(tmp_path, "images/{x,y}.png", "truth/{x,y}.doc")
    with pytest.raises(DatasetError, match=r"truth: .*\.png.*; masks may be \.mat too\); it holds"):
        find_pairs(tmp_path, masks="truth")
    with pytest.raises(DatasetError, match=r"truth: holds no images .*\.npz\); it holds 2 \.doc"):
        find_pairs(tmp_path, images="truth")


# ---- what does not pair -------------------------------------------------------------------------


def test_a_folder_that_does_not_exist_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist") as caught:
        find_pairs(tmp_path / "gone")
    assert caught.value.exit_code == 2
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        find_pairs(tmp_path / "file")


def test_a_folder_without_images_names_the_extensions_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"looked for \.png \.jpg .*it is empty") as caught:
        find_pairs(tmp_path)
    assert caught.value.exit_code == 4
    tree(tmp_path, "a/{1,2,3}.dcm", "notes.txt")
    with pytest.raises(DatasetError, match=r"it holds 3 \.dcm, 1 \.txt"):
        find_pairs(tmp_path)


def test_images_without_masks_say_how_masks_are_found(tmp_path: Path) -> None:
    tree(tmp_path, "images/{a,b}.png")
    with pytest.raises(DatasetError, match="found 2 images in images/ but no masks; put them"):
        find_pairs(tmp_path)


def test_pictures_of_masks_win_over_matlab_files(tmp_path: Path) -> None:
    tree(tmp_path, "images/{x,y}.png", "groundTruth/{x,y}.mat")
    assert {p.mask.suffix for p in find_pairs(tmp_path).pairs} == {".mat"}
    tree(tmp_path, "masks_png/{x,y}.png")
    found = find_pairs(tmp_path)
    assert {p.mask.suffix for p in found.pairs} == {".png"}
    assert "groundTruth/" in found.left_out[0]


def test_matlab_files_among_the_images_are_no_images(tmp_path: Path) -> None:
    tree(tmp_path, "images/{x,y}.{png,mat}", "masks/{x,y}.png")
    assert [p.image.suffix for p in find_pairs(tmp_path).pairs] == [".png", ".png"]


def test_masks_without_a_folder_of_images_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "masks/a.png")
    with pytest.raises(DatasetError, match="found masks \\(masks/\\) but no folder of images"):
        find_pairs(tmp_path)


def test_unpaired_files_are_counted_and_the_first_five_of_each_named(tmp_path: Path) -> None:
    tree(tmp_path, "images/{a,b,1,2,3,4,5,6,10}.png", "masks/{a,b,z}.png")
    found = find_pairs(tmp_path)
    assert [pair.sample_id for pair in found.pairs] == ["a", "b"]
    images, masks = found.findings
    assert (images.code, images.severity, images.count) == ("unpaired-images", "error", 7)
    assert images.examples == tuple(f"images/{n}.png" for n in range(1, 6))
    assert "7 of 9 images have no mask" in images.message
    assert (masks.code, masks.examples) == ("unpaired-masks", ("masks/z.png",))
    assert "1 of 3 masks has no image" in masks.message
    assert "\n" not in images.sentence()


def test_a_pair_across_splits_is_no_pair(tmp_path: Path) -> None:
    tree(tmp_path, "images/train/{a,b}.png", "images/val/c.png", "masks/train/a.png")
    tree(tmp_path, "masks/val/{b,c}.png")
    images, masks = find_pairs(tmp_path).findings
    assert images.examples == ("images/train/b.png",)
    assert masks.examples == ("masks/val/b.png",)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    one = tree(tmp_path / "one", "images/{x.png,x.jpg}", "masks/x.png")
    with pytest.raises(DatasetError, match="2 images of one name"):
        find_pairs(one)
    two = tree(tmp_path / "two", "images/x.png", "masks/{x.png,x.npy}")
    with pytest.raises(DatasetError, match="2 masks of one name"):
        find_pairs(two)
    three = tree(tmp_path / "three", "x.png", "x_mask.png", "x_label.png")
    with pytest.raises(DatasetError, match="2 masks of one name"):
        find_pairs(three)


def test_several_candidates_ask_for_a_choice(tmp_path: Path) -> None:
    tree(tmp_path, "images/x.png", "masks_a/x.png", "masks_b/x.png")
    with pytest.raises(DatasetError, match=r"masks: masks_a/, masks_b/; choose one with --masks"):
        find_pairs(tmp_path)
    assert len(find_pairs(tmp_path, masks="masks_b").pairs) == 1
    tree(tmp_path, "imgs/x.png")
    with pytest.raises(DatasetError, match=r"images: images/, imgs/; choose one with --images"):
        find_pairs(tmp_path, masks="masks_b")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    tree(tmp_path, "images/x.png", "masks/x.png")
    if os.geteuid() == 0:
        pytest.skip("root may list every folder")
    (tmp_path / "masks").chmod(0)
    try:
        with pytest.raises(DatasetError, match="cannot be listed"):
            find_pairs(tmp_path)
    finally:
        (tmp_path / "masks").chmod(0o755)


# ---- real data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_pairs", "words"),
    [
        ("camvid", 701, "splits by folder: train 367, val 101, test 233"),
        ("wbc1", 300, "images in images/, masks in masks/"),
        ("isbi_membrane", 30, "images in train/image/, masks in train/label/"),
        ("crackforest", 118, "images in image/, masks in masks_png/"),
        ("fruits_nuts", 18, "images in images/, masks in masks_palette/"),
        ("nasa_super1", 18, "splits by folder: train 10, val 4, test 4"),
        ("dsb2018_mini", 124, "masks in masks_instance_u16/"),
    ],
)
def test_real_folders_are_recognised(
    real_data: RealData, name: str, num_pairs: int, words: str
) -> None:
    found = find_pairs(real_data(name))
    assert len(found.pairs) == num_pairs
    assert words in found.sentence
