"""Real pairs in awkward encodings: the pixels of each class are those of their manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets.file_kind import file_kind
from unet_pipeline.datasets.images import decode_mask, read_image, read_mask
from unet_pipeline.datasets.mask_values import find_classes
from unet_pipeline.datasets.scan import MaskScan
from unet_pipeline.datasets.scan.pixels import scan_mask
from unet_pipeline.datasets.value_table import count_values

RealData = Callable[[str], Path]

# What the user must say; the rest is found. Classes are compared by their index where values are
# declared (as in the manifest), by their mask value where they are found.
BLUE, RED = (0, 0, 255), (255, 0, 0)
OPTIONS: dict[str, dict[str, Any]] = {
    "nasa_super1": {"values": [(0, 0, 0), BLUE, RED], "other": 0},
    "crack_001": {"values": [1, 2], "other": 1},
    "ade_ADE_val_00000001": {"ignore_values": [0]},
}
BY_INDEX = ("nasa_super1", "crack_001", "wbc1_001")
INSTANCES = ("stardist_img2d", "stardist_test2d", "dsb_rgba_u16")


def scan_file(path: Path) -> MaskScan:
    data = path.read_bytes()
    return scan_mask(decode_mask(data, source=str(path)), kind=file_kind(data))


@pytest.mark.parametrize(
    "name",
    [
        *INSTANCES,
        *("nasa_super1", "wbc1_001", "voc_2011_000003", "voc_2011_000025"),
        *("voc_npy_2011_000006", "crack_001", "ade_ADE_val_00000001"),
    ],
)
def test_every_encoding_gives_the_pixels_of_its_manifest(real_data: RealData, name: str) -> None:
    root = real_data("formats_zoo")
    entries = json.loads((root / "manifest.json").read_text())
    masks = {entry["name"]: root / entry["mask"] for entry in entries}
    (entry,) = (entry for entry in entries if entry["name"] == name)
    # One mask of 27 numbered nuclei could be classes; with its like it is none
    together = INSTANCES if name in INSTANCES else (name,)
    table = count_values([(other, scan_file(masks[other])) for other in together])
    classes, _ = find_classes(table, source=root, **OPTIONS.get(name, {}))
    mask = read_mask(masks[name], encoding=classes.encoding)
    indices = classes.to_indices(mask, source=name)
    counts = Counter(indices.ravel().tolist())
    void = counts.pop(IGNORE_INDEX, 0)
    by_index = name in (*BY_INDEX, *INSTANCES)
    found = {str(k if by_index else classes.values[k]): n for k, n in counts.items()}
    expected = dict(entry["expected_class_pixels"])
    ignored = "0" if name.startswith("ade") else "-1" if "npy" in name else "255"
    assert void == expected.pop(ignored, 0)
    assert found == expected
    assert read_image(root / entry["image"]).shape[:2] == mask.shape[:2]


def test_all_masks_of_the_nuclei_number_objects(real_data: RealData) -> None:
    folder = real_data("dsb2018_mini")
    paths = sorted((folder / "masks_instance_u16").iterdir())
    table = count_values([(path.stem, scan_file(path)) for path in paths])
    classes, notes = find_classes(table, source=folder)
    assert (classes.values, classes.other) == ((0, 255), 1)
    assert any("up to 369 objects (16-bit)" in note for note in notes)
    for path in paths[:10]:
        mask = read_mask(path)
        np.testing.assert_array_equal(classes.to_indices(mask, source=path.name), mask > 0)
