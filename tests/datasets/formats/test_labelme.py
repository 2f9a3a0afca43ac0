from __future__ import annotations

import base64
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unet_pipeline.datasets.findings import Finding
from unet_pipeline.datasets.formats.contract import Found, Pair, list_tree
from unet_pipeline.datasets.formats.embedded import EmbeddedImage
from unet_pipeline.datasets.formats.labelme import FORMAT
from unet_pipeline.datasets.images import read_image, read_mask
from unet_pipeline.errors import DatasetError, UserError

RealData = Callable[[str], Path]

SQUARE = [[2, 1], [5, 1], [5, 4], [2, 4]]


def png(array: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def picture(path: Path, *, height: int = 10, width: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    Image.fromarray(np.stack([pixels, pixels // 2, 255 - pixels], axis=-1)).save(path)
    return path


def shape(label: str, points: Any, kind: str | None = "polygon", **more: Any) -> dict[str, Any]:
    entry = {"label": label, "points": points, "group_id": None, "flags": {}, **more}
    return entry if kind is None else entry | {"shape_type": kind}


def annotate(path: Path, *shapes: Any, image: str | None = None, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": image or f"{path.stem}.png",
        "imageData": None,
        "imageHeight": 10,
        "imageWidth": 12,
    }
    path.write_text(json.dumps(content | more, indent=2))
    return path


def read(source: Path, images: str | None = None) -> Found:
    return FORMAT.read(list_tree(source), images, None)


def only(found: Found) -> Pair:
    assert found.findings == ()
    (pair,) = found.pairs
    return pair


def drawn(pair: Pair) -> np.ndarray:
    assert not isinstance(pair.mask, Path)
    return pair.mask.pixels()


def one(tmp_path: Path, *shapes: Any, **more: Any) -> np.ndarray:
    """The mask of the one picture a.png with these shapes."""
    picture(tmp_path / "a.png")
    annotate(tmp_path / "a.json", *shapes, **more)
    found = read(tmp_path)
    assert all(finding.severity == "note" for finding in found.findings)
    return drawn(found.pairs[0])


def blank(height: int = 10, width: int = 12) -> np.ndarray:
    return np.zeros((height, width), dtype=np.uint8)


def finding(found: Found, code: str) -> Finding:
    (match,) = [f for f in found.findings if f.code == code]
    return match


# ---- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["polygon", None, "oriented_rectangle", "rectangle"])
def test_corners_enclose_the_pixels_up_to_the_outline(tmp_path: Path, kind: str | None) -> None:
    expected = blank()
    expected[1:5, 2:6] = 1
    np.testing.assert_array_equal(one(tmp_path, shape("cat", SQUARE, kind)), expected)


@pytest.mark.parametrize("points", [[[2, 1], [5, 4]], [[5, 4], [2, 1]], [[2, 4], [5, 1]]])
def test_two_corners_of_a_rectangle_come_in_any_order(tmp_path: Path, points: Any) -> None:
    expected = blank()
    expected[1:5, 2:6] = 1
    np.testing.assert_array_equal(one(tmp_path, shape("cat", points, "rectangle")), expected)


def test_a_circle_is_given_by_its_centre_and_a_point_on_its_rim(tmp_path: Path) -> None:
    y, x = np.mgrid[:10, :12]
    mask = one(tmp_path, shape("cat", [[6, 5], [6 + 2, 5 + 2]], "circle"))
    np.testing.assert_array_equal(mask, (x - 6) ** 2 + (y - 5) ** 2 <= 8)


def test_a_line_is_as_wide_as_its_file_or_itself_says(tmp_path: Path) -> None:
    line = [[2, 5], [9, 5]]
    assert one(tmp_path, shape("cat", line, "line"), line_width=3)[:, 6].sum() == 3
    assert one(tmp_path, shape("cat", line, "linestrip", line_width=5), line_width=3)[
        :, 6
    ].sum() == pytest.approx(5)


def test_a_line_without_a_width_is_ten_pixels_wide_and_that_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", height=40, width=60)
    line = shape("road", [[10, 20], [30, 20], [50, 20]], "linestrip")
    annotate(tmp_path / "a.json", line, imageHeight=40, imageWidth=60)
    found = read(tmp_path)
    assert drawn(found.pairs[0])[:, 30].sum() in (10, 11)
    note = finding(found, "line-width")
    assert (note.severity, note.count) == ("note", 1)
    assert "10 pixels" in note.message


def test_points_have_no_area_and_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    annotate(
        tmp_path / "a.json",
        shape("cat", [[3, 3]], "point"),
        shape("cat", [[3, 3], [5, 5]], "points"),
        shape("cat", SQUARE),
    )
    found = read(tmp_path)
    assert (drawn(found.pairs[0]) > 0).sum() == 16
    warning = finding(found, "no-segmentation")
    assert (warning.severity, warning.count) == ("warning", 2)
    assert warning.examples == ("a.json shape 1: point", "a.json shape 2: points")


def test_a_pixel_mask_lies_at_its_first_corner(tmp_path: Path) -> None:
    patch = np.array([[1, 0, 1], [0, 1, 0]], dtype=bool)
    expected = blank()
    expected[4:6, 7:10] = patch
    entry = shape("cat", [[7, 4], [9, 5]], "mask", mask=png(patch))
    np.testing.assert_array_equal(one(tmp_path, entry), expected)
    grey = shape("cat", [[7, 4], [9, 5]], "mask", mask=png(patch.astype(np.uint8) * 255))
    np.testing.assert_array_equal(one(tmp_path, grey), expected)


def test_a_pixel_mask_is_cut_at_the_picture(tmp_path: Path) -> None:
    entry = shape("cat", [[-1, 8], [2, 11]], "mask", mask=png(np.ones((4, 4), dtype=bool)))
    expected = blank()
    expected[8:, :3] = 1
    np.testing.assert_array_equal(one(tmp_path, entry), expected)


def test_the_smaller_shape_lies_on_top_whatever_the_order(tmp_path: Path) -> None:
    small, large = shape("eye", [[3, 2], [4, 3]], "rectangle"), shape("cat", SQUARE)
    first, second = one(tmp_path, small, large), one(tmp_path, large, small)
    np.testing.assert_array_equal(first, second)
    assert [(first == value).sum() for value in (1, 2)] == [12, 4]


def test_shapes_of_one_group_are_drawn_like_others(tmp_path: Path) -> None:
    halves = [[[0, 0], [2, 2]], [[6, 6], [8, 8]]]
    mask = one(tmp_path, *(shape("cat", half, "rectangle", group_id=1) for half in halves))
    assert (mask == 1).sum() == 18


# ---- labels -------------------------------------------------------------------------------------


def test_labels_of_all_files_become_classes_by_name(tmp_path: Path) -> None:
    for name, label in (("a", "zebra"), ("b", "ant"), ("c", "cat 10"), ("d", "cat 9")):
        picture(tmp_path / f"{name}.png")
        annotate(tmp_path / f"{name}.json", shape(label, SQUARE))
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "ant", "cat 9", "cat 10", "zebra")
    assert found.class_list.values == (0, 1, 2, 3, 4)
    assert [drawn(pair).max() for pair in found.pairs] == [4, 1, 3, 2]
    assert found.ignore_values == ()


def test_a_list_of_labels_gives_their_order(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    annotate(
        tmp_path / "a.json", shape("zebra", SQUARE), shape("ant", [[7, 7], [8, 8]], "rectangle")
    )
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nzebra\nant\nbee\n")
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.source == "labels.txt"
    assert found.class_list.names == ("background", "zebra", "ant", "bee")
    assert found.findings == ()


def test_a_label_outside_the_list_comes_last_and_is_reported(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    annotate(tmp_path / "a.json", shape("zebra", SQUARE), shape("ant", SQUARE))
    (tmp_path / "labels.txt").write_text("zebra\n")
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "zebra", "ant")
    warning = finding(found, "unlisted-labels")
    assert (warning.severity, warning.examples) == ("warning", ("ant",))


@pytest.mark.parametrize("label", ["__ignore__", "void", "Ignore", "unlabelled"])
def test_void_labels_are_255(tmp_path: Path, label: str) -> None:
    picture(tmp_path / "a.png")
    annotate(tmp_path / "a.json", shape(label, SQUARE), shape("cat", [[8, 8], [9, 9]], "rectangle"))
    found = read(tmp_path)
    assert found.ignore_values == (255,)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "cat")
    values, counts = np.unique(drawn(only(found)), return_counts=True)
    assert dict(zip(values, counts, strict=True)) == {0: 100, 1: 4, 255: 16}


def test_background_cuts_a_hole(tmp_path: Path) -> None:
    hole = shape("_background_", [[3, 2], [4, 3]], "rectangle")
    mask = one(tmp_path, shape("cat", SQUARE), hole)
    assert (mask == 1).sum() == 12
    assert not mask[2:4, 3:5].any()


def test_more_labels_than_a_mask_can_hold_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    annotate(tmp_path / "a.json", *(shape(f"cat-{n}", SQUARE) for n in range(254)))
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.values == tuple(range(255))
    annotate(tmp_path / "a.json", *(shape(f"cat-{n}", SQUARE) for n in range(255)))
    with pytest.raises(
        DatasetError, match=r"255 classes \(cat-0, .*254 are possible.*number no object"
    ):
        read(tmp_path)


# ---- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "image", "written"),
    [
        ("a.json", "a.png", "a.png"),
        ("labels/a.json", "photos/a.png", "../photos/a.png"),
        ("labels/a.json", "photos/a.png", "..\\photos\\a.png"),
        ("labels/a.json", "photos/a.png", "C:\\Users\\me\\photos\\a.png"),
        ("labels/a.json", "photos/A.PNG", "/home/me/a.png"),
        ("labels/a.json", "labels/a.png", "renamed.png"),
        ("labels/a.json", "photos/a.png", "renamed.jpg"),
        ("x.json", "deep/in/here/other.png", "other.png"),
        ("a.json", "a.png", "x" * 5000),
    ],
)
def test_the_image_is_found(tmp_path: Path, annotation: str, image: str, written: str) -> None:
    expected = picture(tmp_path / image)
    annotate(tmp_path / annotation, shape("cat", SQUARE), image=written)
    assert only(read(tmp_path)).image == expected


def test_the_image_may_lie_outside_the_source(tmp_path: Path) -> None:
    expected = picture(tmp_path / "photos" / "a.png")
    annotate(tmp_path / "labels" / "a.json", shape("cat", SQUARE), image="../photos/a.png")
    assert only(read(tmp_path / "labels")).image == expected


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
        annotate(tmp_path / f"{name}.json", shape("cat", SQUARE))
    tree = list_tree(tmp_path / "a.json")
    assert FORMAT.recognise(tree) == "1 JSON file with shapes in ./"
    assert only(FORMAT.read(tree, None, None)).sample_id == "a"


def test_of_images_of_one_name_the_one_in_the_like_folder_is_taken(tmp_path: Path) -> None:
    for part in ("left", "right"):
        picture(tmp_path / "photos" / part / "a.png")
        annotate(tmp_path / "shapes" / part / "a.json", shape("cat", SQUARE))
    found = read(tmp_path)
    assert found.findings == ()
    assert [(p.sample_id, os.path.relpath(str(p.image), tmp_path)) for p in found.pairs] == [
        ("shapes/left/a", "photos/left/a.png"),
        ("shapes/right/a", "photos/right/a.png"),
    ]


def test_images_of_one_name_that_nothing_tells_apart_are_an_error(tmp_path: Path) -> None:
    picture(tmp_path / "day" / "a.png")
    picture(tmp_path / "night" / "a.png")
    annotate(tmp_path / "shapes" / "a.json", shape("cat", SQUARE))
    error = finding(read(tmp_path), "ambiguous-images")
    assert (error.severity, error.examples) == ("error", ("shapes/a.json",))
    found = read(tmp_path, images="night")
    assert only(found).image == tmp_path / "night" / "a.png"


def test_named_images_come_before_those_that_the_file_names(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    expected = picture(tmp_path / "sharpened" / "a.png")
    annotate(tmp_path / "a.json", shape("cat", SQUARE))
    assert only(read(tmp_path, images="sharpened")).image == expected
    with pytest.raises(UserError, match=r"--images nowhere"):
        read(tmp_path, images="nowhere")


def test_a_folder_of_masks_is_not_taken_for_the_images(tmp_path: Path) -> None:
    picture(tmp_path / "masks" / "a.png")
    expected = picture(tmp_path / "photos" / "a.png")
    annotate(tmp_path / "shapes" / "a.json", shape("cat", SQUARE), image="gone.jpg")
    assert only(read(tmp_path)).image == expected


def test_an_image_inside_the_file_is_used_where_there_is_no_other(tmp_path: Path) -> None:
    pixels = read_image(picture(tmp_path / "elsewhere" / "x.png"))
    text = base64.b64encode((tmp_path / "elsewhere" / "x.png").read_bytes()).decode()
    path = annotate(tmp_path / "set" / "a.json", shape("cat", SQUARE), imageData=text)
    pair = only(read(tmp_path / "set"))
    assert pair.image == EmbeddedImage(path)
    assert pair.image.source == f"{path} (imageData)"
    np.testing.assert_array_equal(pair.image.pixels(), pixels)
    assert pickle.loads(pickle.dumps(pair)) == pair
    beside = picture(tmp_path / "set" / "a.png")
    assert only(read(tmp_path / "set")).image == beside


def test_the_digest_of_an_image_inside_a_file_follows_the_image_alone(tmp_path: Path) -> None:
    def digest(text: str, *shapes: Any) -> bytes:
        return EmbeddedImage(annotate(tmp_path / "a.json", *shapes, imageData=text)).digest()

    white, black = png(np.full((3, 3), 255, np.uint8)), png(np.zeros((3, 3), np.uint8))
    assert len(digest(white)) == 16
    assert digest(white) == digest(white, shape("cat", SQUARE))
    assert digest(white) != digest(black)


@pytest.mark.parametrize("text", ["no image at all", "abc", "data:image/png;base64,AAAA"])
def test_a_damaged_image_inside_a_file_names_the_file(tmp_path: Path, text: str) -> None:
    path = annotate(tmp_path / "a.json", imageData=text)
    with pytest.raises(DatasetError, match=r"a\.json \(imageData\): "):
        EmbeddedImage(path).pixels()


def test_without_a_size_in_the_file_that_of_the_image_counts(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", height=7, width=9)
    text = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    patch = shape("cat", [[1, 1], [2, 2]], "mask", mask=png(np.ones((2, 2), dtype=bool)))
    for name, data in (("a", None), ("b", text)):
        more = {"imageHeight": None, "imageWidth": None, "imageData": data}
        annotate(tmp_path / f"{name}.json", patch, image=f"{name}.png", **more)
    found = read(tmp_path)
    assert found.findings == ()
    for pair in found.pairs:
        assert drawn(pair).shape == (7, 9)
        assert drawn(pair).sum() == 4


def test_the_size_is_that_of_the_file_even_where_it_is_wrong(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", height=10, width=12)
    annotate(tmp_path / "a.json", shape("cat", SQUARE), imageHeight=12, imageWidth=10)
    assert drawn(only(read(tmp_path))).shape == (12, 10)


# ---- splits, recognition ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "images"),
    [("{}/a.json", "{}/a.png"), ("shapes/{}/a.json", "images/{}/a.png")],
)
def test_folders_name_the_splits(tmp_path: Path, annotations: str, images: str) -> None:
    for name in ("train", "valid", "test"):
        picture(tmp_path / images.format(name))
        annotate(tmp_path / annotations.format(name), shape("cat", SQUARE))
    found = read(tmp_path)
    assert {pair.split for pair in found.pairs} == {"train", "val", "test"}
    assert len({pair.sample_id for pair in found.pairs}) == 3
    assert found.sentence.endswith("; splits by folder: train 1, val 1, test 1")


def test_images_may_name_the_splits_of_files_that_lie_together(tmp_path: Path) -> None:
    for name, split in (("a", "train"), ("b", "val")):
        picture(tmp_path / "images" / split / f"{name}.png")
        annotate(tmp_path / "json" / f"{name}.json", shape("cat", SQUARE))
    assert [(p.sample_id, p.split) for p in read(tmp_path).pairs] == [("a", "train"), ("b", "val")]


def test_files_outside_the_splits_are_left_out(tmp_path: Path) -> None:
    for name in ("train/a", "val/b", "c"):
        picture(tmp_path / f"{name}.png")
        annotate(tmp_path / f"{name}.json", shape("cat", SQUARE))
    found = read(tmp_path)
    assert [pair.sample_id for pair in found.pairs] == ["a", "b"]
    assert found.left_out == ("left out: 1 pair in no split (c)",)


def test_it_is_recognised_by_shapes_and_an_image(tmp_path: Path) -> None:
    assert FORMAT.recognise(list_tree(tmp_path)) is None
    (tmp_path / "coco.json").write_text(json.dumps({"images": [], "annotations": []}))
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "deep.json").write_text(json.dumps({"x": {"shapes": [], "imagePath": "a"}}))
    assert FORMAT.recognise(list_tree(tmp_path)) is None
    for name in "abcdefg":
        annotate(tmp_path / "shapes" / f"{name}.json")
    assert FORMAT.recognise(list_tree(tmp_path)) == "7 JSON files with shapes in shapes/"


@pytest.mark.parametrize("first", ["shapes", "imageData"])
def test_it_is_recognised_by_the_ends_of_a_large_file(tmp_path: Path, first: str) -> None:
    content = {"shapes": [], "imageData": "A" * 300_000, "imagePath": "a.png"}
    order = sorted(content, key=lambda key: key != first)
    (tmp_path / "a.json").write_text(json.dumps({key: content[key] for key in order}))
    assert FORMAT.recognise(list_tree(tmp_path)) == "1 JSON file with shapes in ./"


def test_a_damaged_file_of_the_kind_is_recognised(tmp_path: Path) -> None:
    path = annotate(tmp_path / "a.json", shape("cat", SQUARE))
    path.write_text(path.read_text()[:-3])
    assert FORMAT.recognise(list_tree(tmp_path)) == "1 JSON file with shapes in ./"


def test_json_files_of_another_kind_are_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    annotate(tmp_path / "a.json", shape("cat", SQUARE))
    (tmp_path / "package.json").write_text("{}")
    found = read(tmp_path)
    assert only(found).sample_id == "a"
    assert found.left_out == ("left out: 1 JSON file without shapes (package.json)",)
    (tmp_path / "a.json").unlink()
    with pytest.raises(DatasetError, match="no labelme files"):
        read(tmp_path)


def test_a_folder_of_masks_cannot_be_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--masks"):
        FORMAT.read(list_tree(tmp_path), None, "masks")


# ---- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (shape("cat", [[1, 1], [2, 2]]), "2 corners, where 3 are needed"),
        (shape("cat", [[1, 1], [2, float("nan")], [3, 3]]), "not finite"),
        (shape("cat", [[1, 1], [2, float("inf")], [3, 3]]), "not finite"),
        (shape("cat", []), "no points"),
        (shape("cat", None), "no pairs of numbers"),
        (shape("cat", [[1, 2, 3]] * 3), "no pairs of numbers"),
        (shape("cat", [["a", "b"]] * 3), "no pairs of numbers"),
        (shape("cat", [[1, 1], [2]]), "no pairs of numbers"),
        (shape("cat", [[40, 40], [50, 40], [50, 50]]), "outside the picture"),
        (shape("cat", [[-9, 1], [-3, 1], [-3, 5]]), "outside the picture"),
        (shape("cat", [[1, 1]], "circle"), "a circle of 1 points"),
        (shape("cat", [[1, 1]], "line"), "1 corner, where 2 are needed"),
        (shape("cat", [[1, 1]], "rectangle"), "1 corner, where 2 are needed"),
        (shape("cat", SQUARE, "star"), "'star' is not known"),
        (shape("", SQUARE), "no label"),
        ({"points": SQUARE}, "no label"),
        ("cat", "no shape"),
        (shape("cat", [[1, 1], [2, 2]], "mask"), "without pixels"),
        (shape("cat", [[1, 1], [2, 2]], "mask", mask="AAAA"), "none of the formats"),
        (shape("cat", [[1, 1], [2, 2]], "mask", mask="A"), ""),
    ],
)
def test_a_broken_shape_is_left_out_and_named(tmp_path: Path, entry: Any, reason: str) -> None:
    picture(tmp_path / "a.png")
    annotate(tmp_path / "a.json", shape("cat", SQUARE), entry)
    found = read(tmp_path)
    warning = finding(found, "broken-shapes")
    assert (warning.severity, warning.count) == ("warning", 1)
    assert warning.examples[0].startswith("a.json shape 2: ")
    assert reason in warning.examples[0]
    assert len(found.findings) == 1
    assert (drawn(found.pairs[0]) == 1).sum() == 16


def test_a_pixel_mask_wholly_outside_its_picture_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    text = png(np.ones((3, 3), dtype=bool))
    outside = shape("cat", [[40, 40], [42, 42]], "mask", mask=text)
    annotate(tmp_path / "a.json", shape("cat", SQUARE), outside)
    (warning,) = read(tmp_path).findings
    assert warning.code == "broken-shapes"
    assert warning.examples == ("a.json shape 2: lies outside the picture of 12x10 pixels",)


@pytest.mark.parametrize("content", ['{"shapes": [', "", "\xff\xfe", "[" * 100_000])
def test_a_file_that_is_no_json_is_an_error(tmp_path: Path, content: str) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
        annotate(tmp_path / f"{name}.json", shape("cat", SQUARE))
    (tmp_path / "b.json").write_bytes(content.encode("latin-1"))
    found = read(tmp_path)
    assert [pair.sample_id for pair in found.pairs] == ["a"]
    (error,) = found.findings
    assert error.code == "unreadable-annotations"
    assert (error.severity, error.count) == ("error", 1)
    assert error.examples[0].startswith("b.json: ")


def test_a_file_without_an_image_is_an_error(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    annotate(tmp_path / "a.json", shape("cat", SQUARE))
    annotate(tmp_path / "b.json", shape("cat", SQUARE))
    damaged = {"imageHeight": None, "imageData": "AAAA"}
    annotate(tmp_path / "c.json", shape("cat", SQUARE), **damaged)
    found = read(tmp_path)
    error = finding(found, "missing-images")
    assert (error.severity, error.count, error.examples[0]) == ("error", 2, "b.json")
    assert "imageData" in error.examples[1]
    assert len(found.pairs) == 1


def test_an_image_without_a_file_is_an_error(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / "photos" / f"{name}.png")
    picture(tmp_path / "photos" / "a.jpg")  # another copy of an image that has its file
    picture(tmp_path / "unrelated" / "z.png")
    annotate(tmp_path / "shapes" / "a.json", shape("cat", SQUARE), image="../photos/a.png")
    found = read(tmp_path)
    error = finding(found, "unpaired-images")
    assert (error.severity, error.count) == ("error", 2)
    assert error.examples == ("photos/b.png", "photos/c.png")
    assert found.left_out == ("left out: 1 image in unrelated/",)


def test_a_file_without_shapes_is_background(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    annotate(tmp_path / "a.json")
    assert not drawn(only(read(tmp_path))).any()


# ---- real files ---------------------------------------------------------------------------------


def test_the_fruits_have_the_pixels_of_their_palette_masks(real_data: RealData) -> None:
    root = real_data("fruits_nuts")
    found = read(root / "labelme")
    assert found.findings == ()
    assert found.class_list is not None
    assert found.class_list.names == ("background", "date", "fig", "hazelnut")
    assert [pair.sample_id for pair in found.pairs] == [str(n) for n in range(18)]
    for pair in found.pairs:
        assert pair.image == root / "images" / f"{pair.sample_id}.jpg"
        mask, palette = drawn(pair), read_mask(root / "masks_palette" / f"{pair.sample_id}.png")
        # In photo 3 a date was drawn after a smaller fig, of which it then hides 128 pixels in the
        # palette masks; here the smaller one lies on top
        allowed = 133 if pair.sample_id == "3" else 48
        assert (mask != palette).sum() <= allowed, pair.sample_id


def test_the_fruits_inside_their_files_are_the_photos(real_data: RealData, tmp_path: Path) -> None:
    root = real_data("fruits_nuts")
    for number in (0, 1, 3):
        (tmp_path / f"{number}.json").write_bytes((root / f"labelme/{number}.json").read_bytes())
    found = read(tmp_path)
    assert finding(found, "missing-images").examples == ("1.json",)
    for pair in found.pairs:
        assert isinstance(pair.image, EmbeddedImage)
        photo = read_image(root / "images" / f"{pair.sample_id}.jpg")
        # the copy inside was compressed once more
        assert np.abs(pair.image.pixels().astype(float) - photo).mean() < 6


def test_a_circle_without_a_radius_is_a_fault_and_no_pixel(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    annotate(tmp_path / "a.json", shape("cat", SQUARE), shape("cat", [[6, 5], [6, 5]], "circle"))
    (finding,) = read(tmp_path).findings
    assert (finding.code, finding.count) == ("broken-shapes", 1)
    assert "a circle without a radius" in finding.examples[0]
