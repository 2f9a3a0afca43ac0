from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycoco

from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.formats import coco
from unet_pipeline.datasets.formats.contract import Found, Pair, list_tree
from unet_pipeline.datasets.formats.layout import split_of
from unet_pipeline.datasets.images import read_mask
from unet_pipeline.datasets.shapes import Drawing, Polygon
from unet_pipeline.errors import DatasetError, UserError

Entry = dict[str, Any]
RealData = Callable[[str], Path]


def square(left: float, top: float, side: float) -> list[float]:
    right, bottom = left + side, top + side
    return [left, top, right, top, right, bottom, left, bottom]


def annotation(segmentation: Any, *, category: Any = 1, image: Any = 1, crowd: int = 0) -> Entry:
    return {
        "id": 1,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": crowd,
        "bbox": [0, 0, 5, 5],
    }


def write(
    path: Path,
    *annotations: Entry,
    images: tuple[str, ...] = ("a.png",),
    categories: tuple[tuple[Any, str], ...] = ((1, "cat"), (2, "dog")),
    size: tuple[int, int] = (20, 30),
) -> Path:
    """A COCO file of images of 30x20; the ids of the images are 1, 2, ..."""
    height, width = size
    content = {
        "images": [
            {"id": number, "file_name": name, "height": height, "width": width}
            for number, name in enumerate(images, start=1)
        ],
        "annotations": list(annotations),
        "categories": [{"id": key, "name": name} for key, name in categories],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(root / name)


def read(source: Path, images: str | None = None) -> Found:
    return coco.read(list_tree(source), images, None)


def pixels(pair: Pair) -> Any:
    assert isinstance(pair.mask, Drawing)
    return pair.mask.pixels()


def only_mask(root: Path, *annotations: Entry, **kwargs: Any) -> Any:
    pictures(root, "a.png")
    write(root / "x.json", *annotations, **kwargs)
    found = read(root)
    assert found.findings == ()
    return pixels(found.pairs[0])


def findings(root: Path, *annotations: Entry) -> tuple[Finding, ...]:
    """What is said of annotations beside a good one."""
    pictures(root, "a.png")
    write(root / "x.json", annotation([square(2, 2, 3)]), *annotations)
    found = read(root)
    assert (pixels(found.pairs[0]) == 1).sum() == 16
    return found.findings


# ---- segmentations ------------------------------------------------------------------------------


def test_a_polygon_is_painted_with_its_class(tmp_path: Path) -> None:
    mask = only_mask(tmp_path, annotation([square(2, 3, 4)], category=2), categories=((2, "dog"),))
    expected = np.zeros((20, 30), dtype=np.uint8)
    expected[3:8, 2:7] = 1
    assert (mask == expected).all()


def test_several_rings_are_one_object(tmp_path: Path) -> None:
    mask = only_mask(tmp_path, annotation([square(1, 1, 3), square(11, 11, 2)]))
    assert mask.sum() == 16 + 9


def test_one_ring_without_brackets_is_read(tmp_path: Path) -> None:
    assert only_mask(tmp_path, annotation(square(1, 1, 3))).sum() == 16


@pytest.mark.parametrize("kind", ["list", "text"])
def test_run_length_codes_are_painted(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    wanted = (rng.random((20, 30)) < 0.4).astype(np.uint8)
    wanted[5:9, 5:9] = 0
    code: Entry = pycoco.encode(np.asfortranarray(wanted))
    code["counts"] = code["counts"].decode()
    if kind == "list":
        flat = wanted.T.ravel()
        edges = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff(np.r_[0, edges, flat.size]).tolist()
        code["counts"] = [0, *runs] if flat[0] else runs
    assert (only_mask(tmp_path, annotation(code)) == wanted).all()


def test_a_small_object_is_seen_on_a_large_one_whatever_the_order(tmp_path: Path) -> None:
    small, large = annotation([square(5, 5, 2)], category=2), annotation([square(1, 1, 12)])
    mask = only_mask(tmp_path, small, large)
    assert (mask == 2).sum() == 9
    assert (mask == 1).sum() == 169 - 9


def test_crowds_are_void_and_cover_no_object(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(
        tmp_path / "x.json",
        annotation([square(1, 1, 12)]),
        annotation([square(5, 5, 9)], category=2, crowd=1),
        annotation([square(2, 2, 1)], category=2),
    )
    found = read(tmp_path)
    mask = pixels(found.pairs[0])
    assert found.ignore_values == (255,)
    assert mask[6, 6] == 1
    assert (mask == 255).sum() == 100 - 81
    assert (mask == 2).sum() == 4


def test_without_crowds_no_value_is_void(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path / "x.json", annotation([square(1, 1, 3)]))
    assert read(tmp_path).ignore_values == ()


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (annotation([]), "no-segmentation"),
        (annotation(None), "no-segmentation"),
        (annotation({}), "no-segmentation"),
        (annotation([[1, 1, 5, 5]]), "broken-shapes"),
        (annotation([[]]), "broken-shapes"),
        (annotation([[1, 1, 5, 5, 9, 1, 3]]), "broken-shapes"),
        (annotation([[1, 1, 5, float("nan"), 9, 1]]), "broken-shapes"),
        (annotation([[1, 1, 5, float("inf"), 9, 1]]), "broken-shapes"),
        (annotation([[1, 1, 5, "5", 9, 1]]), "broken-shapes"),
        (annotation([[1, 1, 5, None, 9, 1]]), "broken-shapes"),
        (annotation([None]), "broken-shapes"),
        (annotation("text"), "broken-shapes"),
        (annotation([square(1, 1, 3)], category=9), "unknown-categories"),
        (annotation([square(1, 1, 3)], category=None), "unknown-categories"),
        (annotation([square(1, 1, 3)], image=9), "unknown-images"),
        (annotation({"size": [30, 20], "counts": [600]}), "broken-shapes"),
        (annotation({"size": [20, 30], "counts": [500]}), "broken-shapes"),
        (annotation({"size": [20, 30], "counts": [700, -100]}), "broken-shapes"),
        (annotation({"size": [20, 30], "counts": "~~~"}), "broken-shapes"),
        (annotation({"size": [20, 30], "counts": ""}), "broken-shapes"),
        (annotation({"size": [20, 30], "counts": "é"}), "broken-shapes"),
        (annotation({"size": [20], "counts": [600]}), "broken-shapes"),
        (annotation({"counts": [600]}), "broken-shapes"),
    ],
)
def test_what_cannot_be_drawn_is_named_and_the_rest_is_drawn(
    tmp_path: Path, broken: Entry, code: str
) -> None:
    (finding,) = findings(tmp_path, broken)
    assert (finding.code, finding.severity, finding.count) == (code, "warning", 1)
    assert "annotation 1 in x.json" in finding.examples[0]


def test_faults_are_counted_by_kind_with_five_examples_and_their_reasons(tmp_path: Path) -> None:
    short = [annotation([[1, 1, 5, 5]]) | {"id": number} for number in range(7)]
    one, other = findings(tmp_path, *short, annotation([]), annotation({}))
    assert one.message == "7 shapes that cannot be drawn, left out"
    assert one.count == 7
    assert len(one.examples) == 5
    assert one.examples[0] == "annotation 0 in x.json, a.png: 2 corners, where 3 are needed"
    assert other.message == "2 shapes without an outline, left out"


def test_a_broken_ring_leaves_the_others_of_its_object(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path / "x.json", annotation([square(1, 1, 3), [1, 1]]))
    found = read(tmp_path)
    assert pixels(found.pairs[0]).sum() == 16
    assert [f.code for f in found.findings] == ["broken-shapes"]


def test_boxes_alone_are_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path / "x.json", annotation([]), annotation([]))
    found = read(tmp_path)
    assert [(f.code, f.severity, f.count) for f in found.findings] == [
        ("no-segmentation", "error", 2)
    ]
    assert found.class_list is None


