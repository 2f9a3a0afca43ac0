from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from tests.datasets.exports.cases import blobs, dataset, some_classes
from unet_pipeline.datasets.exports import export


def written(root: Path, mask: Any, *, count: int = 3, void: bool = False) -> Path:
    manifest = dataset(root, {"a b/c": mask}, some_classes(count, void=void))
    export("coco", manifest, root / "out")
    return root / "out" / "train" / "_annotations.coco.json"


def test_the_reference_reader_decodes_the_same_pixels(tmp_path: Path) -> None:
    mask = blobs((31, 47), 4, void=True)
    path = written(tmp_path, mask, count=4, void=True)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    drawn = np.zeros_like(mask)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        with warnings.catch_warnings():  # its decoder knows NumPy 1 alone
            warnings.simplefilter("ignore")
            inside = coco.annToMask(annotation) > 0
        assert annotation["area"] == inside.sum()
        rows, columns = np.nonzero(inside)
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
        assert not drawn[inside].any(), "annotations overlap"
        drawn[inside] = 255 if annotation["iscrowd"] else annotation["category_id"]
    np.testing.assert_array_equal(drawn, mask)


def test_each_class_is_a_category_with_its_index_for_a_mask_value(tmp_path: Path) -> None:
    mask = blobs((31, 47), 4, void=True)
    mask[np.isin(mask, (1, 3))] = 0
    content = json.loads(written(tmp_path, mask, count=4, void=True).read_text())
    assert content["categories"] == [
        {"id": k, "name": f"thing {k}", "supercategory": "none", "mask_value": k} for k in (1, 2, 3)
    ]


def test_a_background_that_readers_would_not_guess_is_category_0_without_annotations(
    tmp_path: Path,
) -> None:
    for names, expected in (
        (("sky", "cow", "sea"), [(0, "sky", 0), (1, "cow", 1), (2, "sea", 2)]),
        (("cow", "Background", "sea"), [(0, "Background", 1), (1, "cow", 0), (2, "sea", 2)]),
    ):
        manifest = dataset(tmp_path, {"a": blobs((9, 8), 3)}, some_classes(3, names=names))
        export("coco", manifest, tmp_path / names[0])
        path = tmp_path / names[0] / "train" / "_annotations.coco.json"
        content = json.loads(path.read_text())
        categories = content["categories"]
        assert [(c["id"], c["name"], c["mask_value"]) for c in categories] == expected
        assert {a["category_id"] for a in content["annotations"]} == {1, 2}


def test_the_reference_reader_knows_classes_without_pixels(tmp_path: Path) -> None:
    mask = np.zeros((5, 7), dtype=np.uint8)
    mask[2:4, 3] = 2
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(written(tmp_path, mask, count=4)))
    assert coco.getCatIds() == [1, 2, 3]
    assert [c["name"] for c in coco.loadCats([1, 2, 3])] == ["thing 1", "thing 2", "thing 3"]
    assert (len(coco.getAnnIds(catIds=[2])), len(coco.getAnnIds())) == (1, 1)


def test_each_connected_region_is_an_annotation(tmp_path: Path) -> None:
    mask = blobs((40, 50), 3)
    content = json.loads(written(tmp_path, mask).read_text())
    for number in (1, 2):
        _, expected = ndimage.label(mask == number, structure=np.ones((3, 3)))
        found = [a for a in content["annotations"] if a["category_id"] == number]
        assert len(found) == expected > 1


def test_void_is_one_crowd(tmp_path: Path) -> None:
    mask = blobs((40, 50), 3, void=True)
    content = json.loads(written(tmp_path, mask, void=True).read_text())
    (crowd,) = [a for a in content["annotations"] if a["iscrowd"]]
    assert crowd["category_id"] == 1
    assert crowd["area"] == (mask == 255).sum()


def test_the_file_says_which_image_has_which_annotations(tmp_path: Path) -> None:
    masks = {name: blobs((9 + k, 8), 2, seed=k) for k, name in enumerate("abcd")}
    manifest = dataset(tmp_path, masks, some_classes(2), splits=dict.fromkeys(masks, "val"))
    export("coco", manifest, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "val" / "_annotations.coco.json").read_text())
    assert content["images"] == [
        {"id": k, "file_name": f"{name}.png", "width": 8, "height": 8 + k}
        for k, name in enumerate("abcd", start=1)
    ]
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    assert [c["name"] for c in content["categories"]] == ["thing 1"]


@pytest.mark.parametrize("place", [(0, 0), (0, 6), (4, 0), (4, 6), (2, 3)])
def test_a_single_pixel_anywhere_is_coded(place: tuple[int, int], tmp_path: Path) -> None:
    mask = np.zeros((5, 7), dtype=np.uint8)
    mask[place] = 1
    (annotation,) = json.loads(written(tmp_path, mask).read_text())["annotations"]
    assert annotation["bbox"] == [place[1], place[0], 1, 1]
    assert annotation["area"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_codes_are_those_of_the_reference_writer(seed: int, tmp_path: Path) -> None:
    mask = (np.random.default_rng(seed).random((6, 5)) < 0.8).astype(np.uint8)
    mask[-1, -1] = seed % 2  # the last run is of either kind
    content = json.loads(written(tmp_path, mask).read_text())
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    expected = [
        coco_mask.encode(np.asfortranarray(labels == number, dtype=np.uint8))["counts"].decode()
        for number in range(1, count + 1)
    ]
    assert sorted(a["segmentation"]["counts"] for a in content["annotations"]) == sorted(expected)
