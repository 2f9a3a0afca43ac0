from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.datasets.exports.cases import blobs, dataset, some_classes
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.exports import export
from unet_pipeline.errors import DatasetError


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_train_and_val_go_to_tr_and_test_to_ts(tmp_path: Path) -> None:
    masks = {name: blobs((9, 8), 2) for name in ("a", "b/1", "b/2", "d")}
    export("nnunet", dataset(tmp_path, masks, some_classes(2)), tmp_path / "out")
    assert names(tmp_path / "out") == {
        *("imagesTr/a_0000.png", "imagesTr/b_1_0000.png", "imagesTr/d_0000.png"),
        *("labelsTr/a.png", "labelsTr/b_1.png", "labelsTr/d.png"),
        *("imagesTs/b_2_0000.png", "labelsTs/b_2.png"),
        *("dataset.json", "splits_final.json"),
    }
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert content["numTraining"] == 3
    assert content["file_ending"] == ".png"
    assert content["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    splits = json.loads((tmp_path / "out" / "splits_final.json").read_text())
    assert splits == [{"train": ["a", "d"], "val": ["b_1"]}]


def test_labels_are_plain_numbers_and_void_is_the_highest(tmp_path: Path) -> None:
    mask = blobs((20, 30), 4, void=True)
    manifest = dataset(tmp_path, {"a": mask}, some_classes(4, void=True))
    export("nnunet", manifest, tmp_path / "out")
    data = (tmp_path / "out" / "labelsTr" / "a.png").read_bytes()
    assert data[24:26] == bytes([8, 0])  # 8 bits, grey: a palette would be read as colours
    expected = np.where(mask == 255, 4, mask)
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "labelsTr" / "a.png"), expected)
    labels = json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "thing 1": 1, "thing 2": 2, "thing 3": 3, "ignore": 4}


def test_channels_beyond_colour_are_a_file_each(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 256, (20, 18, 5), dtype=np.uint8)

    def picture(_: tuple[int, int]) -> tuple[str, bytes]:
        file = io.BytesIO()
        tifffile.imwrite(file, stack, photometric="minisblack", planarconfig="contig")
        return ".tif", file.getvalue()

    masks = {"a": blobs((20, 18), 2)}
    export("nnunet", dataset(tmp_path, masks, some_classes(2), picture=picture), tmp_path / "out")
    for channel in range(5):
        path = tmp_path / "out" / "imagesTr" / f"a_{channel:04}.png"
        np.testing.assert_array_equal(pixels(path), stack[..., channel])


def test_grey_pictures_among_coloured_ones_become_coloured(tmp_path: Path) -> None:
    def picture(size: tuple[int, int]) -> tuple[str, bytes]:
        shape = size if size == (10, 9) else (*size, 3)
        rng = np.random.default_rng(size)
        return ".png", encode_png(rng.integers(0, 256, shape, dtype=np.uint8))

    masks = {"a": blobs((20, 18), 2), "b": blobs((10, 9), 2)}
    manifest = dataset(tmp_path, masks, some_classes(2), picture=picture)
    export("nnunet", manifest, tmp_path / "out")
    written = pixels(tmp_path / "out" / "imagesTr" / "b_0000.png")
    grey = pixels(manifest.samples[1].image)
    np.testing.assert_array_equal(written, np.stack([grey] * 3, axis=2))


def test_a_dataset_of_test_samples_alone_is_refused(tmp_path: Path) -> None:
    manifest = dataset(tmp_path, {"a": blobs((9, 9), 2)}, some_classes(2), splits={"a": "test"})
    with pytest.raises(DatasetError, match="no samples to train on"):
        export("nnunet", manifest, tmp_path / "out")


def test_a_class_called_ignore_is_refused(tmp_path: Path) -> None:
    classes = some_classes(2, names=("background", "ignore"))
    with pytest.raises(DatasetError, match="a class is called 'ignore'"):
        export("nnunet", dataset(tmp_path, {"a": blobs((9, 9), 2)}, classes), tmp_path / "out")