# ---- categories ---------------------------------------------------------------------------------


def test_classes_follow_the_ids_and_unused_ones_are_left_out(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(
        tmp_path / "x.json",
        annotation([square(1, 1, 3)], category=10),
        annotation([square(8, 1, 4)], category=2),
        annotation([square(15, 1, 5)], category=3),
        categories=((10, "ten"), (3, "facade"), (2, "two"), (0, "facade"), (7, "seven")),
    )
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "two", "facade", "ten")
    assert found.class_list.values == (0, 1, 2, 3)
    assert found.left_out == (
        "left out: 2 categories that no segmentation uses: facade (id 0), seven (id 7)",
    )
    mask = pixels(found.pairs[0])
    assert [(mask == k).sum() for k in (1, 2, 3)] == [25, 36, 16]


def test_two_used_categories_of_one_name_are_one_class(tmp_path: Path) -> None:
    one, two = annotation([square(1, 1, 3)]), annotation([square(8, 1, 3)], category=2)
    mask = only_mask(tmp_path, one, two, categories=((1, "cat"), (2, "cat")))
    assert (mask == 1).sum() == 32


def numbered(path: Path, *categories: tuple[str, Any], ids: int = 1) -> None:
    """Give the file at `path` these categories, by name and mask value; the ids count up."""
    content = json.loads(path.read_text())
    content["categories"] = [
        {"id": number, "name": name} | ({} if value == "absent" else {"mask_value": value})
        for number, (name, value) in enumerate(categories, start=ids)
    ]
    path.write_text(json.dumps(content))


