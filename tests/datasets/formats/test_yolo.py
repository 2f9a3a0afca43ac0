from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.formats.contract import Found, Pair, list_tree
from unet_pipeline.datasets.formats.yolo import FORMAT
from unet_pipeline.datasets.images import read_mask
from unet_pipeline.errors import DatasetError, UserError

RealData = Callable[[str], Path]

WIDTH, HEIGHT = 20, 10
SQUARE = [(2, 1), (5, 1), (5, 4), (2, 4)]  # pixels
OTHER = [(10, 6), (11, 6), (11, 7), (10, 7)]


def line(number: int, corners: list[tuple[float, float]]) -> str:
    """As exporters write it: a quarter of a pixel beyond, so that rounding gives the pixel."""
    parts = [f"{(x + 0.25) / WIDTH:.6f} {(y + 0.25) / HEIGHT:.6f}" for x, y in corners]
    return f"{number} {' '.join(parts)}"


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)).save(path)
    return path


def label(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in lines))
    return path


def config(root: Path, name: str = "data.yaml", **content: object) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(yaml.safe_dump({"names": ["cat", "dog"], **content}))
    return root / name


def sample(root: Path, image: str, *lines: str) -> None:
    """An image with its label file, images/ replaced by labels/."""
    picture(root / image)
    label(root / image.replace("images", "labels").replace(".png", ".txt"), *lines)


def read(source: Path, images: str | None = None) -> Found:
    return FORMAT.read(list_tree(source), images, None)


def drawn(pair: Pair) -> np.ndarray:
    assert not isinstance(pair.mask, Path)
    return pair.mask.pixels()


def finding(found: Found, code: str) -> Finding:
    (match,) = [f for f in found.findings if f.code == code]
    return match


def splits(found: Found) -> dict[str, str | None]:
    return {pair.sample_id: pair.split for pair in found.pairs}


def one(root: Path, *lines: str, **content: object) -> Found:
    """What is read of one picture whose label file holds these lines."""
    sample(root, "images/a.png", *lines)
    config(root, train="images", **content)
    return read(root)


# ---- outlines and classes -----------------------------------------------------------------------


def test_corners_are_fractions_of_the_sides(tmp_path: Path) -> None:
    found = one(tmp_path, line(0, SQUARE), line(1, OTHER))
    assert found.findings == ()
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[1:5, 2:6] = 1
    expected[6:8, 10:12] = 2
    np.testing.assert_array_equal(drawn(found.pairs[0]), expected)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "cat", "dog")
    assert found.class_list.values == (0, 1, 2)
    assert found.ignore_values == ()


def test_an_outline_may_be_the_whole_picture(tmp_path: Path) -> None:
    assert (drawn(one(tmp_path, "0 0 0 1 0 1 1 0 1").pairs[0]) == 1).all()


def test_the_picture_counts_as_it_stands_upright(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    turned = Image.new("RGB", (WIDTH, HEIGHT))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "images" / "a.jpg", exif=exif)
    label(tmp_path / "labels" / "a.txt", "0 0 0 0.5 0 0.5 1 0 1")
    config(tmp_path, train="images")
    mask = drawn(read(tmp_path).pairs[0])
    assert mask.shape == (WIDTH, HEIGHT)
    assert mask[:, :5].all()
    assert not mask[:, 6:].any()


def test_the_smaller_outline_lies_on_top_whatever_the_order(tmp_path: Path) -> None:
    small, large = line(1, [(3, 2), (4, 2), (4, 3), (3, 3)]), line(0, SQUARE)
    first = drawn(one(tmp_path / "1", small, large).pairs[0])
    second = drawn(one(tmp_path / "2", large, small).pairs[0])
    np.testing.assert_array_equal(first, second)
    assert [(first == value).sum() for value in (1, 2)] == [12, 4]


@pytest.mark.parametrize(
    "names", [{0: "cat", 2: "bee", 1: "dog"}, {"0": "cat", "1": "dog", "2": "bee"}]
)
def test_names_may_be_numbered(tmp_path: Path, names: dict[object, str]) -> None:
    found = one(tmp_path, line(2, SQUARE), names=names)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "cat", "dog", "bee")
    assert drawn(found.pairs[0]).max() == 3


