from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from unet_pipeline.datasets.formats.catalogue import FORMATS, find_pairs
from unet_pipeline.errors import DatasetError
from unet_pipeline.files import LOCK_NAME


def plain(root: Path) -> Path:
    for name in ("images/a.png", "images/b.png", "masks/a.png", "masks/b.png"):
        (root / name).parent.mkdir(exist_ok=True)
        Image.new("L", (6, 4)).save(root / name)
    return root


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "plain"])
def test_a_format_that_is_not_there_is_refused_with_the_one_that_is(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(DatasetError, match=r"; --format auto takes it for plain$"):
        find_pairs(plain(tmp_path), format_name=name)


def test_a_format_that_recognises_the_source_is_named(tmp_path: Path) -> None:
    (plain(tmp_path) / "pairs.csv").write_text("image,mask\nimages/a.png,masks/a.png\n")
    with pytest.raises(DatasetError, match=r"; --format auto takes it for table$"):
        find_pairs(tmp_path, format_name="coco")


def test_all_formats_that_recognise_the_source_are_named(tmp_path: Path) -> None:
    (plain(tmp_path) / "pairs.csv").write_text("image,mask\nimages/a.png,masks/a.png\n")
    (tmp_path / "x.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(
        DatasetError, match=r"; it could be coco \(x\.json .*\), table \(pairs\.csv"
    ):
        find_pairs(tmp_path, format_name="voc")


def test_a_fault_of_the_right_format_is_told_without_more(tmp_path: Path) -> None:
    (plain(tmp_path) / "x.json").write_text('{"images": [], "annotations": 1, "categories": []}')
    with pytest.raises(DatasetError, match=r"x\.json: has no list .*: it is a number$"):
        find_pairs(tmp_path, format_name="coco")


def test_one_hidden_file_is_told_in_the_singular(tmp_path: Path) -> None:
    (plain(tmp_path) / ".x").touch()
    (tmp_path / "images" / "a.dcm").touch()
    assert [f.message for f in find_pairs(tmp_path).findings] == [
        "1 hidden file is passed over",
        "1 file among the images and masks is neither",
    ]


def test_the_lock_of_our_own_commands_is_not_reported(tmp_path: Path) -> None:
    (plain(tmp_path) / LOCK_NAME).touch()
    assert not find_pairs(tmp_path).findings
