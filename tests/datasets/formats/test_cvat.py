from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from unet_pipeline.datasets.formats import cvat
from unet_pipeline.datasets.formats.contract import Found, Pair, list_tree
from unet_pipeline.datasets.shapes import Drawing
from unet_pipeline.errors import DatasetError, UserError

Mask = npt.NDArray[np.uint8]


def polygon(left: int, top: int, side: int, *, label: str = "cat", z: int | None = None) -> str:
    right, bottom = left + side, top + side
    order = "" if z is None else f' z_order="{z}"'
    points = f"{left}.00,{top}.00;{right}.00,{top}.00;{right}.00,{bottom}.00;{left}.00,{bottom}.00"
    return f'<polygon label="{label}" source="manual" occluded="0" points="{points}"{order}/>'


def image(*shapes: str, name: str = "a.png", more: str = "") -> str:
    inside = "".join(shapes)
    return f'<image id="0" name="{name}" {more} width="30" height="20">{inside}</image>'


def document(*images: str, labels: tuple[str, ...] = ("cat", "dog"), parent: str = "task") -> str:
    listed = "".join(
        f"<label><name>{label}</name><type>any</type><attributes/></label>" for label in labels
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        f"<meta><{parent}><name>x</name><labels>{listed}</labels></{parent}></meta>\n"
        + "\n".join(images)
        + "\n</annotations>\n"
    )


def write(path: Path, *images: str, **kwargs: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(*images, **kwargs), encoding="utf-8")
    return path


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(root / name)


def read(source: Path, images: str | None = None) -> Found:
    return cvat.read(list_tree(source), images, None)


def pixels(pair: Pair) -> Mask:
    assert isinstance(pair.mask, Drawing)
    return pair.mask.pixels()


def mask_of(root: Path, *shapes: str) -> Mask:
    pictures(root, "images/a.png")
    write(root / "annotations.xml", image(*shapes))
    found = read(root)
    assert [f for f in found.findings if f.severity != "note"] == []
    return pixels(found.pairs[0])


def box(*, label: str = "cat", rotation: str = "") -> str:
    turned = f' rotation="{rotation}"' if rotation else ""
    return f'<box label="{label}" xtl="4.0" ytl="6.0" xbr="14.0" ybr="8.0"{turned}/>'


# ---- shapes -------------------------------------------------------------------------------------


def test_a_polygon_is_painted_with_the_class_of_its_label(tmp_path: Path) -> None:
    expected = np.zeros((20, 30), dtype=np.uint8)
    expected[3:8, 2:7] = 1
    assert (mask_of(tmp_path, polygon(2, 3, 4, label="dog")) == expected).all()


def test_a_box_is_a_filled_rectangle(tmp_path: Path) -> None:
    expected = np.zeros((20, 30), dtype=np.uint8)
    expected[6:9, 4:15] = 1
    assert (mask_of(tmp_path, box()) == expected).all()


def test_a_turned_box_turns_about_its_centre(tmp_path: Path) -> None:
    expected = np.zeros((20, 30), dtype=np.uint8)
    expected[2:13, 8:11] = 1  # the centre is (9, 7)
    assert (mask_of(tmp_path, box(rotation="90.00")) == expected).all()


def test_a_box_turns_clockwise(tmp_path: Path) -> None:
    mask = mask_of(tmp_path, box(rotation="30"))
    assert mask[9, 13] == 1  # right of the centre it goes down
    assert mask[5, 13] == 0


def test_an_ellipse_lies_between_the_edges_of_pixels(tmp_path: Path) -> None:
    mask = mask_of(tmp_path, '<ellipse label="cat" cx="10.0" cy="8.0" rx="5.0" ry="3.0"/>')
    y, x = np.mgrid[:20, :30]
    inside = ((x + 0.5 - 10) / 5) ** 2 + ((y + 0.5 - 8) / 3) ** 2 <= 1
    assert (mask == inside).all()


def test_a_turned_ellipse_is_as_large_and_stands_up(tmp_path: Path) -> None:
    ellipse = '<ellipse label="cat" cx="15.5" cy="10.5" rx="8.0" ry="3.0" rotation="90.0"/>'
    mask = mask_of(tmp_path, ellipse)
    assert mask[:, 15].sum() == 17
    assert mask[10].sum() == 7
    y, x = np.mgrid[:20, :30]
    assert mask[((x - 15) / 3) ** 2 + ((y - 10) / 8) ** 2 <= 0.99].all()
    assert not mask[((x - 15) / 4) ** 2 + ((y - 10) / 9) ** 2 > 1].any()


