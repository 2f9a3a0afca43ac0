from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.datasets.exports.cases import blobs, dataset, some_classes
from unet_pipeline.datasets.exports import export


def test_masks_are_indexed_png_in_the_colours_of_their_classes(tmp_path: Path) -> None:
    classes = some_classes(3, void=True)
    mask = blobs((30, 20), 3, void=True)
    export("plain", dataset(tmp_path, {"a": mask}, classes), tmp_path / "out")
    data = (tmp_path / "out" / "train" / "masks" / "a.png").read_bytes()
    assert data[24:26] == bytes([8, 3])  # 8 bits, palette
    with Image.open(tmp_path / "out" / "train" / "masks" / "a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), mask)
        shown = np.asarray(picture.convert("RGB"))
    colors = np.array([*classes.colors, *[(0, 0, 0)] * 252, (255, 255, 255)])
    np.testing.assert_array_equal(shown, colors[mask])


def test_each_split_has_its_folders(tmp_path: Path) -> None:
    masks = {name: blobs((9, 8), 2) for name in ("a", "b/1", "b/2")}
    export("plain", dataset(tmp_path, masks, some_classes(2)), tmp_path / "out")
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert files == {
        *("train/images/a.png", "train/masks/a.png"),
        *("val/images/b/1.png", "val/masks/b/1.png"),
        *("test/images/b/2.png", "test/masks/b/2.png"),
        "classes.txt",
    }


def test_the_class_list_names_void_where_there_is_void(tmp_path: Path) -> None:
    masks = {"a": blobs((9, 8), 2)}
    export("plain", dataset(tmp_path, masks, some_classes(2)), tmp_path / "no")
    export("plain", dataset(tmp_path, masks, some_classes(2, void=True)), tmp_path / "yes")
    assert (tmp_path / "no" / "classes.txt").read_text() == "0 background\n1 thing 1\n"
    assert (tmp_path / "yes" / "classes.txt").read_text().endswith("1 thing 1\n255 void\n")
