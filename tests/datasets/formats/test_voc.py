from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unet_pipeline.datasets.formats.contract import Found, list_tree
from unet_pipeline.datasets.formats.voc import FORMAT
from unet_pipeline.errors import DatasetError, UserError

# The first colours of the palette of Pascal VOC, as published, and that of its void
PUBLISHED = [
    *[(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)],
    *[(0, 128, 128), (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0)],
    *[(64, 0, 128), (192, 0, 128), (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0)],
    *[(0, 192, 0), (128, 192, 0), (0, 64, 128)],
]
# Its classes, as published, by their mask values
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
PALETTE = PUBLISHED + [(7, 7, 7)] * (255 - len(PUBLISHED)) + [(224, 224, 192)]


def save_palette(path: Path, values: list[int], palette: list[tuple[int, int, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.resize(np.array(values, dtype=np.uint8), (4, 6)))
    image.putpalette([level for color in palette for level in color])
    image.save(path)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def image(root: Path, name: str) -> None:
    save(root / "JPEGImages" / f"{name}.jpg", np.zeros((4, 6, 3), dtype=np.uint8))


def pair(root: Path, *names: str, values: tuple[int, ...] = (0, 1, 15, 255)) -> None:
    for name in names:
        image(root, name)
        save_palette(root / "SegmentationClass" / f"{name}.png", list(values), PALETTE)


def lists(root: Path, **ids: str) -> None:
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ids.items():
        (folder / f"{name}.txt").write_text("\n".join(text.split()) + "\n")


def read(root: Path) -> Found:
    return FORMAT.read(list_tree(root), None, None)


def splits(found: Found) -> dict[str, str | None]:
    return {p.sample_id: p.split for p in found.pairs}


def codes(found: Found) -> list[tuple[str, str, int, tuple[str, ...]]]:
    return [(f.code, f.severity, f.count, f.examples) for f in found.findings]


def test_the_lists_give_the_splits_and_what_they_do_not_name_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    pair(root, "2007_000001", "2007_000002", "2007_000003", "2007_000004")
    image(root, "2008_000001")
    image(root, "2008_000002")
    lists(
        root,
        train="2007_000002 2007_000001",
        val="2007_000003",
        trainval="2007_000001 2007_000002 2007_000003 2007_000004",
    )
    reason = FORMAT.recognise(list_tree(tmp_path))
    assert reason == "VOCdevkit/VOC2012/ImageSets/Segmentation/ lists the images"
    found = read(tmp_path)
    assert splits(found) == {"2007_000001": "train", "2007_000002": "train", "2007_000003": "val"}
    assert [p.sample_id for p in found.pairs] == sorted(splits(found))
    assert found.pairs[0].image == root / "JPEGImages" / "2007_000001.jpg"
    assert found.pairs[0].mask == root / "SegmentationClass" / "2007_000001.png"
    assert found.left_out == (
        "left out: 3 images that no list names",
        "left out: 1 mask that no list names",
    )
    assert found.findings == ()


def test_masks_of_voc_have_its_classes_and_its_void(tmp_path: Path) -> None:
    pair(tmp_path, "2007_000001", "2011_003276")
    lists(tmp_path, train="2007_000001 2011_003276")
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == CLASSES
    assert found.class_list.values == tuple(range(21))
    assert found.class_list.colors == tuple(PUBLISHED)
    assert found.ignore_values == (255,)


@pytest.mark.parametrize("spoil", ["values", "palette", "names", "grey"])
def test_masks_of_others_in_the_same_layout_do_not_get_the_classes_of_voc(
    tmp_path: Path, spoil: str
) -> None:
    name = "field_01" if spoil == "names" else "2007_000001"
    pair(tmp_path, name, values=(0, 1, 21) if spoil == "values" else (0, 1, 2))
    if spoil == "palette":
        other = [(k, 255 - k, 9) for k in range(256)]
        save_palette(tmp_path / "SegmentationClass" / f"{name}.png", [0, 1], other)
    if spoil == "grey":
        mask = np.resize(np.array([0, 1, 2], dtype=np.uint8), (4, 6))
        save(tmp_path / "SegmentationClass" / f"{name}.png", mask)
    lists(tmp_path, train=name)
    found = read(tmp_path)
    assert found.class_list is None
    assert found.ignore_values == ()


def test_the_name_of_the_folder_tells_too(tmp_path: Path) -> None:
    root = tmp_path / "VOC2007"
    pair(root, "000032")
    lists(root, train="000032")
    for place in (tmp_path, root):
        found = read(place)
        assert found.class_list is not None
        assert found.class_list.names == CLASSES


def test_a_single_list_of_everything_gives_no_splits(tmp_path: Path) -> None:
    pair(tmp_path, "a", "b")
    lists(tmp_path, trainval="a b")
    assert splits(read(tmp_path)) == {"a": None, "b": None}


def test_beside_one_split_the_sum_of_lists_holds_the_other(tmp_path: Path) -> None:
    pair(tmp_path, "a", "b", "c")
    lists(tmp_path, train="a b", trainval="a b c")
    assert splits(read(tmp_path)) == {"a": "train", "b": "train", "c": "val"}


def test_beside_a_test_list_the_sum_of_lists_is_to_train_on(tmp_path: Path) -> None:
    pair(tmp_path, "a", "b", "c")
    lists(tmp_path, trainval="a b", test="c")
    assert splits(read(tmp_path)) == {"a": "train", "b": "train", "c": "test"}


def test_a_test_list_without_masks_is_left_out(tmp_path: Path) -> None:
    pair(tmp_path, "a", "b")
    image(tmp_path, "t")
    lists(tmp_path, train="a", val="b", test="t")
    found = read(tmp_path)
    assert splits(found) == {"a": "train", "b": "val"}
    assert found.left_out == ("left out: 1 image of test, which have no masks at all",)
    assert found.findings == ()


def test_lists_of_other_names_are_left_out_beside_those_of_splits(tmp_path: Path) -> None:
    pair(tmp_path, "a", "b", "c")
    lists(tmp_path, train="a", val="b", trainaug="a c")
    found = read(tmp_path)
    assert splits(found) == {"a": "train", "b": "val"}
    assert "left out: the lists trainaug.txt" in found.left_out


def test_lists_as_labelling_tools_write_them_are_read(tmp_path: Path) -> None:
    pair(tmp_path, "sub/my photo", "b")
    folder = tmp_path / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True)
    (folder / "default.txt").write_bytes(b'\xef\xbb\xbf"sub/my photo"\r\nb\r\n\r\n')
    assert splits(read(tmp_path)) == {"b": None, "sub/my photo": None}


def test_listed_files_that_are_absent_are_errors(tmp_path: Path) -> None:
    pair(tmp_path, "a", "b", "c")
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    (tmp_path / "SegmentationClass" / "c.png").unlink()
    lists(tmp_path, train="a b", val="c")
    found = read(tmp_path)
    assert splits(found) == {"a": "train"}
    assert codes(found) == [
        ("missing-images", "error", 1, ("b",)),
        ("missing-masks", "error", 1, ("c",)),
    ]


def test_an_image_in_two_splits_is_an_error(tmp_path: Path) -> None:
    pair(tmp_path, "a", "b")
    lists(tmp_path, train="a b", val="b")
    assert codes(read(tmp_path)) == [("in-several-splits", "error", 1, ("b",))]


def test_several_years_are_refused_unless_one_has_its_masks(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        pair(tmp_path / year, "2007_000001")
        lists(tmp_path / year, train="2007_000001")
    with pytest.raises(DatasetError, match="several data sets, VOC2007, VOC2012: give"):
        read(tmp_path)
    mask = tmp_path / "VOC2007" / "SegmentationClass" / "2007_000001.png"
    mask.unlink()
    mask.parent.rmdir()
    assert read(tmp_path).pairs[0].mask == (
        tmp_path / "VOC2012" / "SegmentationClass" / "2007_000001.png"
    )


def test_lists_alone_are_refused(tmp_path: Path) -> None:
    lists(tmp_path, train="a")
    with pytest.raises(DatasetError, match="not both JPEGImages/ and SegmentationClass/"):
        read(tmp_path)
    pair(tmp_path, "a")
    lists(tmp_path, train="")
    with pytest.raises(DatasetError, match="name no image"):
        read(tmp_path)
    with pytest.raises(UserError, match="without --images"):
        FORMAT.read(list_tree(tmp_path), "JPEGImages", None)


LABELMAP = (
    "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:10,20,30::\nsky:200,0,0::a,b\n"
)


def test_a_labelmap_gives_colours_for_coloured_masks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path, name)
    # nothing but background: looks grey, and must not decide
    save(tmp_path / "SegmentationClass" / "a.png", np.zeros((4, 6, 3), dtype=np.uint8))
    mask = np.zeros((4, 6, 3), dtype=np.uint8)
    mask[0, 0] = (10, 20, 30)
    save(tmp_path / "SegmentationClass" / "b.png", mask)
    lists(tmp_path, default="a b")
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "road", "sky")
    assert found.class_list.values == ((0, 0, 0), (10, 20, 30), (200, 0, 0))
    assert found.ignore_values == ()


