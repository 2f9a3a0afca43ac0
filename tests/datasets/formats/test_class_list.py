"""Files of class names beside the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from unet_pipeline.datasets.formats.class_list import read_class_list


@pytest.mark.parametrize(
    ("name", "text", "names", "values"),
    [
        (
            "classes.txt",
            "0 sky\n1 tall building\n\n11 void\n",
            "sky|tall building|void",
            (0, 1, 11),
        ),
        ("classes.txt", "sky\r\nlayer 1\r\n", "sky|layer 1", None),
        ("classes.txt", "0: sky\n1: road", "sky|road", (0, 1)),
        ("classes.txt", "0,sky\n1,road", "sky|road", (0, 1)),
        (
            "label_colors.txt",
            "64 128 64\tAnimal\n192 0 128\t\tArch way",
            "Animal|Arch way",
            ((64, 128, 64), (192, 0, 128)),
        ),
        (
            "class_dict.csv",
            "name,r,g,b\nAnimal,64,128,64\nArch 2,192,0,128",
            "Animal|Arch 2",
            ((64, 128, 64), (192, 0, 128)),
        ),
        ("classes.txt", "\ufeffid,name\n0,sky\n4,road", "sky|road", (0, 4)),
        ("classes.txt", "0 sky\nroad", "0 sky|road", None),
    ],
)
def test_class_files_are_read_as_people_write_them(
    tmp_path: Path, name: str, text: str, names: str, values: object
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    listed = read_class_list(tmp_path)
    assert listed is not None
    assert listed.names == tuple(names.split("|"))
    assert listed.values == values
    assert listed.source == name


def test_no_class_file_or_an_empty_one_is_no_list(tmp_path: Path) -> None:
    assert read_class_list(tmp_path) is None
    (tmp_path / "classes.txt").write_text("\n")
    assert read_class_list(tmp_path) is None