def test_mask_values_number_the_classes_whether_used_or_not(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    one, two = annotation([square(1, 1, 3)]), annotation([square(8, 1, 4)], category=3)
    path = write(tmp_path / "x.json", one, two)
    numbered(path, ("cat", 7), ("dog", 2.0), ("eel", 254), ("fox", 3))
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "dog", "fox", "cat", "eel")
    assert found.class_list.values == (0, 2, 3, 7, 254)
    assert found.left_out == ()
    mask = pixels(found.pairs[0])
    assert {k: (mask == k).sum() for k in np.unique(mask)} == {0: 559, 7: 16, 254: 25}


def test_a_background_with_a_mask_value_lies_where_nothing_is_annotated(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    crowd = annotation([square(12, 1, 3)], crowd=1)
    path = write(tmp_path / "x.json", annotation([square(1, 1, 3)]), crowd,
                 images=("a.png", "b.png"))  # fmt: skip
    numbered(path, ("cat", 0), ("_Background_", 4))
    found = read(tmp_path)
    assert found.class_list is not None
    assert (found.class_list.names, found.class_list.values) == (("cat", "_Background_"), (0, 4))
    assert found.ignore_values == (255,)
    assert "1 object and 1 crowd region (void) drawn" in found.sentence
    a, b = map(pixels, found.pairs)
    assert [(a == k).sum() for k in (0, 4, 255)] == [16, 568, 16]
    assert (b == 4).all()


def test_category_0_names_the_background(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    path = write(tmp_path / "x.json", annotation([square(1, 1, 3)]))
    numbered(path, ("sky", 0), ("cat", 1), ids=0)
    found = read(tmp_path)
    assert found.class_list is not None
    assert (found.class_list.names, found.class_list.values) == (("sky", "cat"), (0, 1))
    assert pixels(found.pairs[0]).sum() == 16


def test_images_without_any_annotation_are_background_where_classes_have_mask_values(
    tmp_path: Path,
) -> None:
    pictures(tmp_path, "a.png")
    path = write(tmp_path / "x.json")
    with pytest.raises(DatasetError, match="holds no annotations"):
        read(tmp_path)
    numbered(path, ("cat", 1))
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "cat")
    assert not pixels(found.pairs[0]).any()


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([("cat", 1), ("dog", "absent")], "categories[1], 'dog', has none; give each name"),
        ([("cat", "1")], "'cat', has mask_value '1'; give each name a mask_value of its own"),
        ([("cat", 1.5)], "'cat', has mask_value '1.5'"),
        ([("cat", True)], "'cat', has mask_value 'True'"),
        ([("cat", None)], "'cat', has mask_value 'None'"),
        ([("cat", [255, 0, 0])], "'cat', has mask_value '[255, 0, 0]'"),
        ([("cat", float("nan"))], "'cat', has mask_value 'nan'"),
        ([("cat", float("inf"))], "'cat', has mask_value 'inf'"),
        ([("cat", -1)], "'cat', has mask_value '-1'"),
        ([("cat", 255)], "'cat', has mask_value '255'"),
        ([("cat", 10**400)], f"'cat', has mask_value '1{39 * '0'}'; give"),
        ([("cat", 1), ("c\nt", 1)], "categories[1], 'c\\nt', has mask_value 1, as 'cat' has"),
        ([("cat", 1), ("cat", 2)], "categories[1], 'cat', has mask_value 2, but 1 before"),
    ],
)
def test_mask_values_that_cannot_be_are_refused_in_one_line(
    tmp_path: Path, categories: list[tuple[str, Any]], message: str
) -> None:
    pictures(tmp_path, "a.png")
    path = write(tmp_path / "x.json", annotation([square(1, 1, 3)]))
    numbered(path, *categories)
    with pytest.raises(DatasetError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{path}: categories[")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ((("cat", 2),), "category 'cat' has mask_value 2, but in another file it is 1; give"),
        ((("dog", 1),), "category 'dog' has mask_value 1, but in another file 'cat' has it; give"),
        ((("cat", 1), ("dog", 2)), None),
        ((), None),
    ],
)
def test_files_have_to_agree_about_mask_values(
    tmp_path: Path, other: tuple[tuple[str, int], ...], message: str | None
) -> None:
    pictures(tmp_path, "train/a.png", "valid/b.png")
    numbered(write(tmp_path / "train/x.json", annotation([square(1, 1, 3)])), ("cat", 1))
    path = write(tmp_path / "valid/x.json", images=("b.png",))
    numbered(path, *other)
    if message is None:
        found = read(tmp_path)
        assert found.class_list is not None
        assert found.class_list.names == ("background", "cat", "dog")[: max(len(other), 1) + 1]
        assert found.left_out == ()
        return
    with pytest.raises(DatasetError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_mask_values_count_for_nothing_beside_a_file_without(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a.png", "valid/b.png")
    numbered(write(tmp_path / "train/x.json", annotation([square(1, 1, 3)])), ("cat", 9))
    write(tmp_path / "valid/x.json", annotation([square(1, 1, 3)], category=2), images=("b.png",))
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "cat", "dog")
    assert found.class_list.values == (0, 1, 2)
    assert found.left_out == (
        "left out: the mask_value of categories, which valid/x.json does not give",
    )


def test_files_that_number_their_categories_differently_are_merged_by_name(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a.png", "valid/b.png")
    dog = annotation([square(1, 1, 3)], category=1)
    cats = ((1, "dog"), (2, "cat"))
    both = [annotation([square(1, 1, 3)], category=2), annotation([square(8, 1, 3)], category=1)]
    write(tmp_path / "train/_annotations.coco.json", *both)
    write(tmp_path / "valid/_annotations.coco.json", dog, images=("b.png",), categories=cats)
    found = read(tmp_path)
    assert found.class_list is not None
    dog_value = found.class_list.names.index("dog")
    train, valid = sorted(found.pairs, key=lambda pair: str(pair.split))
    assert pixels(train)[2, 2] == pixels(valid)[2, 2] == dog_value


def test_a_category_called_background_is_background(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(
        tmp_path / "x.json",
        annotation([square(1, 1, 9)], category=1),
        annotation([square(3, 3, 2)], category=0),
        categories=((0, "_background_"), (1, "cat")),
    )
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "cat")
    assert (pixels(found.pairs[0]) == 1).sum() == 100 - 9


def test_more_classes_than_a_mask_holds_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    names = tuple((number, f"c{number}") for number in range(1, 256))
    objects = [annotation([square(1, 1, 3)], category=number) for number, _ in names]
    write(tmp_path / "x.json", *objects, categories=names)
    with pytest.raises(DatasetError, match=r"use 255 classes .*at most 254"):
        read(tmp_path)
    write(tmp_path / "x.json", *objects[:-1], categories=names)
    assert read(tmp_path).class_list is not None


# ---- images -------------------------------------------------------------------------------------

OBJECT = annotation([square(1, 1, 3)])


@pytest.mark.parametrize(
    ("where", "json_at", "listed"),
    [
        ("a.png", "x.json", "a.png"),
        ("images/a.png", "x.json", "a.png"),
        ("images/a.png", "annotations/x.json", "a.png"),
        ("x/a.png", "annotations/x.json", "a.png"),
        ("data/deep/er/a.png", "x.json", "a.png"),
        ("images/one/a.png", "x.json", "one/a.png"),
        ("images/one/a.png", "x.json", "one\\a.png"),
        ("images/one/a.png", "x.json", "C:\\Users\\me\\one\\a.png"),
        ("images/one/a.png", "x.json", "/home/me/data/one/a.png"),
        ("images/one/a.png", "x.json", "./one/../one/a.png"),
        ("images/A.PNG", "x.json", "a.png"),
    ],
)
def test_an_image_is_found_by_the_longest_end_of_its_path(
    tmp_path: Path, where: str, json_at: str, listed: str
) -> None:
    pictures(tmp_path, where)
    write(tmp_path / json_at, OBJECT, images=(listed,))
    found = read(tmp_path)
    assert found.findings == ()
    assert [pair.image for pair in found.pairs] == [tmp_path / where]
    assert [pair.sample_id for pair in found.pairs] == [Path(where).stem]


@pytest.mark.parametrize(
    ("names", "json_at", "listed", "chosen"),
    [
        (("one/a.png", "two/a.png"), "x.json", "two/a.png", "two/a.png"),
        (("a.png", "images/a.png"), "x.json", "a.png", "a.png"),
        (("copy/a.png", "images/a.png"), "x.json", "a.png", "images/a.png"),
        (("copy/a.png", "x/a.png"), "x.json", "a.png", "x/a.png"),
        (("copy/a.png", "set/a.png"), "set/x.json", "a.png", "set/a.png"),
        (("train2017/a.png", "val2017/a.png"), "ann/val.json", "a.png", "val2017/a.png"),
        (("images/train/a.png", "images/val/a.png"), "train.json", "a.png", "images/train/a.png"),
    ],
)
def test_of_several_images_the_nearest_is_taken(
    tmp_path: Path, names: tuple[str, ...], json_at: str, listed: str, chosen: str
) -> None:
    pictures(tmp_path, *names)
    write(tmp_path / json_at, OBJECT, images=(listed,))
    assert [pair.image for pair in read(tmp_path).pairs] == [tmp_path / chosen]


def test_an_image_that_fits_several_files_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, "one/a.png", "two/a.png", "b.png")
    write(tmp_path / "x.json", OBJECT, images=("a.png", "b.png"))
    found = read(tmp_path)
    assert [(f.code, f.severity, f.examples) for f in found.findings] == [
        ("ambiguous-images", "error", ("a.png",))
    ]
    assert [pair.image.name for pair in read(tmp_path, "two").pairs] == ["a.png"]


def test_a_file_is_not_taken_for_two_listed_images(tmp_path: Path) -> None:
    pictures(tmp_path, "one/a.png")
    write(tmp_path / "x.json", OBJECT, images=("one/a.png", "two/a.png"))
    found = read(tmp_path)
    assert len(found.pairs) == 1
    assert pixels(found.pairs[0]).sum() == 16
    assert [(f.code, f.examples) for f in found.findings] == [("missing-images", ("two/a.png",))]


def test_missing_images_are_an_error_with_their_names(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path / "x.json", OBJECT, images=("a.png", "b.png", "c.png"))
    found = read(tmp_path)
    (finding,) = found.findings
    assert (finding.code, finding.severity) == ("missing-images", "error")
    assert finding.message == "2 of 3 listed images are not there"
    assert finding.examples == ("b.png", "c.png")
    assert "--images" in finding.remedy


def test_images_that_are_not_listed_are_left_out_with_a_sentence(tmp_path: Path) -> None:
    pictures(tmp_path, "images/a.png", "images/b.png", "elsewhere/c.png")
    write(tmp_path / "x.json", OBJECT)
    found = read(tmp_path)
    assert found.left_out == (
        "left out: 1 category that no segmentation uses: dog (id 2)",
        "left out: 1 image that no annotation file lists (b.png)",
    )


def test_an_image_without_annotations_is_all_background(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    write(tmp_path / "x.json", OBJECT, images=("a.png", "b.png"))
    a, b = read(tmp_path).pairs
    assert pixels(a).any()
    assert not pixels(b).any()
    assert pixels(b).shape == (20, 30)


def test_the_mask_has_the_size_that_the_file_says(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path / "x.json", OBJECT, size=(25, 35))
    assert pixels(read(tmp_path).pairs[0]).shape == (25, 35)


def test_without_a_size_that_of_the_image_counts(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    path = write(tmp_path / "x.json", OBJECT)
    path.write_text(path.read_text().replace('"height": 20, "width": 30', '"height": null'))
    assert pixels(read(tmp_path).pairs[0]).shape == (20, 30)


def test_images_names_the_folder(tmp_path: Path) -> None:
    pictures(tmp_path, "small/a.png", "large/deep/a.png", "large/b.png")
    write(tmp_path / "x.json", OBJECT, images=("a.png", "b.png"))
    found = read(tmp_path, "large")
    assert [pair.image.relative_to(tmp_path).as_posix() for pair in found.pairs] == [
        "large/b.png",
        "large/deep/a.png",
    ]
    assert [pair.sample_id for pair in found.pairs] == ["b", "deep/a"]
    with pytest.raises(UserError, match="there is no such folder"):
        read(tmp_path, "nowhere")


def test_masks_have_no_effect_and_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "x.json", OBJECT)
    with pytest.raises(UserError, match="--masks m has no effect"):
        coco.read(list_tree(tmp_path), None, "m")


def test_one_file_is_read_with_the_images_around_it(tmp_path: Path) -> None:
    pictures(tmp_path, "val2017/a.png")
    path = write(tmp_path / "annotations/instances_val2017.json", OBJECT)
    tree = list_tree(path)
    assert coco.recognise(tree) == (
        "instances_val2017.json holds images, annotations and categories"
    )
    (pair,) = coco.read(tree, None, None).pairs
    assert (pair.image, pair.split) == (tmp_path / "val2017/a.png", None)


# ---- splits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_val2017", "val"),
        ("train2017", "train"),
        ("Valid", "val"),
        ("image_info_test-dev2017", "test"),
        ("coco_trainval", None),
        ("train_val", None),
        ("train_training", "train"),
        ("constraint", None),
        ("_annotations.coco", None),
        ("", None),
    ],
)
def test_a_name_says_its_split_by_a_whole_word(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("train", "val", "train_image", "val_image", "ids"),
    [
        *[
            (
                f"{folder}train.json",
                f"{folder}val.json",
                f"{images}{t}/a.png",
                f"{images}{v}/b.png",
                ids,
            )
            for folder, images, t, v, ids in (
                ("annotations/instances_", "", "train2017", "val2017", ["a", "b"]),
                ("annotations/", "images/", "train", "val", ["a", "b"]),
                ("", "images/", "", "", ["a", "b"]),
                ("", "", "pics", "pics", ["a", "b"]),
            )
        ],
        (
            "train/_annotations.coco.json",
            "valid/_annotations.coco.json",
            "train/a.png",
            "valid/b.png",
            ["a", "b"],
        ),
        (
            "train/_annotations.coco.json",
            "valid/_annotations.coco.json",
            "train/a.png",
            "valid/a.png",
            ["train/a", "val/a"],
        ),
    ],
)
def test_splits_come_from_the_names_of_files_and_folders(
    tmp_path: Path, train: str, val: str, train_image: str, val_image: str, ids: list[str]
) -> None:
    pictures(tmp_path, train_image, val_image)
    write(tmp_path / train, OBJECT, images=(Path(train_image).name,))
    write(tmp_path / val, OBJECT, images=(Path(val_image).name,))
    found = read(tmp_path)
    assert found.findings == ()
    assert [(p.sample_id, p.split) for p in found.pairs] == list(
        zip(ids, ("train", "val"), strict=True)
    )
    assert "splits by name: train 1, val 1" in found.sentence