def test_a_class_called_background_is_the_background(tmp_path: Path) -> None:
    found = one(tmp_path, line(0, SQUARE), line(1, OTHER), names=["background", "cat"])
    assert found.class_list is not None
    assert found.class_list.names == ("background", "cat")
    assert np.unique(drawn(found.pairs[0])).tolist() == [0, 1]


def test_a_number_of_classes_that_disagrees_with_the_names_is_reported(tmp_path: Path) -> None:
    warning = finding(one(tmp_path, line(0, SQUARE), nc=5), "class-count")
    assert warning.severity == "warning"
    assert "nc: 5 but 2 names" in warning.message
    assert one(tmp_path, line(0, SQUARE), nc=2).findings == ()


def test_more_classes_than_a_mask_can_hold_are_refused(tmp_path: Path) -> None:
    names = [f"class {n}" for n in range(254)]
    assert drawn(one(tmp_path, line(253, SQUARE), names=names).pairs[0]).max() == 254
    with pytest.raises(DatasetError, match=r"255 classes .*at most 254 are possible"):
        one(tmp_path, line(0, SQUARE), names=[*names, "one more"])


# ---- the YAML file ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "folder"),
    [
        ("images/{}/a.png", "images/{}"),  # Ultralytics
        ("{}/images/a.png", "../{}/images"),  # Roboflow, whose paths lead one folder too far up
        ("{}/images/a.png", "/content/drive/me/set/{}/images"),
        ("{}/images/a.png", "C:\\data\\set\\{}\\images"),
        ("images/{}/deep/a.png", "images/{}"),
    ],
)
def test_the_yaml_file_names_the_splits(tmp_path: Path, image: str, folder: str) -> None:
    keys = {"train": "train", "val": "valid", "test": "test"}
    for name in keys.values():
        sample(tmp_path, image.format(name), line(0, SQUARE))
    config(tmp_path, **{key: folder.format(name) for key, name in keys.items()})
    found = read(tmp_path)
    assert found.findings == ()
    assert found.left_out == ()
    assert sorted(str(split) for split in splits(found).values()) == ["test", "train", "val"]
    assert found.sentence.endswith("; splits: train 1, val 1, test 1")


@pytest.mark.parametrize("path", [".", "..", "/elsewhere/set", "set", None])
def test_folders_are_relative_to_path(tmp_path: Path, path: str | None) -> None:
    base = tmp_path if path == ".." else tmp_path / "set"
    for name in ("train", "val"):
        sample(base, f"images/{name}/{name}.png", line(0, SQUARE))
    more = {} if path is None else {"path": path}
    config(tmp_path / "set", train="images/train", val="images/val", **more)
    assert splits(read(tmp_path / "set")) == {"train": "train", "val": "val"}


def test_a_split_may_be_several_folders_or_a_list_of_images(tmp_path: Path) -> None:
    for name in ("day/a", "night/b", "more/c", "more/d", "more/e"):
        sample(tmp_path, f"images/{name}.png", line(0, SQUARE))
    (tmp_path / "val.txt").write_text("./images/more/c.png\n\n/old/home/images/more/d.png\n")
    config(tmp_path, train=["images/day", "images/night"], val="val.txt")
    found = read(tmp_path)
    assert splits(found) == {"a": "train", "b": "train", "c": "val", "d": "val"}


def test_images_of_a_list_that_do_not_exist_are_an_error(tmp_path: Path) -> None:
    sample(tmp_path, "images/a.png", line(0, SQUARE))
    (tmp_path / "train.txt").write_text("images/a.png\nimages/b.png\n")
    config(tmp_path, train="train.txt")
    error = finding(read(tmp_path), "missing-images")
    assert (error.severity, error.count, error.examples) == ("error", 1, ("images/b.png",))
    assert error.message == "1 of 2 images in train.txt does not exist"


def test_the_same_folder_for_train_and_val_is_no_split(tmp_path: Path) -> None:
    sample(tmp_path, "images/a.png", line(0, SQUARE))
    config(tmp_path, train="images", val="images")
    found = read(tmp_path)
    assert splits(found) == {"a": None}
    assert found.left_out == (
        "data.yaml names the same images for train and val: no split is taken from it",
    )


