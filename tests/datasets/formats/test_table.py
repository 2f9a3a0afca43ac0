from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unet_pipeline.datasets.formats.contract import Found, list_tree
from unet_pipeline.datasets.formats.table import FORMAT
from unet_pipeline.errors import DatasetError, UserError


def files(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(path)


def table(root: Path, text: str, name: str = "pairs.csv") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(source: Path) -> Found:
    return FORMAT.read(list_tree(source), None, None)


def faults(found: Found) -> list[tuple[str, int, tuple[str, ...]]]:
    assert {f.severity for f in found.findings} <= {"error"}
    assert all(f.remedy for f in found.findings)
    return [(f.code, f.count, f.examples) for f in found.findings]


def test_the_columns_give_paths_splits_and_groups(tmp_path: Path) -> None:
    files(tmp_path, "img/b10.png", "img/b2.png", "gt/b2_m.png", "gt/x.png")
    path = table(
        tmp_path,
        "image,note,mask,split,group\n"
        "img/b10.png,good,gt/x.png,Training,p1\n"
        "\n"
        "img/b2.png,,gt/b2_m.png,valid,\n",
    )
    for source in (tmp_path, path):
        assert FORMAT.recognise(list_tree(source)) == "pairs.csv has columns for images and masks"
        found = read(source)
        assert [(p.sample_id, p.split, p.group) for p in found.pairs] == [
            ("img/b2", "val", None),
            ("img/b10", "train", "p1"),
        ]
        assert found.pairs[0].image == tmp_path / "img" / "b2.png"
        assert found.pairs[0].mask == tmp_path / "gt" / "b2_m.png"
        assert found.sentence == (
            "2 pairs listed in pairs.csv (columns image, mask, split, group); "
            "splits: train 1, val 1"
        )
        assert found.left_out == ("left out: the columns note",)
        assert found.findings == ()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_spreadsheets_write_is_read(tmp_path: Path, delimiter: str) -> None:
    files(tmp_path, "a, 1.png", "größe.png")
    rows = [["ID", "Image Path", "Label"], ["7", '"a, 1.png"', "größe.png"]]
    text = "\r\n".join(delimiter.join(row) for row in rows) + "\r\n"
    table(tmp_path, "\ufeff" + text, "list.tsv" if delimiter == "\t" else "list.csv")
    assert FORMAT.recognise(list_tree(tmp_path))
    (pair,) = read(tmp_path).pairs
    assert (pair.sample_id, pair.image, pair.mask, pair.split) == (
        "7",
        tmp_path / "a, 1.png",
        tmp_path / "größe.png",
        None,
    )


def test_absolute_paths_and_those_of_windows_are_found(tmp_path: Path) -> None:
    files(tmp_path, "far/scans/a.png", "far/scans/sub/b.png", "t/masks/a.png", "t/masks/b.png")
    table(
        tmp_path / "t",
        "image,mask\n"
        f"{tmp_path}/far/scans/a.png,masks\\a.png\n"
        f"../far/scans/sub/b.png,{tmp_path}/t/masks/b.png\n",
    )
    found = read(tmp_path / "t")
    assert [p.sample_id for p in found.pairs] == ["a", "sub/b"]
    assert found.pairs[1].image == tmp_path / "far" / "scans" / "sub" / "b.png"
    assert [p.mask for p in found.pairs] == [
        tmp_path / "t" / "masks" / name for name in ("a.png", "b.png")
    ]
    assert found.findings == ()


def test_images_of_one_stem_keep_their_extension_as_id(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "a.jpg", "b.png", "m.png")
    table(tmp_path, "image,mask\na.png,m.png\na.jpg,m.png\nb.png,m.png\n")
    assert sorted(p.sample_id for p in read(tmp_path).pairs) == ["a.jpg", "a.png", "b"]


def test_every_faulty_row_is_named_and_left_out(tmp_path: Path) -> None:
    files(tmp_path, *(f"{name}.png" for name in "abcdefghm"))
    table(
        tmp_path,
        "id,image,mask,split\n"
        "1,a.png,m.png,train\n"
        "2,b.png,,train\n"  # row 3
        "3,,m.png,train\n"
        "4,gone.png,m.png,train\n"  # row 5
        "5,c.png,gone/m.png,train\n"
        "6,./a.png,m.png,test\n"  # row 7
        "7,d.png,m.png,dev\n"
        "8,e.png,m.png,\n"  # row 9
        "1,f.png,m.png,val\n",
    )
    found = read(tmp_path)
    assert [p.sample_id for p in found.pairs] == ["1"]
    assert faults(found) == [
        ("unpaired-images", 1, ("row 3: b.png",)),
        ("unpaired-masks", 1, ("row 4: m.png",)),
        ("missing-images", 1, ("row 5: gone.png",)),
        ("missing-masks", 1, ("row 6: gone/m.png",)),
        ("repeated-images", 1, ("row 7: ./a.png",)),
        ("repeated-ids", 1, ("row 10: 1",)),
        ("unknown-splits", 1, ("row 8: dev",)),
        ("rows-without-split", 1, ("row 9: e.png",)),
    ]
    assert found.findings[0].message == "1 of 9 rows has no mask"


def test_a_column_of_empty_splits_is_no_split(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "b.png", "m.png", "n.png")
    table(tmp_path, "image,mask,split\na.png,m.png,\nb.png,n.png\n")
    found = read(tmp_path)
    assert [p.split for p in found.pairs] == [None, None]
    assert found.findings == ()


def test_the_classes_are_those_of_a_file_beside(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "m.png")
    table(tmp_path, "image,mask\na.png,m.png\n")
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    listed = read(tmp_path).class_list
    assert listed is not None
    assert listed.names == ("sky", "sea")


def test_other_tables_are_not_taken_for_pairs(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "m.png")
    for text in ("image ID,class label\n1,2\n", "image,label\na.png,cat\n", "", "image,mask\n"):
        table(tmp_path, text)
        assert FORMAT.recognise(list_tree(tmp_path)) is None
    table(tmp_path, "image,mask\na.png,m.png\n")
    assert FORMAT.recognise(list_tree(tmp_path)) is not None
    (tmp_path / "dataset.yaml").write_text("format: 1\n")  # prepared already
    assert FORMAT.recognise(list_tree(tmp_path)) is None


@pytest.mark.parametrize("row", ["img,1.png,m.png", "a.png,m.png,train,1"])
def test_a_row_with_more_cells_than_the_header_is_told_and_hides_no_table(
    tmp_path: Path, row: str
) -> None:
    files(tmp_path, "a.png", "m.png")
    rows = ["a.png,m.png", row]
    for text in (rows, rows[::-1]):
        path = table(tmp_path, "\n".join(["image,mask", *text]))
        assert FORMAT.recognise(list_tree(tmp_path)) is not None
        number, cells = text.index(row) + 2, row.count(",") + 1
        with pytest.raises(DatasetError, match=f"row {number} has {cells} cells, the header 2"):
            read(path)


def test_empty_cells_behind_a_row_are_no_fault(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "m.png")
    table(tmp_path, "image,mask\na.png,m.png,, ,\n")
    assert len(read(tmp_path).pairs) == 1


def test_a_table_deeper_down_says_nothing(tmp_path: Path) -> None:
    files(tmp_path, "deep/a.png", "deep/m.png")
    table(tmp_path / "deep", "image,mask\na.png,m.png\n")
    assert FORMAT.recognise(list_tree(tmp_path)) is None


def test_of_several_tables_one_has_to_be_given(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "m.png")
    table(tmp_path, "image,mask\na.png,m.png\n", "train.csv")
    table(tmp_path, "image,mask\na.png,m.png\n", "val.csv")
    assert FORMAT.recognise(list_tree(tmp_path)) == (
        "train.csv, val.csv have columns for images and masks"
    )
    with pytest.raises(DatasetError, match=r"several tables list pairs, train\.csv, val\.csv"):
        read(tmp_path)
    assert len(read(tmp_path / "val.csv").pairs) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,mask\na.png,m.png\n", "no column of images among picture, mask: call it image"),
        ("image,class\na.png,1\n", "no column of masks among image, class: call it mask"),
        ("image,mask\n\n", "has a header but no rows"),
        ("image,mask\nm.png,m.png\na,b.png,m.png\n", "row 3 has 3 cells, the header 2"),
        ('image,mask\na.png,"' + "x" * 200_000 + '"\n', "is no table that can be parsed"),
    ],
)
def test_what_cannot_be_parsed_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(DatasetError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_no_table_and_named_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no CSV file here has columns"):
        read(tmp_path)
    table(tmp_path, "image,mask\na.png,m.png\n")
    with pytest.raises(UserError, match="leave out --images and --masks"):
        FORMAT.read(list_tree(tmp_path), "images", None)


def test_no_real_dataset_is_taken_for_a_table(real_data: Callable[[str], Path]) -> None:
    root = real_data("wbc1").parent
    assert (root / "dsb2018_mini" / "index.csv").is_file()
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        assert FORMAT.recognise(list_tree(folder)) is None, folder


def test_a_real_dataset_is_read_by_a_table_of_it(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    root = real_data("wbc1")
    masks = sorted((root / "masks").iterdir())[:20]
    images = {path.stem: path for path in (root / "images").iterdir()}
    rows = [f"{images[mask.stem]};{mask}" for mask in masks if mask.stem in images]
    table(tmp_path, "image;mask\n" + "\n".join(rows))
    found = read(tmp_path)
    assert len(found.pairs) == len(rows) > 0
    assert found.findings == ()
    assert all(p.image.stem == p.mask.stem == p.sample_id for p in found.pairs)  # type: ignore[union-attr]


def test_a_mask_of_two_images_is_a_warning(tmp_path: Path) -> None:
    files(tmp_path, "i/a.png", "i/b.png", "i/c.png", "m/a.png", "m/c.png")
    table(tmp_path, "image,mask\ni/a.png,m/a.png\ni/b.png,m/a.png\ni/c.png,m/c.png\n")
    found = read(tmp_path)
    assert len(found.pairs) == 3
    (finding,) = found.findings
    assert (finding.code, finding.severity) == ("repeated-masks", "warning")
    assert finding.examples == (f"i/b, as i/a: {tmp_path / 'm' / 'a.png'}",)