def test_folders_of_images_name_the_splits_of_a_single_file(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a.png", "test/a.png")
    write(tmp_path / "x.json", OBJECT, images=("train/a.png", "test/a.png"))
    assert [(p.sample_id, p.split) for p in read(tmp_path).pairs] == [
        ("test/a", "test"),
        ("train/a", "train"),
    ]


def test_ids_keep_the_extension_where_the_stem_is_not_enough(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "a.bmp", "b.png")
    write(tmp_path / "x.json", OBJECT, images=("a.png", "a.bmp", "b.png"))
    assert [pair.sample_id for pair in read(tmp_path).pairs] == ["a.bmp", "a.png", "b"]


def test_ids_are_in_natural_order(tmp_path: Path) -> None:
    pictures(tmp_path, "i10.png", "i2.png", "i1.png")
    write(tmp_path / "x.json", OBJECT, images=("i10.png", "i2.png", "i1.png"))
    assert [pair.sample_id for pair in read(tmp_path).pairs] == ["i1", "i2", "i10"]


def test_an_image_that_is_listed_twice_is_an_error_with_both_ids(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    write(
        tmp_path / "x.json",
        annotation([square(2, 2, 3)]),
        annotation([square(10, 10, 3)], image=3),
        images=("a.png", "b.png", "./a.png"),
    )
    found = read(tmp_path)
    (error,) = found.findings
    assert (error.code, error.severity, error.count) == ("repeated-images", "error", 1)
    assert error.message == "1 image is listed more than once"
    assert error.examples == ("a.png in x.json by the ids 1 and 3",)
    assert (pixels(found.pairs[0]) == 1).sum() == 32


def test_the_sentence_counts_objects_and_crowds_that_are_drawn(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    path = tmp_path / "x.json"
    write(path, OBJECT, OBJECT, annotation([[1e9, 1, 2, 2, 3, 3]]))
    assert ": 2 objects drawn from x.json" in read(tmp_path).sentence
    write(
        path, OBJECT, annotation([square(1, 1, 5)], crowd=1), annotation([square(9, 9, 5)], crowd=1)
    )
    assert ": 1 object and 2 crowd regions (void) drawn from x.json" in read(tmp_path).sentence


# ---- several files ------------------------------------------------------------------------------


def test_files_of_another_kind_are_left_out(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path / "instances.json", OBJECT)
    write(tmp_path / "boxes.json", annotation([]))
    keypoints = write(tmp_path / "person_keypoints.json", OBJECT)
    content = json.loads(keypoints.read_text())
    content["categories"][0]["keypoints"] = ["nose"]
    keypoints.write_text(json.dumps(content))
    captions = {"images": [], "annotations": [{"caption": "a cat"}]}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    (tmp_path / "results.json").write_text(json.dumps([OBJECT]))
    found = read(tmp_path)
    assert [pair.sample_id for pair in found.pairs] == ["a"]
    assert found.left_out[:2] == (
        "left out: boxes.json, which holds boxes alone",
        "left out: person_keypoints.json, which holds keypoints",
    )


def test_a_split_without_any_object_stays(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a.png", "test/b.png")
    write(tmp_path / "train/x.json", OBJECT)
    write(tmp_path / "test/x.json", images=("b.png",))
    assert [pair.split for pair in read(tmp_path).pairs] == ["train", "test"]


def test_the_union_of_the_splits_is_left_out(tmp_path: Path) -> None:
    pictures(tmp_path, "images/a.png", "images/b.png")
    write(tmp_path / "train.json", OBJECT)
    write(tmp_path / "val.json", OBJECT, images=("b.png",))
    write(tmp_path / "trainval.json", OBJECT, images=("a.png", "b.png"))
    found = read(tmp_path)
    assert [pair.split for pair in found.pairs] == ["train", "val"]
    assert "left out: trainval.json, whose images are all in train.json, val.json" in found.left_out


@pytest.mark.parametrize("names", [("one.json", "two.json"), ("train.json", "val.json")])
def test_two_files_about_one_image_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    pictures(tmp_path, "images/a.png", "images/b.png")
    write(tmp_path / names[0], OBJECT)
    write(tmp_path / names[1], OBJECT, images=("a.png", "b.png"))
    with pytest.raises(DatasetError, match=r"both annotate 1 image \(a\.png, for one\); give"):
        read(tmp_path)


# ---- files that are no COCO ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        {"version": "5.0", "shapes": [], "imagePath": "a.png", "imageData": None},
        {"labels": {"background": 0}, "channel_names": {}, "numTraining": 3},
        {"images": [], "annotations": []},
        {"images": 3, "annotations": 4, "categories": 5},
        [{"images": [], "annotations": [], "categories": []}],
        {"images": [], "annotations": [{"segments_info": []}], "categories": []},
    ],
)
def test_other_files_are_not_recognised(tmp_path: Path, content: Any) -> None:
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert coco.recognise(list_tree(tmp_path)) is None
    with pytest.raises(DatasetError, match=r"no \.json file in it holds images, annotations"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("annotations", None, "it is null"),
        ("annotations", {}, "it is an object"),
        ("annotations", "none", "it is a text"),
        ("images", 3, "it is a number"),
        ("categories", True, "it is true or false"),
        ("annotations", [{}, [1]], r"annotations\[1\] is a list"),
    ],
)
def test_a_file_with_another_thing_for_a_list_is_recognised_and_told(
    tmp_path: Path, key: str, value: Any, told: str
) -> None:
    pictures(tmp_path, "a.png")
    path = write(tmp_path / "x.json", OBJECT)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert coco.recognise(list_tree(tmp_path)) is not None
    with pytest.raises(DatasetError, match=rf'x\.json: has no list of objects "{key}".*: {told}$'):
        read(tmp_path)


def test_a_long_file_is_recognised_by_its_ends(tmp_path: Path) -> None:
    many = [annotation([square(1, 1, 3)] * 200) for _ in range(600)]
    path = write(tmp_path / "x.json", *many)
    assert path.stat().st_size > 2.5e6
    content = json.loads(path.read_text())
    for order in (("images", "annotations", "categories"), ("annotations", "categories", "images")):
        path.write_text(json.dumps({"info": {}} | {key: content[key] for key in order}))
        assert coco.recognise(list_tree(tmp_path)) is not None
    path.write_text(json.dumps({"shapes": content["annotations"]}))
    assert coco.recognise(list_tree(tmp_path)) is None


def test_many_small_files_are_passed_over(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number}.json").write_text("{}")
    write(tmp_path / "instances.json", OBJECT)
    write(tmp_path / "0.json", OBJECT)  # would be found were all of them looked at
    reason = coco.recognise(list_tree(tmp_path))
    assert reason == "instances.json holds images, annotations and categories"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [],\n "annotations": [', r"is no valid JSON \(line 2, column 18"),
        ("\xff\xfe\xfa", "is no valid JSON"),
        ("[" * 200_000, "is no valid JSON"),
        ('{"images": ' + "9" * 5000 + "}", "is no valid JSON"),
        ("[]", "holds no object"),
        ('{"images": [], "categories": []}', 'no list of objects "annotations"'),
        ('{"images": [3], "categories": [], "annotations": []}', 'list of objects "images"'),
        (
            '{"images": [{"id": 1}], "categories": [], "annotations": []}',
            r'images\[0\] has no "file_name"',
        ),
        (
            '{"images": [], "categories": [{"name": "x"}], "annotations": []}',
            r'categories\[0\] has no "id"',
        ),
        (
            '{"images": [], "annotations": [], '
            '"categories": [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}]}',
            "category id 1 stands for x and for y",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], '
            '"annotations": [], "categories": []}',
            "image id 1 stands for a and for b",
        ),
        ('{"images": [], "categories": [], "annotations": []}', "holds no annotations"),
    ],
)
def test_a_damaged_file_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=message) as caught:
        read(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "annotations.json")
    assert coco.recognise(list_tree(tmp_path)) is None


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    path = write(tmp_path / "x.json", OBJECT)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert coco.recognise(list_tree(tmp_path)) is not None
    assert len(read(tmp_path).pairs) == 1