def test_train_alone_is_no_split(tmp_path: Path) -> None:
    found = one(tmp_path, line(0, SQUARE))
    assert splits(found) == {"a": None}
    assert found.left_out == ("data.yaml names images only for train: no split is taken from it",)


def test_a_test_split_that_repeats_val_is_left_out(tmp_path: Path) -> None:
    for name in ("train", "val"):
        sample(tmp_path, f"images/{name}/{name}.png", line(0, SQUARE))
    config(tmp_path, train="images/train", val="images/val", test="images/val")
    found = read(tmp_path)
    assert splits(found) == {"train": "train", "val": "val"}
    assert found.left_out == ("data.yaml names for test what it names for val",)


def test_an_image_in_two_splits_is_reported(tmp_path: Path) -> None:
    for name in "abc":
        sample(tmp_path, f"images/{name}.png", line(0, SQUARE))
    (tmp_path / "train.txt").write_text("images/a.png\nimages/b.png\n")
    (tmp_path / "val.txt").write_text("images/b.png\nimages/c.png\n")
    config(tmp_path, train="train.txt", val="val.txt")
    found = read(tmp_path)
    assert splits(found) == {"a": "train", "b": "train", "c": "val"}
    warning = finding(found, "in-several-splits")
    assert (warning.severity, warning.count) == ("warning", 1)


@pytest.mark.parametrize(("missing", "severity"), [("train", "error"), ("test", "warning")])
def test_a_folder_that_does_not_exist_is_reported(
    tmp_path: Path, missing: str, severity: str
) -> None:
    for name in {"train", "val", "test"} - {missing}:
        sample(tmp_path, f"images/{name}/{name}.png", line(0, SQUARE))
    config(tmp_path, **{name: f"images/{name}" for name in ("train", "val", "test")})
    found = read(tmp_path)
    assert len(found.pairs) == 2
    reported = finding(found, "missing-folders")
    assert (reported.severity, reported.examples) == (severity, (f"{missing}: images/{missing}",))


def test_paths_of_another_tree_leave_the_splits_to_the_folders(tmp_path: Path) -> None:
    for name in ("train", "val"):
        sample(tmp_path, f"images/{name}/{name}.png", line(0, SQUARE))
    config(tmp_path, train="../train/images", val="../valid/images", test="../test/images")
    found = read(tmp_path)
    assert splits(found) == {"train": "train", "val": "val"}
    assert found.left_out == ()
    (reported,) = found.findings
    assert (reported.code, reported.severity, reported.count) == ("missing-folders", "warning", 3)
    assert reported.message == (
        "data.yaml names 3 places without images; train and val taken by the names of the folders"
    )
    assert reported.examples == (
        "train: ../train/images",
        "val: ../valid/images",
        "test: ../test/images",
    )


def test_the_folder_of_a_split_stands_in_for_the_one_place_that_is_missing(tmp_path: Path) -> None:
    for name in ("train", "valid"):
        sample(tmp_path, f"images/{name}/{name}.png", line(0, SQUARE))
    config(tmp_path, train="images/train", val="images/val")
    found = read(tmp_path)
    assert splits(found) == {"train": "train", "valid": "val"}
    assert finding(found, "missing-folders").examples == ("val: images/val",)


def test_a_yaml_file_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    config(tmp_path, train="gone", val="lost")
    with pytest.raises(
        DatasetError, match=r"data\.yaml: none of the images.*train: gone.*--images"
    ):
        read(tmp_path)


def test_of_several_yaml_files_the_nearest_and_plainest_is_read(tmp_path: Path) -> None:
    sample(tmp_path, "images/a.png", line(0, SQUARE))
    config(tmp_path, "augmented.yaml", train="gone")
    config(tmp_path / "deep", train="gone")
    config(tmp_path, "dataset.yml", train="images", names=["bee"])
    (tmp_path / "data.yaml").write_text("names: [unclosed")
    found = read(tmp_path)
    assert found.class_list is not None
    assert (found.class_list.source, found.class_list.names[1]) == ("dataset.yml", "bee")