def test_a_line_is_one_pixel_wide_and_a_note_says_so(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    line = '<polyline label="cat" points="3.0,4.0;20.0,4.0"/>'
    write(tmp_path / "annotations.xml", image(line))
    found = read(tmp_path)
    expected = np.zeros((20, 30), dtype=np.uint8)
    expected[4, 3:21] = 1
    assert (pixels(found.pairs[0]) == expected).all()
    assert [(f.code, f.severity) for f in found.findings] == [("line-width", "note")]


def test_a_mask_is_coded_row_by_row_inside_its_box(tmp_path: Path) -> None:
    # ..#
    # ###
    code = '<mask label="cat" rle="2, 4" left="5" top="7" width="3" height="2"/>'
    expected = np.zeros((20, 30), dtype=np.uint8)
    expected[7, 7] = 1
    expected[8, 5:8] = 1
    assert (mask_of(tmp_path, code) == expected).all()


def test_a_mask_may_begin_with_the_object(tmp_path: Path) -> None:
    code = '<mask label="cat" rle="0, 2, 3, 1" left="0" top="0" width="2" height="3"/>'
    mask = mask_of(tmp_path, code)
    assert mask[:3, :2].tolist() == [[1, 1], [0, 0], [0, 1]]
    assert mask.sum() == 3


def test_a_mask_beyond_the_picture_is_cut(tmp_path: Path) -> None:
    code = '<mask label="cat" rle="0, 12" left="28" top="-1" width="4" height="3"/>'
    expected = np.zeros((20, 30), dtype=np.uint8)
    expected[:2, 28:] = 1
    assert (mask_of(tmp_path, code) == expected).all()


def test_random_masks_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for density in (0.05, 0.5, 0.95):
        wanted = (rng.random((9, 13)) < density).astype(np.uint8)
        runs, value = [0], 0
        for pixel in wanted.ravel():
            if pixel != value:
                runs.append(0)
                value = pixel
            runs[-1] += 1
        rle = ", ".join(map(str, runs))
        code = f'<mask label="cat" rle="{rle}" left="8" top="4" width="13" height="9"/>'
        mask = mask_of(tmp_path, code)
        assert (mask[4:13, 8:21] == wanted).all()
        assert mask.sum() == wanted.sum()


# ---- order --------------------------------------------------------------------------------------


def test_the_z_order_decides_what_is_above(tmp_path: Path) -> None:
    small, large = polygon(4, 4, 2, z=0), polygon(2, 2, 9, label="dog", z=1)
    mask = mask_of(tmp_path, small, large)
    assert set(np.unique(mask)) == {0, 2}
    lifted = mask_of(tmp_path, polygon(4, 4, 2, z=2), large)
    assert (lifted == 1).sum() == 9


@pytest.mark.parametrize("z", [None, 0, -3])
def test_within_one_layer_the_small_is_above(tmp_path: Path, z: int | None) -> None:
    mask = mask_of(tmp_path, polygon(4, 4, 2, z=z), polygon(2, 2, 9, label="dog", z=z))
    assert (mask == 1).sum() == 9
    assert (mask == 2).sum() == 100 - 9


# ---- classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", ["task", "project", "job"])
def test_classes_follow_the_labels_of_the_file(tmp_path: Path, parent: str) -> None:
    pictures(tmp_path, "a.png")
    shapes = polygon(1, 1, 3, label="cat"), polygon(10, 1, 3, label="zebra")
    labels = ("zebra", "unused", "cat")
    write(tmp_path / "annotations.xml", image(*shapes), labels=labels, parent=parent)
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "zebra", "cat")
    assert found.class_list.values == (0, 1, 2)
    assert found.left_out == ("left out: labels that no shape has: unused",)
    assert pixels(found.pairs[0])[2, 2] == 2
    assert found.ignore_values == ()


def test_labels_that_the_file_does_not_list_come_last(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    shapes = polygon(1, 1, 3, label="new"), polygon(10, 1, 3, label="dog")
    write(tmp_path / "annotations.xml", image(*shapes))
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "dog", "new")


def test_a_label_called_background_is_background(tmp_path: Path) -> None:
    mask = mask_of(tmp_path, polygon(1, 1, 9), polygon(3, 3, 2, label="background"))
    assert mask[4, 4] == 0
    assert mask.sum() == 100 - 9


def test_umlauts_in_labels_are_kept(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path / "annotations.xml", image(polygon(1, 1, 3, label="Käfer")), labels=("Käfer",))
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "Käfer")


# ---- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "listed"),
    [
        ("images/a.png", "a.png"),
        ("a.png", "a.png"),
        ("images/sub/a.png", "sub/a.png"),
        ("images/Train/a.png", "a.png"),
    ],
)
def test_images_are_found_by_their_names(tmp_path: Path, where: str, listed: str) -> None:
    pictures(tmp_path, where)
    write(tmp_path / "annotations.xml", image(polygon(1, 1, 3), name=listed))
    found = read(tmp_path)
    assert [pair.image for pair in found.pairs] == [tmp_path / where]
    assert found.findings == ()