# ---- real data ----------------------------------------------------------------------------------


def test_facades_have_their_splits_and_shares(real_data: RealData) -> None:
    found = read(real_data("facade_coco"))
    splits = [pair.split for pair in found.pairs]
    assert [splits.count(name) for name in ("train", "val", "test")] == [80, 20, 20]
    assert found.findings == ()
    assert found.class_list is not None
    assert found.class_list.names == (
        *("background", "balcony-fence", "car", "facade", "fence", "non-building-infrastructure"),
        *("shop", "street", "traffic-infrastructure", "vegetation", "window"),
    )
    assert found.left_out == ("left out: 1 category that no segmentation uses: facade (id 0)",)
    counts = np.zeros(11)
    for pair in found.pairs:
        if pair.split == "train":
            counts += np.bincount(pixels(pair).ravel(), minlength=11)
    shares = dict(zip(found.class_list.names, counts / counts.sum(), strict=True))
    # the README orders by the field "area", which is that of the box in these files; by the area
    # of the polygons, trees are smaller and lie above more of the facade
    for name, share in (
        *(("background", 0.17), ("facade", 0.46), ("vegetation", 0.12), ("window", 0.12)),
        ("street", 0.04),
    ):
        assert shares[name] == pytest.approx(share, abs=0.016), name