def test_the_yaml_file_itself_is_a_source(tmp_path: Path) -> None:
    sample(tmp_path / "photos", "images/a.png")
    label(tmp_path / "outlines" / "labels" / "a.txt", line(0, SQUARE))
    path = config(tmp_path / "outlines", path="../photos", train="images")
    (tmp_path / "photos" / "labels" / "a.txt").unlink()
    tree = list_tree(path)
    assert FORMAT.recognise(tree) == "data.yaml names classes and images"
    assert drawn(FORMAT.read(tree, None, None).pairs[0]).sum() == 16


# ---- label files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("images/a.png", "labels/a.txt"),
        ("images/x/images/y/a.png", "images/x/labels/y/a.txt"),  # the last one is replaced
        ("photos/a.png", "labels/a.txt"),
        ("photos/a.png", "photos/labels/a.txt"),
        ("photos/a.png", "photos/a.txt"),
        ("photos/a.png", "somewhere/else/a.txt"),
        ("a.b.png", "a.b.txt"),
    ],
)
@pytest.mark.parametrize("by_config", [True, False])
def test_the_label_file_is_found(tmp_path: Path, image: str, text: str, by_config: bool) -> None:
    picture(tmp_path / image)
    label(tmp_path / text, line(0, SQUARE))
    if by_config:
        config(tmp_path, train=os.path.dirname(image) or ".")  # noqa: PTH120
    found = read(tmp_path)
    assert [str(pair.image) for pair in found.pairs] == [str(tmp_path / image)]
    assert (drawn(found.pairs[0]) == 1).sum() == 16


def test_of_label_files_of_one_name_the_one_in_the_like_folder_is_taken(tmp_path: Path) -> None:
    for number, part in enumerate(("train", "val")):
        picture(tmp_path / "photos" / part / "a.png")
        label(tmp_path / "outlines" / part / "a.txt", line(number, SQUARE))
    config(tmp_path, train="photos/train", val="photos/val")
    found = read(tmp_path)
    assert splits(found) == {"train/a": "train", "val/a": "val"}
    assert [drawn(pair).max() for pair in found.pairs] == [1, 2]


def test_images_without_outlines_are_background_and_counted(tmp_path: Path) -> None:
    sample(tmp_path, "images/a.png", line(0, SQUARE))
    sample(tmp_path, "images/b.png")  # an empty label file
    sample(tmp_path, "images/c.png", "", "  ")
    picture(tmp_path / "images" / "d.png")
    config(tmp_path, train="images")
    found = read(tmp_path)
    assert [bool(drawn(pair).any()) for pair in found.pairs] == [True, False, False, False]
    (note,) = found.findings
    assert (note.code, note.severity, note.count) == ("background-images", "note", 3)


def test_a_folder_of_images_without_any_label_file_is_left_out(tmp_path: Path) -> None:
    sample(tmp_path, "images/train/a.png", line(0, SQUARE))
    sample(tmp_path, "images/val/b.png", line(0, SQUARE))
    picture(tmp_path / "images" / "test" / "c.png")
    config(tmp_path, train="images/train", val="images/val", test="images/test")
    found = read(tmp_path)
    assert splits(found) == {"a": "train", "b": "val"}
    assert found.left_out == ("left out: 1 image in images/test/, none of which has a label file",)


def test_no_label_file_at_all_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    config(tmp_path, train="images")
    with pytest.raises(DatasetError, match=r"none of 1 image has a label file.*labels/a\.txt"):
        read(tmp_path)


def test_a_label_file_without_an_image_is_an_error(tmp_path: Path) -> None:
    sample(tmp_path, "images/a.png", line(0, SQUARE))
    label(tmp_path / "labels" / "b.txt", line(0, SQUARE))
    label(tmp_path / "labels" / "c.txt")
    label(tmp_path / "labels" / "classes.txt", "cat", "dog")
    config(tmp_path, train="images")
    (error,) = read(tmp_path).findings
    assert (error.code, error.severity, error.count) == ("unpaired-labels", "error", 2)
    assert error.examples == ("labels/b.txt", "labels/c.txt")