def test_missing_images_are_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path / "annotations.xml", image(polygon(1, 1, 3)), image(name="b.png"))
    (finding,) = read(tmp_path).findings
    assert (finding.code, finding.severity, finding.examples) == (
        "missing-images",
        "error",
        ("b.png",),
    )


def test_an_image_without_shapes_is_all_background(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    write(tmp_path / "annotations.xml", image(polygon(1, 1, 3)), image(name="b.png"))
    _, b = read(tmp_path).pairs
    assert (b.sample_id, pixels(b).any(), pixels(b).shape) == ("b", False, (20, 30))


def test_subsets_are_splits(tmp_path: Path) -> None:
    pictures(tmp_path, "images/Train/a.png", "images/Validation/a.png")
    write(
        tmp_path / "annotations.xml",
        image(polygon(1, 1, 3), more='subset="Train"'),
        image(polygon(1, 1, 5), more='subset="Validation"'),
        parent="project",
    )
    train, val = read(tmp_path).pairs
    assert (train.sample_id, train.split, pixels(train).sum()) == ("train/a", "train", 16)
    assert (val.sample_id, val.split, pixels(val).sum()) == ("val/a", "val", 36)


def test_the_subset_default_is_no_split(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path / "annotations.xml", image(polygon(1, 1, 3), more='subset="default"'))
    assert [pair.split for pair in read(tmp_path).pairs] == [None]


def test_one_file_a_split_is_read(tmp_path: Path) -> None:
    pictures(tmp_path, "train/images/a.png", "test/images/b.png")
    write(tmp_path / "train/annotations.xml", image(polygon(1, 1, 3)))
    write(tmp_path / "test/annotations.xml", image(polygon(1, 1, 3, label="dog"), name="b.png"))
    found = read(tmp_path)
    assert [(p.sample_id, p.split) for p in found.pairs] == [("a", "train"), ("b", "test")]
    assert pixels(found.pairs[0]).max() == 1
    assert pixels(found.pairs[1]).max() == 2


def test_two_files_about_one_image_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path / "one.xml", image(polygon(1, 1, 3)))
    write(tmp_path / "two.xml", image(polygon(1, 1, 3)))
    with pytest.raises(DatasetError, match=r"one\.xml and two\.xml both annotate 1 image \(a\.png"):
        read(tmp_path)


def test_an_image_that_is_listed_twice_is_an_error_with_both_ids(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    again = image(polygon(10, 10, 3)).replace('id="0"', 'id="7"')
    write(tmp_path / "annotations.xml", image(polygon(1, 1, 3)), again)
    found = read(tmp_path)
    (error,) = found.findings
    assert (error.code, error.severity) == ("repeated-images", "error")
    assert error.examples == ("a.png in annotations.xml by the ids 0 and 7",)
    assert pixels(found.pairs[0]).sum() == 32


def test_a_mask_wholly_outside_its_picture_is_told(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    mask = '<mask label="cat" rle="0,4" left="40" top="1" width="2" height="2"/>'
    write(tmp_path / "annotations.xml", image(polygon(1, 1, 3), mask))
    (warning,) = read(tmp_path).findings
    assert warning.code == "broken-shapes"
    assert warning.examples == (
        "cat, shape 2 in annotations.xml, a.png: lies outside the picture of 30x20 pixels",
    )


def test_masks_have_no_effect_and_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "annotations.xml", image())
    with pytest.raises(UserError, match="--masks m has no effect"):
        cvat.read(list_tree(tmp_path), None, "m")


# ---- what is not drawn --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ('<points label="cat" points="1.0,1.0;2.0,2.0"/>', "no-segmentation"),
        ('<cuboid label="cat" xtl1="1" ytl1="2"/>', "no-segmentation"),
        ('<skeleton label="cat"><points label="eye" points="1,1"/></skeleton>', "no-segmentation"),
        ('<polygon label="cat" points="1,1;2,2"/>', "broken-shapes"),
        ('<polyline label="cat" points="1,1"/>', "broken-shapes"),
        ('<polygon label="cat" points="1,1;2,2;3,nan"/>', "broken-shapes"),
        ('<polygon label="cat" points="1,1;2,2;3,x"/>', "broken-shapes"),
        ('<polygon label="cat" points="1,1;2,2;3,3;4"/>', "broken-shapes"),
        ('<polygon label="cat" points=""/>', "broken-shapes"),
        ('<polygon label="cat"/>', "broken-shapes"),
        ('<box label="cat" xtl="1" ytl="1" xbr="5"/>', "broken-shapes"),
        ('<box label="cat" xtl="1" ytl="1" xbr="5" ybr="5" rotation="nan"/>', "broken-shapes"),
        ('<ellipse label="cat" cx="1" cy="1" rx="inf" ry="5"/>', "broken-shapes"),
        ('<mask label="cat" rle="1,2" left="1" top="1" width="2" height="2"/>', "broken-shapes"),
        ('<mask label="cat" rle="9,-5" left="1" top="1" width="2" height="2"/>', "broken-shapes"),
        ('<mask label="cat" rle="x" left="1" top="1" width="2" height="2"/>', "broken-shapes"),
        ('<mask label="cat" rle="4" top="1" width="2" height="2"/>', "broken-shapes"),
        (
            '<mask label="cat" rle="99999999999999" left="0" top="0" width="9999999" '
            'height="9999999"/>',
            "broken-shapes",
        ),
        ('<polygon points="1,1;9,1;9,9"/>', "broken-shapes"),
    ],
)
def test_what_cannot_be_drawn_is_named_and_the_rest_is_drawn(
    tmp_path: Path, shape: str, code: str
) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path / "annotations.xml", image(polygon(2, 2, 3), shape))
    found = read(tmp_path)
    assert pixels(found.pairs[0]).sum() == 16
    (finding,) = found.findings
    assert (finding.code, finding.severity, finding.count) == (code, "warning", 1)
    assert ", shape 2 in annotations.xml, a.png: " in finding.examples[0]