def test_fruits_agree_with_the_masks_made_of_other_files(real_data: RealData) -> None:
    root = real_data("fruits_nuts")
    found = read(root / "coco_trainval.json")
    assert (len(found.pairs), found.findings) == (18, ())
    entries = json.loads((root / "coco_trainval.json").read_text())
    for pair in found.pairs:
        reference = read_mask(root / f"masks_palette/{pair.sample_id}.png")
        # fruits that touch overlap by some pixels: there the smaller is above, and in the
        # reference the one drawn later
        assert (pixels(pair) == reference).mean() >= 0.9997
        assert isinstance(pair.mask, Drawing)
        by_rings = {shape.rings: shape for shape in pair.mask.shapes if isinstance(shape, Polygon)}
        image = next(e["id"] for e in entries["images"] if e["file_name"] == pair.image.name)
        rings = [
            tuple(map(tuple, entry["segmentation"]))
            for entry in entries["annotations"]
            if entry["image_id"] == image
        ]
        in_file_order = Drawing("", pair.image, tuple(by_rings[r] for r in rings), (600, 800))
        assert (in_file_order.pixels() == reference).mean() >= 0.9999


@pytest.mark.parametrize("name", ["fruits_nuts/labelme", "formats_zoo", "camvid", "dsb2018_mini"])
def test_other_data_is_not_recognised(real_data: RealData, name: str) -> None:
    folder, *rest = name.split("/")
    assert coco.recognise(list_tree(real_data(folder).joinpath(*rest))) is None