def test_two_images_of_one_name_have_ids_of_their_own(tmp_path: Path) -> None:
    sample(tmp_path, "images/a.png", line(0, SQUARE))
    picture(tmp_path / "images" / "a.jpg")
    config(tmp_path, train="images")
    assert [pair.sample_id for pair in read(tmp_path).pairs] == ["a.jpg", "a.png"]


# ---- without a YAML file ------------------------------------------------------------------------


def test_folders_serve_where_there_is_no_yaml_file(tmp_path: Path) -> None:
    for name in ("train", "val"):
        sample(tmp_path, f"images/{name}/{name}.png", line(1, SQUARE))
    picture(tmp_path / "masks" / "train.png")
    assert FORMAT.recognise(list_tree(tmp_path)) == (
        "2 text files with outlines in labels/train/, labels/val/"
    )
    found = read(tmp_path)
    assert splits(found) == {"train": "train", "val": "val"}
    assert found.class_list is not None
    assert found.class_list.names == ("background", "class_1")
    assert finding(found, "unnamed-classes").severity == "note"


def test_a_list_of_classes_names_them_where_there_is_no_yaml_file(tmp_path: Path) -> None:
    sample(tmp_path, "images/a.png", line(1, SQUARE))
    label(tmp_path / "labels" / "classes.txt", "cat", "dog")
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "cat", "dog")
    assert drawn(found.pairs[0]).max() == 2
    assert found.findings == ()


def test_images_elsewhere_can_be_named(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "a.png")
    label(tmp_path / "set" / "labels" / "a.txt", line(0, SQUARE))
    found = read(tmp_path / "set", images="../photos")
    assert drawn(found.pairs[0]).sum() == 16
    with pytest.raises(DatasetError, match="--images"):
        read(tmp_path / "set")
    with pytest.raises(UserError, match="--masks"):
        FORMAT.read(list_tree(tmp_path / "set"), None, "masks")


@pytest.mark.parametrize(
    ("text", "recognised"),
    [
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", True),
        ("0 0.1 0.1 0.2 0.1", False),  # a box
        ("0 0.1 0.1 0.2 0.1 0.2", False),
        ("0.5 0.1 0.1 0.2 0.1 0.2 0.2", False),
        ("0 10 10 20 10 20 20", False),
        ("a note", False),
        ("", False),
    ],
)
def test_it_is_recognised_by_outlines(tmp_path: Path, text: str, recognised: bool) -> None:
    label(tmp_path / "labels" / "a.txt", text)
    assert (FORMAT.recognise(list_tree(tmp_path)) is not None) == recognised


@pytest.mark.parametrize(
    ("content", "recognised"),
    [
        ({"names": ["a"], "train": "x"}, True),
        ({"names": {0: "a"}, "path": "x"}, True),
        ({"names": ["a"]}, False),
        ({"names": "a", "path": "x"}, False),
        ({"names": {"a": "b"}, "path": "x"}, False),
        ({"train": "x", "val": "y"}, False),
        (["names", "path"], False),
    ],
)
def test_it_is_recognised_by_a_yaml_file(tmp_path: Path, content: object, recognised: bool) -> None:
    (tmp_path / "any.yaml").write_text(yaml.safe_dump(content))
    expected = "any.yaml names classes and images" if recognised else None
    assert FORMAT.recognise(list_tree(tmp_path)) == expected