def test_a_labelmap_gives_indices_for_palette_masks(tmp_path: Path) -> None:
    image(tmp_path, "a")
    palette = [(0, 0, 0), (1, 1, 2), (200, 0, 0), (10, 20, 30)] + [(9, 9, 9)] * 252
    save_palette(tmp_path / "SegmentationClass" / "a.png", [0, 2, 3], palette)
    lists(tmp_path, default="a")
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.values == (0, 3, 2)
    assert found.class_list.colors == ((0, 0, 0), (10, 20, 30), (200, 0, 0))
    assert found.ignore_values == (255,)
    (tmp_path / "labelmap.txt").write_text(LABELMAP.replace("200,0,0", "200,0,1"))
    found = read(tmp_path)  # no index has that colour
    assert found.class_list is not None
    assert found.class_list.values is None


def test_a_labelmap_of_greys_gives_the_values_of_grey_masks(tmp_path: Path) -> None:
    image(tmp_path, "a")
    mask = np.resize(np.array([0, 255], dtype=np.uint8), (4, 6))
    save(tmp_path / "SegmentationClass" / "a.png", mask)
    lists(tmp_path, default="a")
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\ncell:255,255,255::\n")
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.values == (0, 255)
    assert found.ignore_values == ()


def test_names_of_classes_count_in_their_order(tmp_path: Path) -> None:
    root = tmp_path / "export"
    pair(root, "a", values=(0, 1, 2, 255))
    lists(root, train="a")
    (tmp_path / "class_names.txt").write_text("__ignore__\n_background_\nroad\nsky\n")
    found = read(tmp_path)
    assert found.class_list is not None
    assert found.class_list.names == ("background", "road", "sky")
    assert found.class_list.values == (0, 1, 2)
    assert found.ignore_values == (255,)


def test_two_folders_without_lists_are_not_recognised(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    assert FORMAT.recognise(list_tree(tmp_path)) is None
    lists(tmp_path, train="a")
    assert FORMAT.recognise(list_tree(tmp_path)) is not None
    assert FORMAT.recognise(list_tree(tmp_path / "JPEGImages" / "a.jpg")) is None


@pytest.mark.parametrize(("line", "told"), [("b.jpg", "without extension"), ("b\t1", "number")])
def test_names_with_an_extension_or_a_number_are_told_how_to_write_them(
    tmp_path: Path, line: str, told: str
) -> None:
    pair(tmp_path, "a", "b")
    lists(tmp_path, train="a")
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text(f"{line}\n")
    findings = read(tmp_path).findings
    assert [f.code for f in findings] == ["missing-images", "missing-masks"]
    assert all(told in f.remedy for f in findings)