def test_folders_of_one_split_do_not_give_two_images_one_id(tmp_path: Path) -> None:
    names = ("train/a.png", "train2017/a.png")
    pictures(tmp_path, *names)
    write(
        tmp_path / "instances_train.json",
        annotation([square(2, 2, 5)]),
        annotation([square(2, 2, 5)], image=2),
        images=names,
    )
    ids = {pair.sample_id for pair in read(tmp_path).pairs}
    assert ids == {"train/a.png", "train2017/a.png"}


def test_an_annotation_that_is_listed_twice_is_told(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    same, other = annotation([square(2, 2, 5)]), annotation([square(9, 9, 5)])
    write(tmp_path / "annotations.json", same, other, same, annotation(square(2, 2, 5), category=2))
    (finding,) = read(tmp_path).findings
    assert (finding.code, finding.severity, finding.count) == ("repeated-annotations", "warning", 1)


def test_an_image_outside_the_folder_is_said_to_be_there_and_not_followed(tmp_path: Path) -> None:
    pictures(tmp_path, "elsewhere/b.png", "here/a.png")
    for name in ("../elsewhere/b.png", str(tmp_path / "elsewhere" / "b.png")):
        write(
            tmp_path / "here" / "annotations.json",
            annotation([square(2, 2, 5)]),
            annotation([square(2, 2, 5)], image=2),
            images=("a.png", name),
        )
        (finding,) = read(tmp_path / "here").findings
        assert (finding.code, finding.severity) == ("missing-images", "error")
        assert "lies outside the folder" in finding.message
        assert finding.examples == (name,)
