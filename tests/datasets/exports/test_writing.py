from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.datasets.exports.cases import blobs, some_classes
from unet_pipeline.datasets.encoders import encode_lossless
from unet_pipeline.datasets.exports.writing import (
    class_lines,
    file_names,
    indexed_png,
)
from unet_pipeline.datasets.images import decode_image, decode_mask
from unet_pipeline.datasets.manifest import Sample
from unet_pipeline.errors import DatasetError


def named(*ids: str, subfolders: bool = True) -> list[str]:
    samples = [Sample(i, Path("x.png"), Path("y.png"), "train", i, 1, 1) for i in ids]
    return list(file_names(samples, subfolders=subfolders).values())


def test_folders_are_kept_where_they_mean_nothing() -> None:
    assert named("a/1", "b/1", "b/c/2") == ["a/1", "b/1", "b/c/2"]


def test_folders_that_all_ids_share_are_dropped() -> None:
    assert named("x/y/1", "x/y/z/1") == ["1", "z/1"]
    assert named("x/y") == ["y"]


@pytest.mark.parametrize("word", ["val", "Test", "masks", "images", "train_images", "gt"])
def test_folders_that_readers_understand_are_joined(word: str) -> None:
    assert named("a", f"{word}/b") == ["a", f"{word}_b"]


def test_without_subfolders_all_are_joined() -> None:
    assert named("a/1", "b/c/2", subfolders=False) == ["a_1", "b_c_2"]


def test_no_two_names_are_alike_not_even_but_for_case() -> None:
    ids = ("a/1", "a_1", "A_1", "b:1", "b?1")
    assert named(*ids, subfolders=False) == ["a_1", "a_1_2", "A_1_3", "b_1", "b_1_2"]


def test_names_stay_below_the_folder_and_are_never_hidden() -> None:
    assert named("../up", "/root/x", ".hid/y", "__z", "c\\d") == [
        "up",
        "root/x",
        "x.hid/y",
        "x__z",
        "c/d",
    ]


@pytest.mark.parametrize("sample_id", ["..", "/", "./."])
def test_an_id_without_a_name_is_refused(sample_id: str) -> None:
    with pytest.raises(DatasetError, match="is no name for a file"):
        named(sample_id)


@pytest.mark.parametrize("count", [2, 3, 16, 17, 255])
def test_indices_survive_a_palette_of_any_length(count: int) -> None:
    indices = blobs((40, 50), count, void=True)
    found = decode_mask(indexed_png(indices, some_classes(count)), source="x").values
    np.testing.assert_array_equal(found, indices)


def test_a_line_of_the_class_list_is_one_line() -> None:
    classes = some_classes(2, names=("back\nground", " a  b "))
    assert class_lines(classes) == "0 back ground\n1 a b\n"


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pictures_written_anew_keep_every_pixel(channels: int, dtype: type) -> None:
    rng = np.random.default_rng(channels)
    pixels = (rng.random((19, 23, channels)) * 60000).astype(dtype)
    suffix, data = encode_lossless(pixels)
    assert suffix == (".png" if channels in (1, 3) and dtype != np.float32 else ".tif")
    found = decode_image(data, source="x")
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, pixels)