# ---- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("cat 0.1 0.1 0.2 0.1 0.2 0.2", "broken-lines", "'cat' is no number"),
        ("0 0.1 0.1 0.2 x 0.2 0.2", "broken-lines", "'x' is no number"),
        (line(2, SQUARE), "unknown-categories", "class 2"),
        (line(-1, SQUARE), "broken-shapes", "-1 is no class number"),
        ("0.5 0.1 0.1 0.2 0.1 0.2 0.2", "broken-shapes", "0.5 is no class number"),
        ("inf 0.1 0.1 0.2 0.1 0.2 0.2", "broken-shapes", "inf is no class number"),
        ("nan 0.1 0.1 0.2 0.1 0.2 0.2", "broken-shapes", "nan is no class number"),
        ("0 0.1 0.1 0.2 nan 0.2 0.2", "broken-shapes", "no finite numbers"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.9", "broken-shapes", "7 coordinates, an odd number"),
        ("0 0.1 0.1", "broken-shapes", "1 corner, where 3 are needed"),
        ("0", "broken-shapes", "0 corners, where 3 are needed"),
        ("0 2 1 5 1 5 4", "broken-shapes", "lies outside the picture of 20x10 pixels (the corners"),
        ("0 0.1 0.1 34 0.1 0.2 0.2", "broken-shapes", "the corner (680, 1) lies far outside"),
        ("0 0.1 0.1 0.2 0.1", "no-segmentation", "a box, not an outline"),
    ],
)
def test_a_broken_line_is_left_out_and_named(
    tmp_path: Path, text: str, code: str, reason: str
) -> None:
    found = one(tmp_path, line(0, SQUARE), "", text)
    (warning,) = found.findings
    assert (warning.code, warning.severity, warning.count) == (code, "warning", 1)
    assert warning.examples[0].startswith("labels/a.txt line 3: ")
    assert reason in warning.examples[0]
    assert (drawn(found.pairs[0]) == 1).sum() == 16


def test_a_corner_a_pixel_outside_is_cut(tmp_path: Path) -> None:
    found = one(tmp_path, "0 -0.05 -0.1 1.05 -0.1 1.05 1.1 -0.05 1.1")
    assert found.findings == ()
    assert drawn(found.pairs[0]).all()


def test_nothing_but_broken_lines_is_an_error(tmp_path: Path) -> None:
    found = one(tmp_path, "0 0.1 0.1", "0 0.1 0.1 0.2 0.1")
    assert finding(found, "broken-shapes").severity == "error"
    assert finding(found, "no-segmentation").severity == "error"


def test_boxes_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"hold boxes, not outlines \(labels/a\.txt"):
        one(tmp_path, "0 0.5 0.5 0.1 0.2", "1 0.5 0.5 0.1 0.1")


def test_an_image_that_cannot_be_read_is_left_to_the_checks(tmp_path: Path) -> None:
    sample(tmp_path, "images/a.png", line(0, SQUARE))
    sample(tmp_path, "images/b.png", line(0, SQUARE))
    (tmp_path / "images" / "b.png").write_bytes(b"no picture")
    config(tmp_path, train="images")
    found = read(tmp_path)
    assert found.findings == ()
    with pytest.raises(DatasetError, match=r"b\.png"):
        drawn(found.pairs[1])


# ---- real files ---------------------------------------------------------------------------------


def test_the_fruits_have_the_pixels_of_their_palette_masks(real_data: RealData) -> None:
    root = real_data("fruits_nuts")
    found = read(root / "yolo_seg")
    assert found.findings == ()
    assert len(found.left_out) == 1
    assert found.class_list is not None
    assert found.class_list.names == ("background", "date", "fig", "hazelnut")
    assert splits(found) == {str(n): None for n in range(18)}
    for pair in found.pairs:
        assert pair.image == root / "images" / f"{pair.sample_id}.jpg"
        mask, palette = drawn(pair), read_mask(root / "masks_palette" / f"{pair.sample_id}.png")
        # In photo 3 a date was drawn after a smaller fig, of which it then hides 128 pixels in the
        # palette masks; here the smaller one lies on top
        allowed = 150 if pair.sample_id == "3" else 48
        assert (mask != palette).sum() <= allowed, pair.sample_id


def test_the_labels_of_the_fruits_need_no_yaml_file(real_data: RealData, tmp_path: Path) -> None:
    root = real_data("fruits_nuts")
    shutil.copytree(root / "yolo_seg" / "labels", tmp_path / "labels")
    found = read(tmp_path, images=str(root / "images"))
    reference = {pair.sample_id: pair for pair in read(root / "yolo_seg").pairs}
    assert len(found.pairs) == 18
    for pair in found.pairs:
        np.testing.assert_array_equal(drawn(pair), drawn(reference[pair.sample_id]))
