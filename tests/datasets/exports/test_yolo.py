from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.datasets.exports.cases import blobs, dataset, indices_of, read_back, some_classes
from unet_pipeline.datasets.encoders import encode_png
from unet_pipeline.datasets.exports import export


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 10**6), st.integers(2, 64), st.integers(2, 64), st.integers(2, 5))
def test_any_mask_of_several_classes_reads_back_the_same(
    tmp_path: Path, seed: int, height: int, width: int, count: int
) -> None:
    root = tmp_path / f"{seed}_{height}_{width}_{count}"
    if root.exists():  # tried before
        return
    mask = np.random.default_rng(seed).integers(0, count, (height, width)).astype(np.uint8)
    mask[0, 0] = 1  # a dataset without any outline is none
    masks = {"noise": mask, "blobs": blobs((height, width), count, seed=seed)}
    manifest = dataset(root, masks, some_classes(count))
    export("yolo", manifest, root / "out")
    found = read_back(root / "out")
    for pair in found.pairs:
        got = indices_of(pair, found, manifest.facts.classes)
        np.testing.assert_array_equal(got, masks[pair.sample_id])


def test_corners_in_wide_pictures_stay_on_their_pixels(tmp_path: Path) -> None:
    mask = np.zeros((2, 20000), dtype=np.uint8)
    mask[0, ::3] = mask[1, 1::7] = 1

    def black(size: tuple[int, int]) -> tuple[str, bytes]:
        return ".png", encode_png(np.zeros(size, dtype=np.uint8))

    manifest = dataset(tmp_path, {"a": mask}, some_classes(2), picture=black)
    export("yolo", manifest, tmp_path / "out")
    found = read_back(tmp_path / "out")
    np.testing.assert_array_equal(indices_of(found.pairs[0], found, manifest.facts.classes), mask)


@pytest.mark.parametrize("to_pixels", [np.rint, np.floor], ids=["rounded", "cut off"])
def test_readers_that_round_and_that_cut_off_paint_the_same(to_pixels, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    mask = blobs((37, 23), 3)
    export("yolo", dataset(tmp_path, {"a": mask}, some_classes(3)), tmp_path / "out")
    drawn = np.zeros_like(mask)
    for line in (tmp_path / "out" / "labels" / "train" / "a.txt").read_text().splitlines():
        number, *corners = map(float, line.split())
        ring = to_pixels(np.array(corners).reshape(-1, 2) * [23, 37])
        cv2.fillPoly(drawn, [ring.astype(np.int32)], int(number) + 1)
    np.testing.assert_array_equal(drawn, mask)


def test_void_becomes_background_and_the_log_says_how_much(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masks = {"a": np.array([[1, 255, 255], [0, 1, 1]], np.uint8), "b": blobs((9, 9), 2)}
    manifest = dataset(tmp_path, masks, some_classes(2, void=True))
    export("yolo", manifest, tmp_path / "out")
    assert "2 void pixels of 1 images become background" in caplog.text
    found = read_back(tmp_path / "out")
    pair = next(pair for pair in found.pairs if pair.sample_id == "a")
    got = indices_of(pair, found, manifest.facts.classes)
    np.testing.assert_array_equal(got, [[1, 0, 0], [0, 1, 1]])


def test_without_void_nothing_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = dataset(tmp_path, {"a": blobs((9, 9), 2)}, some_classes(2, void=True))
    export("yolo", manifest, tmp_path / "out")
    assert not caplog.records


def test_the_label_file_of_background_alone_is_empty(tmp_path: Path) -> None:
    masks = {"a": blobs((9, 9), 2), "b": np.zeros((9, 9), np.uint8)}
    export("yolo", dataset(tmp_path, masks, some_classes(2)), tmp_path / "out")
    assert (tmp_path / "out" / "labels" / "val" / "b.txt").read_bytes() == b""


def test_the_yaml_file_names_the_splits_that_there_are_and_the_classes(tmp_path: Path) -> None:
    masks = {"a": blobs((9, 9), 3), "b": blobs((9, 9), 3)}
    export("yolo", dataset(tmp_path, masks, some_classes(3)), tmp_path / "out")
    content = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert content == {
        "train": "images/train",
        "val": "images/val",
        "nc": 2,
        "names": {0: "thing 1", 1: "thing 2"},
    }
    assert json.dumps(content)  # no types but plain ones