def test_points_alone_are_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    points = '<points label="cat" points="1.0,1.0"/>'
    write(tmp_path / "annotations.xml", image(points, points))
    (finding,) = read(tmp_path).findings
    assert (finding.code, finding.severity) == ("no-segmentation", "error")
    assert finding.message == "2 shapes without an outline, left out"
    assert finding.examples == (
        "cat, shape 1 in annotations.xml, a.png: points",
        "cat, shape 2 in annotations.xml, a.png: points",
    )


def test_tags_of_images_are_no_shapes(tmp_path: Path) -> None:
    assert mask_of(tmp_path, polygon(2, 2, 3), '<tag label="good" source="manual"/>').sum() == 16


# ---- files --------------------------------------------------------------------------------------


def test_a_folder_is_recognised_by_the_root_of_its_file(tmp_path: Path) -> None:
    assert cvat.recognise(list_tree(tmp_path)) is None
    path = write(tmp_path / "sub/annotations.xml", image())
    assert cvat.recognise(list_tree(tmp_path)) == "sub/annotations.xml is an XML file of CVAT"
    assert cvat.recognise(list_tree(path)) == "annotations.xml is an XML file of CVAT"


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "annotations.xml")
    assert cvat.recognise(list_tree(tmp_path)) is None


@pytest.mark.parametrize(
    "text",
    [
        "<annotation><filename>a.jpg</filename><object/></annotation>",
        "<annotations><other/></annotations>",
        "<project><annotations><image/></annotations></project>",
        "annotations",
        "",
    ],
)
def test_other_files_are_not_recognised(tmp_path: Path, text: str) -> None:
    (tmp_path / "annotations.xml").write_text(text)
    assert cvat.recognise(list_tree(tmp_path)) is None
    with pytest.raises(DatasetError, match=r"no \.xml file in it is one of CVAT"):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(tmp_path: Path, encoding: str) -> None:
    text = document(image(polygon(1, 1, 3))).replace(
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<?xml version="1.0" encoding="{encoding}"?>'
        '<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]>',
    )
    (tmp_path / "annotations.xml").write_bytes(text.encode(encoding))
    with pytest.raises(DatasetError, match="declares a document type") as caught:
        read(tmp_path)
    assert str(tmp_path / "annotations.xml") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (document(image(polygon(1, 1, 3)))[:-40], r"is no valid XML \(.*line \d+"),
        (document(), "lists no images"),
        (document('<track id="0" label="cat"><box frame="0"/></track>'), "is CVAT for video"),
        (document('<image id="7" width="3" height="3"/>'), "image 7 has no name"),
        (document(image()).replace("utf-8", "utf-99"), "is no valid XML"),
        (document(image(), image()), "has no shape on any image"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value).replace(": annotations.xml", "/annotations.xml")
    assert "\n" not in str(caught.value)


def test_without_a_size_that_of_the_image_counts(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    path = write(tmp_path / "annotations.xml", image(polygon(1, 1, 3)))
    path.write_text(path.read_text().replace('width="30" height="20"', ""))
    assert pixels(read(tmp_path).pairs[0]).shape == (20, 30)
